"""torch's zip archive with a SHA-256 of the whole file at its end, and how it is checked.

The digest is the archive's comment, so `torch.load` and `zipfile` read the file as any other.
torch itself compares no checksum and believes every header. So a file is compared with its digest,
and looked through for what torch never writes, before torch reads it.
"""

from __future__ import annotations

import hashlib
import os
import pickletools
import struct
import zipfile
from typing import Any, BinaryIO

import torch

NO_DIGEST = "without its digest: torn, truncated, foreign or of an earlier version"

_MARK = b"sgdl-wrap checkpoint, sha256 "  # then 64 hexadecimal digits, then the file ends
_COMMENT = len(_MARK) + 64
# how torch's archives end: zip64 record (56 bytes), its locator (20), end record (22)
_END = struct.Struct("<4s28x3Q 4s4xQ4x 4s16xH")


def write_sealed(content: Any, file: BinaryIO) -> None:
    """Writes what torch.save writes, and the digest."""
    hashed: Any = _Hashed(file)
    torch.save(content, hashed)
    hashed.end()


class _Hashed:
    """A file for torch.save; hashes what torch writes, not what the disk makes of it.

    The last two bytes are kept back: an archive ends with the length of its comment.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._kept = b""

    def write(self, data: Any) -> int:
        if len(data) < 2:
            whole = self._kept + bytes(data)
            self._put(whole[:-2])
            self._kept = whole[-2:]
        else:
            self._put(self._kept)
            self._put(data[:-2])
            self._kept = bytes(data[-2:])
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def end(self) -> None:
        """Writes the comment in the place of torch's, which is empty."""
        self._put(struct.pack("<H", _COMMENT) + _MARK)
        self._file.write(self._digest.hexdigest().encode())

    def _put(self, data: Any) -> None:
        self._digest.update(data)
        self._file.write(data)


def fault_of(file: BinaryIO) -> str | None:
    """What is wrong with a file, in words that follow its name; None if it is whole."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _COMMENT, 0))
    comment = file.read(_COMMENT)
    if len(comment) < _COMMENT or not comment.startswith(_MARK):
        return NO_DIGEST
    if _digest(file, size - 64) != comment[len(_MARK) :]:
        return "with another digest: changed or damaged since it was written"
    try:  # the rest is for files that were made to be read wrongly
        oddity = _oddity(file, size - _COMMENT)
    except Exception as error:
        oddity = f"{type(error).__name__}: {error}"
    return None if oddity is None else f"that save_checkpoint never writes: {oddity}"


def asks_for_bytearray(file: BinaryIO) -> bool:
    """Whether the pickle in a whole archive names bytearray: `bytearray(2**35)` takes 32 GB."""
    with zipfile.ZipFile(file) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        code = archive.read(name)
    return b"bytearray" in code and any(
        op.name == "GLOBAL" and str(value).endswith(" bytearray")
        for op, value, _ in pickletools.genops(code)
    )


def _digest(file: BinaryIO, size: int) -> bytes:
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (piece := file.read(min(size, 1 << 20))):
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest().encode()


def _oddity(file: BinaryIO, size: int) -> str | None:
    """What torch never writes, in an archive of so many bytes without its comment."""
    file.seek(size - _END.size)
    record, count, length, start, locator, place, end, comment = _END.unpack(file.read(_END.size))
    if (
        (record, locator, end) != (b"PK\6\6", b"PK\6\7", b"PK\5\6")
        or not start + length == place == size - _END.size
        or comment != _COMMENT
    ):
        return "no directory at its end"  # zipfile and torch may find different ones elsewhere
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if len(entries) != count:
        return "another number of entries"
    if sum(entry.file_size for entry in entries) > size:
        return "more content than the file has bytes"
    for entry in entries:
        stored = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1
        if not stored or entry.compress_size != entry.file_size:
            return f"{entry.filename} is compressed or encrypted"
        if entry.is_dir() or entry.external_attr & 0x10:  # torch would skip its data
            return f"{entry.filename} is a folder"
    names = {entry.filename.lower() for entry in entries}  # torch tells no case
    if len(names) < len(entries) or len({name.partition("/")[0] for name in names}) > 1:
        return "names that can be taken for one another"
    if sum(name.endswith("/data.pkl") for name in names) != 1:
        return "not one pickle"
    return None
