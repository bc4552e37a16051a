"""Results of runs in a folder, one JSON file each: what is there is not run again."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from examples.reproduction.run import RunResult
from examples.reproduction.run_settings import RunSettings


class ResultStore:
    """A folder of finished runs. A file appears whole or not at all."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._read: dict[str, RunResult] = {}

    def get(self, settings: RunSettings) -> RunResult | None:
        """The result of a run with just these settings, None where there is none."""
        key = settings.key
        if key not in self._read:
            path = self._path(key)
            if not path.is_file():
                return None
            self._read[key] = RunResult(**json.loads(path.read_text(encoding="utf-8"))["result"])
        return self._read[key]

    def put(
        self, settings: RunSettings, result: dict[str, Any], provenance: dict[str, str]
    ) -> None:
        """Writes a finished run, with the code and the versions that it came from."""
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"settings": asdict(settings), "result": result, "provenance": provenance}
        path = self._path(settings.key)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)

    def provenance(self, settings: RunSettings) -> dict[str, str]:
        """What `put` was told about a finished run."""
        record = json.loads(self._path(settings.key).read_text(encoding="utf-8"))
        provenance: dict[str, str] = record["provenance"]
        return provenance

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"
