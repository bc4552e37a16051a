"""One file that holds a whole run, written so that no crash and no full disk can lose the last."""

from __future__ import annotations

import copy
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sgdl_wrap.denoiser import SelfGuidedDenoiser
from sgdl_wrap.errors import DenoiserError, StateError
from sgdl_wrap.model.engine import bare
from sgdl_wrap.model.untouched import outside_inference_mode
from sgdl_wrap.saving.file import place_of, read, write

FORMAT = 2
_MARK = "sgdl_wrap_checkpoint"


def save_checkpoint(path: str | os.PathLike[str], /, **parts: Any) -> None:
    """Saves everything a run needs to go on; the file is the old one or the new one, never half.

        save_checkpoint("run.pt", denoiser=denoiser, model=model, optimizer=optimizer,
                        random=torch.default_generator, epoch=epoch)

    It is written beside its place under a name of its own, flushed to the disk, read back, and
    then renamed. So several processes may save to one path: each file is whole, and the last
    one stays. A file that is there keeps its permissions. ``torch.load(path, weights_only=True)``
    reads it too.

    A process that is killed while it saves may leave a file whose name is that of ``path``,
    ``.partial-`` and 16 digits. No call reads it. Delete it when nothing saves there any more.

    Args:
        path: the file.
        parts: what has a ``state_dict()`` (model, optimizers, schedulers, the denoiser) is saved
            by it, a model without the prefixes of DistributedDataParallel and torch.compile, a
            ``torch.Generator`` by its state, a number of numpy as a plain one, all else as it is:
            tensors and plain values.

    Raises:
        StateError: a part that could not be read back without running code, a path that can
            name no file, or a failure to write; a file of before is as it was.
        OrderError: between before_step and step.
    """
    states = {name: _state(part) for name, part in parts.items()}
    write(place_of(path), {_MARK: FORMAT, "parts": states})


@outside_inference_mode
def load_checkpoint(path: str | os.PathLike[str], /, **parts: Any) -> dict[str, Any]:
    """Puts a run back to where `save_checkpoint` saw it: all of it, or nothing.

        epoch = load_checkpoint("run.pt", denoiser=denoiser, model=model, optimizer=optimizer,
                                random=torch.default_generator)["epoch"]

    Nothing in the file is executed. After an error or an interrupt (Ctrl-C) every part is as it
    was before the call.

    Args:
        path: the file.
        parts: objects that take their state back, by the names they were saved under.

    Returns:
        Everything in the file that no object here took, tensors on the CPU.

    Raises:
        StateError: a torn, damaged or foreign file, a path that is no file's, a part that is not
            in it, or the state of another data set, model, configuration or version; nothing was
            changed.
        DenoiserError: a part without load_state_dict.
        FileNotFoundError: there is no such file.
        OrderError: between before_step and step.
    """
    place = place_of(path)
    states = _parts_in(place)
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
    rest = {name: state for name, state in states.items() if name not in parts}
    # the denoiser first: it knows best whether the file is another run's
    names = sorted(parts, key=lambda name: not isinstance(parts[name], SelfGuidedDenoiser))
    before = {name: copy.deepcopy(_state(parts[name])) for name in names}
    touched: list[str] = []
    try:
        _restore_all_or_none(parts, states, before, touched)
    except Exception as error:
        raise StateError(
            f"Expected the {touched[-1]} of the checkpoint {place} to fit, got "
            f"{type(error).__name__}: {error} Load it into the objects it was saved from."
        ) from error
    return rest


def _restore_all_or_none(
    parts: dict[str, Any], states: dict[str, Any], before: dict[str, Any], touched: list[str]
) -> None:
    """Parts take `states`; after an error or an interrupt, those touched take `before` again."""
    settled = False
    try:
        try:
            for name in before:
                touched.append(name)
                _restore(parts[name], states[name])
            settled = True
        finally:
            if not settled:
                _put_back(parts, before, touched)
                settled = True
    finally:
        if not settled:  # an interrupt amid putting back what another error had left
            _put_back(parts, before, touched)


def _put_back(parts: dict[str, Any], before: dict[str, Any], names: list[str]) -> None:
    for name in names:
        with suppress(Exception):  # if a part takes no state at all, the others still take theirs
            _restore(parts[name], before[name])


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


def _parts_in(place: Path) -> dict[str, Any]:
    """The parts of the checkpoint."""
    whole = read(place)
    if not isinstance(whole, dict) or _MARK not in whole:
        raise StateError(
            f"Expected a checkpoint that save_checkpoint wrote, got another file in {place}. "
            "Pass the path that was given to save_checkpoint."
        )
    found = whole[_MARK]
    if type(found) is not int or found != FORMAT:
        raise StateError(
            f"Expected checkpoint format {FORMAT}, got {found!r:.20} in {place}. "
            "Load it with the version of sgdl-wrap that wrote it."
        )
    parts = whole.get("parts")
    if not isinstance(parts, dict) or not all(isinstance(name, str) for name in parts):
        raise StateError(
            f"Expected parts by their names in the checkpoint {place}, got others. "
            "Load another checkpoint."
        )
    return parts
