"""Checkpoint files that save_checkpoint would not write, with a digest that fits.

The format in short: what torch.save writes; in the place of the last two bytes, the length of the
comment; the comment, which is a marker and the SHA-256 of all bytes before the digits.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MARK = b"sgdl-wrap checkpoint, sha256 "


def crafted(place: Path, content: Any) -> None:
    """A file of any content."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with_digest(place, buffer.getvalue())


def with_digest(place: Path, archive: bytes) -> None:
    """An archive without a comment, as a file that passes for whole."""
    whole = archive[:-2] + struct.pack("<H", len(MARK) + 64) + MARK
    place.write_bytes(whole + hashlib.sha256(whole).hexdigest().encode())


def without_digest(place: Path) -> bytes:
    """The archive in a file, as torch wrote it."""
    return place.read_bytes()[: -len(MARK) - 66] + b"\0\0"


def with_pickle(place: Path, code: bytes) -> None:
    """A file that save_checkpoint wrote, with another pickle in it.

    The end is torch's own: zip64 records, of which zipfile writes none in a small archive.
    """
    changed(place, lambda name, data: code if name.endswith("/data.pkl") else data)


def changed(
    place: Path,
    change: Callable[[str, bytes], bytes],
    *,
    compressed: bool = False,
) -> None:
    """A file with other entries, stored or deflated, laid out as torch does."""
    with zipfile.ZipFile(io.BytesIO(without_digest(place))) as archive:
        entries = {name: change(name, archive.read(name)) for name in archive.namelist()}
    buffer = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
        start = archive.fp.tell()  # of the directory
    whole = buffer.getvalue()
    length = len(whole) - 22 - start
    record = struct.pack(
        "<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, len(entries), len(entries), length, start
    )
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(whole) - 22, 1)
    with_digest(place, whole[:-22] + record + locator + whole[-22:])
