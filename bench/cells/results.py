"""Finished runs, a line of JSON each: what is there is not run again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from bench.cells.run import Run, as_dict


class Results:
    """A file of finished runs; a line is written at once, as a whole."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._found: dict[Run, dict[str, Any]] = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                self._found[Run(**record["run"])] = record["result"]

    def get(self, run: Run) -> dict[str, Any] | None:
        """What came of a run; None if it was not made."""
        return self._found.get(run)

    def put(self, run: Run, result: dict[str, Any], provenance: dict[str, str]) -> None:
        """Adds a finished run, with the versions it came from."""
        record = {"run": as_dict(run), "result": result, "provenance": provenance}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_rounded(record)) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)
        self._found[run] = result

    def all(self) -> dict[Run, dict[str, Any]]:
        """Every finished run."""
        return dict(self._found)


def _rounded(value: Any) -> Any:
    """Six digits of every number, in plain containers."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
