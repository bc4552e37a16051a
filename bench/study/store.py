"""Results of runs in a folder, a file for each data set and a line a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.lines import Lines
from bench.study.run import RunResult
from bench.study.run_settings import Defaults, RunSettings

DEFAULTS = "defaults.json"
"""The denoiser's defaults at the time of the runs: by kind of loss, then by name."""


class ResultFileError(ValueError):
    """A file of runs that cannot be read."""


class ResultStore:
    """A folder of finished runs: what is there is not run again. A run appears whole or not at all.

    Raises:
        NotADirectoryError: there is a file in the place of the folder.
        ResultFileError: a line is damaged or of another kind.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(
                f"Expected a folder of results, got the file {folder}. Name another place."
            )
        self._files: dict[str, Lines] = {}
        self._n_lines: dict[str, int] = {}
        self._found: dict[str, tuple[RunResult, dict[str, Any]]] = {}
        self._refresh()

    def get(self, settings: RunSettings) -> RunResult | None:
        """The result of a run with just these settings, None where there is none.

        One of another revision of the model's or the method's code is none: it is made again.

        Raises:
            ResultFileError: a line that was added since is damaged or of another kind.
        """
        key = settings.key
        if key not in self._found:
            self._refresh()
        if key not in self._found:
            return None
        result, record = self._found[key]
        return result if _is_current(dict(record.get("revisions", {})), settings) else None

    def put(
        self, settings: RunSettings, result: dict[str, Any], provenance: dict[str, str]
    ) -> None:
        """Adds a finished run, with the code and the versions that it came from."""
        record = {
            "settings": asdict(settings),
            "revisions": settings.revisions,
            "result": result,
            "provenance": provenance,
        }
        # "ml-latest-small/ratings.csv-d86e3a84" is no name of a file
        Lines(self.folder / f"{settings.data.replace('/', '-')}.jsonl").add(record)
        self._refresh()

    def provenance(self, settings: RunSettings) -> dict[str, str]:
        """What `put` was told about a finished run."""
        provenance: dict[str, str] = self._found[settings.key][1]["provenance"]
        return provenance

    def defaults(self) -> Defaults | None:
        """The denoiser's defaults at the time of the runs, None where the folder names none."""
        path = self.folder / DEFAULTS
        if not path.is_file():
            return None
        defaults: Defaults = json.loads(path.read_text(encoding="utf-8"))
        return defaults

    def data_sets(self) -> dict[str, bool]:
        """The data that there are runs on, each with whether its runs know what is noise."""
        found: dict[str, bool] = {}
        for _, record in self._found.values():
            run = record["settings"]
            flagged = run["method"] == "clean_only" or run["condition"] != "natural"
            found[run["data"]] = found.get(run["data"], False) or flagged
        return found

    def _refresh(self) -> None:
        """Reads what was added since, by others too."""
        for path in sorted(self.folder.glob("*.jsonl")):
            lines = self._files.setdefault(path.name, Lines(path))
            for line in lines.new():
                number = self._n_lines[path.name] = self._n_lines.get(path.name, 0) + 1
                try:
                    record = json.loads(line, parse_constant=_no_number)
                    key = RunSettings(**record["settings"]).key
                    dict(record.get("revisions", {})), record["provenance"]
                    self._found[key] = RunResult(**record["result"]), record
                except (ValueError, KeyError, TypeError) as error:
                    raise ResultFileError(
                        f"Expected a finished run in {path}, line {number}, got a line that does "
                        f"not read as one ({type(error).__name__}: {error}). Delete that line, and "
                        "the run is made again."
                    ) from error


def _is_current(revisions: dict[str, int], settings: RunSettings) -> bool:
    # lines older than this entry are of the first revision
    return all(revisions.get(name, 1) == now for name, now in settings.revisions.items())


def _no_number(text: str) -> float:
    raise ValueError(f"{text} among the numbers")
