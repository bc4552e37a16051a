"""A file that is replaced at once or not at all, and that is read only if it is whole."""

from __future__ import annotations

import errno
import os
import pickle
import re
import secrets
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from sgdl_wrap.errors import StateError
from sgdl_wrap.saving.archive import NO_DIGEST, asks_for_bytearray, fault_of, write_sealed

_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # Windows has none

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def place_of(path: str | os.PathLike[str]) -> Path:
    """The path, absolute and without links; the file need not be there.

    Raises:
        StateError: it can name no file.
    """
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError, ValueError, TypeError) as error:  # loops, NUL, other types
        raise StateError(
            f"Expected the path of a checkpoint, got {path!r} ({type(error).__name__}: {error}). "
            "Pass the path of a file."
        ) from error


# ------------------------------------------------------------------ writing


def _begins(name: str) -> str:
    """The beginning of a file's name, at most 200 bytes."""
    return os.fsencode(name)[:200].decode(errors="ignore")


def _remedy(reason: BaseException) -> str:
    if isinstance(reason, MemoryError) or getattr(reason, "errno", None) in _FULL:
        return "Make room or choose another folder"
    if isinstance(reason, OSError):
        return "Choose another folder or name"
    return "Save what has a state_dict, generators, tensors and plain values"


def write(place: Path, content: Any) -> None:
    """Writes the file beside its place, reads it back, and renames it.

    Raises:
        StateError: the file of before is as it was; the message says what went wrong.
    """
    mode = _mode_to_keep(place)
    # a name that no other writer takes; file systems end names at 255 bytes
    partial = place.with_name(f"{_begins(place.name)}.partial-{secrets.token_hex(8)}")
    outer = sys.exc_info()[1]  # what the caller handles while it saves
    try:
        with open(partial, "x+b", opener=None if mode is None else _private) as file:
            write_sealed(content, file)
            file.flush()
            os.fsync(file.fileno())
            fault = fault_of(file)
            if fault is not None:
                raise StateError(
                    f"Expected to read back what was written to {place}, got a file {fault}. "
                    "Choose another disk; a file saved there before is as it was."
                )
            _unpickled(file, place, mapped=partial)
        if mode is not None:
            os.chmod(partial, mode)
        os.replace(partial, place)
    except StateError:
        raise
    except Exception as error:
        first = _first_of(error, outer)
        if not isinstance(first, Exception):  # an interrupt while torch wrote
            raise first from None
        reason = first if isinstance(first, OSError) else error
        remedy = _remedy(reason)
        raise StateError(
            f"Expected to write the checkpoint {place}, got {type(reason).__name__}: {reason}. "
            f"{remedy}; a file saved there before is as it was."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    _flush_folder(place.parent)


def _mode_to_keep(place: Path) -> int | None:
    """The permissions of the file that is there; None if there is none."""
    try:
        found = os.stat(place)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # a name too long, a file as folder, a NUL byte
        raise StateError(
            f"Expected to write the checkpoint {place}, got {type(error).__name__}: {error}. "
            "Pass the path of a file."
        ) from error
    _refuse_other_kinds(found, place)
    return stat.S_IMODE(found.st_mode)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)  # nobody reads it who might not read the file of before


def _first_of(error: BaseException, outer: BaseException | None) -> BaseException:
    """What went wrong first: torch closes its archive on the way out, and fails at that too."""
    while error.__context__ is not None and error.__context__ is not outer:
        error = error.__context__
    return error


def _flush_folder(folder: Path) -> None:
    """The renaming itself reaches the disk; where folders cannot be opened, it does in time."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


# ------------------------------------------------------------------ reading


def read(place: Path) -> Any:
    """What :func:`write` was given, tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        StateError: it cannot be read, or is not as :func:`write` left it.
    """
    try:
        _refuse_other_kinds(os.stat(place), place)  # to open a device may do something
        with open(place, "rb", opener=_without_waiting) as file:
            _refuse_other_kinds(os.fstat(file.fileno()), place)
            fault = fault_of(file)
            if fault is not None:
                older = ", or this one with the version of sgdl-wrap that wrote it"
                raise StateError(
                    f"Expected a whole checkpoint, got {place} {fault}. "
                    f"Load another checkpoint{older if fault is NO_DIGEST else ''}."
                )
            return _unpickled(file, place)
    except (FileNotFoundError, StateError):
        raise
    except (OSError, ValueError) as error:
        raise StateError(
            f"Expected to read the checkpoint {place}, got {type(error).__name__}: {error}. "
            "Pass the path of a file that you may read."
        ) from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | _NONBLOCK)  # should a pipe have come there by now


def _refuse_other_kinds(found: os.stat_result, place: Path) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        raise StateError(
            f"Expected the path of a file, got {_KINDS.get(kind, 'something else')} at {place}. "
            "Pass the path of a file."
        )


def _unpickled(file: BinaryIO, place: Path, *, mapped: Path | None = None) -> Any:
    """What torch reads in an archive that is whole; nothing in it is executed.

    Args:
        file: the archive.
        place: its name in messages.
        mapped: its path if it was just written: to try it, tensors need no memory again.
    """
    try:
        named = asks_for_bytearray(file)
        file.seek(0)
        source = file if mapped is None else str(mapped)
        if not named:
            return torch.load(
                source, map_location="cpu", weights_only=True, mmap=mapped is not None
            )
        raise _others_inside("bytearray", place, mapped, "bytes or a tensor in its place")
    except StateError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise _others_inside(
            found[1] if found else "others", place, mapped,
            "what has a state_dict, generators, tensors and plain values; of an array "
            "torch.from_numpy(array)",
        ) from error
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise StateError(
            f"Expected a checkpoint that torch can read, got {type(error).__name__} in {place}: "
            f"{reason} Load another checkpoint."
        ) from error


def _others_inside(kind: str, place: Path, mapped: Path | None, save: str) -> StateError:
    remedy = "Load another checkpoint, or this one with the version of torch that wrote it"
    return StateError(
        f"Expected tensors and plain values alone, got {kind} in {place}; nothing of it was run. "
        f"{remedy if mapped is None else 'Save ' + save}."
    )
