"""Files with one JSON record a line, which several commands may add to at once."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any


class Lines:
    """The whole lines of a file, each read once.

    A line is written as a whole, under a lock. If a command was killed in the middle of a line,
    that line has no end yet; the next record ends it, and it stays a line that is no JSON.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._read = 0  # bytes of whole lines

    def new(self) -> list[bytes]:
        """The lines that were added since the last call, without their ends."""
        if not self.path.exists() or self.path.stat().st_size <= self._read:
            return []
        with self.path.open("rb") as file:
            file.seek(self._read)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.splitlines()

    def add(self, record: dict[str, Any]) -> None:
        """Writes a record at the end and makes sure that it is on the disk."""
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":  # a torn line: do not continue it
                    line = b"\n" + line
            left = memoryview(line)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
