"""Results of runs in a folder, one JSON file each: what is there is not run again."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.study.run import RunResult
from bench.study.run_settings import RunSettings


class ResultFileError(ValueError):
    """A file of a run that cannot be read."""


class ResultStore:
    """A folder of finished runs. A file appears whole or not at all.

    Raises:
        NotADirectoryError: there is a file in the place of the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(
                f"Expected a folder of results, got the file {folder}. Name another place."
            )
        self._read: dict[str, RunResult] = {}

    def get(self, settings: RunSettings) -> RunResult | None:
        """The result of a run with just these settings, None where there is none.

        One of another revision of the model's or the method's code is none: it is made again.

        Raises:
            ResultFileError: there is a file, damaged or of another kind.
        """
        key = settings.key
        if key not in self._read:
            path = self._path(key)
            if not path.is_file():
                return None
            try:
                record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
                result = RunResult(**record["result"])
                if not _is_current(dict(record.get("revisions", {})), settings):
                    return None
                self._read[key] = result
            except (ValueError, KeyError, TypeError) as error:
                raise ResultFileError(
                    f"Expected a finished run in {path}, got a file that does not read as one "
                    f"({type(error).__name__}: {error}). Delete it, and the run is made again."
                ) from error
        return self._read[key]

    def put(
        self, settings: RunSettings, result: dict[str, Any], provenance: dict[str, str]
    ) -> None:
        """Writes a finished run, with the code and the versions that it came from."""
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {
            "settings": asdict(settings),
            "revisions": settings.revisions,
            "result": result,
            "provenance": provenance,
        }
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


def _is_current(revisions: dict[str, int], settings: RunSettings) -> bool:
    # files older than this entry are of the first revision
    return all(revisions.get(name, 1) == now for name, now in settings.revisions.items())


def _no_number(text: str) -> float:
    raise ValueError(f"{text} among the numbers")
