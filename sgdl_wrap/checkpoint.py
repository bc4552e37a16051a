"""One file that holds a whole run, written so that no crash and no full disk can lose the last."""

from __future__ import annotations

import copy
import os
import pickle
import re
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sgdl_wrap.denoiser import SelfGuidedDenoiser
from sgdl_wrap.distributed.engine import bare
from sgdl_wrap.errors import DenoiserError, StateError

FORMAT = 1
_MARK = "sgdl_wrap_checkpoint"
_TORN = (zipfile.BadZipFile, EOFError, RuntimeError, OSError, ValueError, KeyError, IndexError)


def save_checkpoint(path: str | os.PathLike[str], /, **parts: Any) -> None:
    """Saves everything a run needs to go on; the file is the old one or the new one, never half.

        save_checkpoint("run.pt", denoiser=denoiser, model=model, optimizer=optimizer,
                        random=torch.default_generator, epoch=epoch)

    It is written beside its place as ``path + ".partial"``, flushed to the disk, read back, and
    then renamed. ``torch.load(path, weights_only=True)`` reads it too.

    Args:
        path: the file.
        parts: what has a ``state_dict()`` (model, optimizers, schedulers, the denoiser) is saved
            by it, a model without the prefixes of DistributedDataParallel and torch.compile, a
            ``torch.Generator`` by its state, a number of numpy as a plain one, all else as it is:
            tensors and plain values.

    Raises:
        StateError: a part that could not be read back without running code, or a failure to
            write; the file of before is whole.
        OrderError: between before_step and step.
    """
    whole = {
        _MARK: FORMAT,
        "parts": {name: _state(part) for name, part in parts.items()},
    }
    place = Path(path).resolve()
    partial = place.with_name(place.name + ".partial")  # one name: a killed run leaves one at most
    try:
        with open(partial, "wb") as file:
            torch.save(whole, file)
            file.flush()
            os.fsync(file.fileno())
        _read(partial, mmap=True)
        os.replace(partial, place)
    except (OSError, RuntimeError, TypeError, AttributeError, pickle.PickleError) as error:
        # torch closes its archive on the way out, and fails at that too
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise StateError(
            f"Expected to write the checkpoint {place}, got {type(reason).__name__}: {reason}. "
            "Make room or choose another folder; a file saved there before is as it was."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    _flush_folder(place.parent)


def load_checkpoint(path: str | os.PathLike[str], /, **parts: Any) -> dict[str, Any]:
    """Puts a run back to where `save_checkpoint` saw it; all of it or, on an error, nothing.

        epoch = load_checkpoint("run.pt", denoiser=denoiser, model=model, optimizer=optimizer,
                                random=torch.default_generator)["epoch"]

    Nothing in the file is executed.

    Args:
        path: the file.
        parts: objects that take their state back, by the names they were saved under.

    Returns:
        Everything in the file that no object here took, tensors on the CPU.

    Raises:
        StateError: a torn, truncated or foreign file, a part that is not in it, or the state of
            another data set, model, configuration or version; nothing was changed.
        DenoiserError: a part without load_state_dict.
        FileNotFoundError: there is no such file.
        OrderError: between before_step and step.
    """
    place = Path(path).resolve()
    states = _read(place)
    missing = sorted(parts.keys() - states.keys())
    if missing:
        raise StateError(
            f"Expected {', '.join(missing)} in the checkpoint {place}, got only "
            f"{', '.join(sorted(states))}. Load by the names it was saved under."
        )
    for name, part in parts.items():
        if not isinstance(part, torch.Generator) and not hasattr(part, "load_state_dict"):
            raise DenoiserError(
                f"Expected objects with load_state_dict, got {type(part).__name__} as {name}. "
                "Take plain values from what load_checkpoint returns."
            )
    # the denoiser first: it knows best whether the file is another run's
    names = sorted(parts, key=lambda name: not isinstance(parts[name], SelfGuidedDenoiser))
    before = {name: copy.deepcopy(_state(parts[name])) for name in names}
    touched = []
    try:
        for name in names:
            touched.append(name)
            _restore(parts[name], states[name])
    except Exception as error:
        for name in touched:
            _restore(parts[name], before[name])
        if not isinstance(error, (*_TORN, TypeError, AttributeError)):
            raise
        raise StateError(
            f"Expected the {name} of the checkpoint {place} to fit, got {type(error).__name__}: "
            f"{error} Load it into the objects it was saved from."
        ) from error
    return {name: state for name, state in states.items() if name not in parts}


def _state(part: Any) -> Any:
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, nn.Module):
        return bare(part).state_dict()  # keys without the prefixes of what is around it
    return part.state_dict() if hasattr(part, "state_dict") else _plain(part)


def _plain(value: Any) -> Any:
    """Numbers of numpy as Python's, in containers too: the best NDCG so far is often one."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {name: _plain(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(part) for part in value)
    return value


def _restore(part: Any, state: Any) -> None:
    if isinstance(part, torch.Generator):
        part.set_state(state)
    elif isinstance(part, nn.Module):
        bare(part).load_state_dict(state)
    else:
        part.load_state_dict(state)


def _read(place: Path, *, mmap: bool = False) -> dict[str, Any]:
    """The parts of a file that is whole: every checksum of its zip archive is compared."""
    with open(place, "rb") as file:  # a missing file is the caller's
        try:
            with zipfile.ZipFile(file) as archive:  # torch.load compares none
                damaged = archive.testzip()
        except (*_TORN, NotImplementedError) as error:
            raise _broken(place, str(error)) from error
        if damaged is not None:
            raise _broken(place, f"damage in {damaged}")
        file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what a foreign file holds
                source: Any = str(place) if mmap else file
                whole = torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            raise StateError(
                f"Expected tensors and plain values alone, got {found[1] if found else 'others'} "
                f"in {place}; nothing of it was run. Save what has a state_dict, generators, "
                "tensors and plain values; of an array torch.from_numpy(array)."
            ) from error
        except (*_TORN, TypeError, AttributeError) as error:
            raise _broken(place, str(error).partition("\n")[0]) from error
    if not isinstance(whole, dict) or _MARK not in whole or "parts" not in whole:
        raise StateError(
            f"Expected a checkpoint that save_checkpoint wrote, got another file in {place}. "
            "Pass the path that was given to save_checkpoint."
        )
    if whole[_MARK] != FORMAT:
        raise StateError(
            f"Expected checkpoint format {FORMAT}, got {whole[_MARK]} in {place}. "
            "Load it with the version of sgdl-wrap that wrote it."
        )
    parts: dict[str, Any] = whole["parts"]
    return parts


def _broken(place: Path, reason: str) -> StateError:
    return StateError(
        f"Expected a whole checkpoint, got {place} torn, truncated or foreign ({reason}). "
        "Load another checkpoint."
    )


def _flush_folder(folder: Path) -> None:
    """The renaming itself reaches the disk; where folders cannot be opened, it does in time."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
