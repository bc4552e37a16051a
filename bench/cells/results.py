"""Finished runs, a line of JSON each: what is there is not run again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from bench.cells.cell import RunKey
from bench.lines import Lines


class Results:
    """A file of finished runs, which several commands may share.

    If a command was killed in the middle of a line, that line is ignored, and its run is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lines = Lines(path)
        self._found: dict[RunKey, dict[str, Any]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reads what others have added since."""
        for line in self._lines.new():
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
        self._lines.add(record)
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
