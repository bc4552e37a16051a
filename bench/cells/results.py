"""Finished runs, a line of JSON each: what is there is not run again."""

from __future__ import annotations

import fcntl
import json
import math
import os
from pathlib import Path
from typing import Any

from bench.cells.cell import RunKey


class Results:
    """A file of finished runs.

    A line is written as a whole, under a lock, so several commands may share a file. If a command
    was killed in the middle of a line, that line is ignored, and its run is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._found: dict[RunKey, dict[str, Any]] = {}
        self._read = 0  # bytes of whole lines
        self.refresh()

    def refresh(self) -> None:
        """Reads what others have added since."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                record = json.loads(line)
                key, result = RunKey(**record["run"]), record["result"]
            except (ValueError, KeyError, TypeError):
                continue  # torn: the run is missing
            if "error" not in result:  # older files hold failures, which are made again
                self._found[key] = result

    def get(self, run: RunKey) -> dict[str, Any] | None:
        """The result of a run, None if it is missing."""
        return self._found.get(run)

    def put(self, run: RunKey, result: dict[str, Any], provenance: dict[str, str]) -> None:
        """Adds a finished run, with the versions it came from."""
        record = {"run": run.as_dict(), "result": _plain(result), "provenance": provenance}
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
        self._found[run] = record["result"]

    def all(self) -> dict[RunKey, dict[str, Any]]:
        """Every finished run."""
        return dict(self._found)


def _plain(value: Any) -> Any:
    """Plain containers, six digits of every number, None for NaN and infinity."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
