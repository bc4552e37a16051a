"""The pages in bench/results are what their commands make of the results beside them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from bench.audit import __main__ as audit
from bench.cells import __main__ as cells
from bench.study import __main__ as study
from bench.study import figures, tables

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def commands() -> dict[str, list[str]]:
    """The first command of each page, by the page's name, in words."""
    found = {}
    for page in sorted(RESULTS.glob("[!R]*.md")):  # but for README.md
        command = re.search(r"^```\npython -m (.*)\n```$", text(page), re.MULTILINE)
        if command is not None:
            found[page.stem] = shlex.split(command[1])
    return found


COMMANDS = commands()
OF_STUDY = {"bench.study": study, "bench.study.tables": tables}


def test_there_are_pages_of_each_command() -> None:
    assert {words[0] for words in COMMANDS.values()} == {*OF_STUDY, "bench.audit"}
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("name", [n for n, words in COMMANDS.items() if words[0] in OF_STUDY])
def test_a_table_is_made_again_by_its_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    module, *words = COMMANDS[name]
    assert "--as-recorded" in words
    assert OF_STUDY[module].main([*words, "--report", str(tmp_path / name)]) == 0
    assert text(tmp_path / f"{name}.md") == text(RESULTS / f"{name}.md")


def test_the_page_of_the_audit_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").write_bytes((RESULTS / "audit.jsonl").read_bytes())
    words = COMMANDS["audit"][3:-2]  # between the data and the name of the report
    audit.main(["--only-report", *words, "--report", str(tmp_path / "audit")])
    assert text(tmp_path / "audit.md") == text(RESULTS / "audit.md")


def test_the_page_of_the_figures_is_made_again(tmp_path: Path) -> None:
    committed = RESULTS / "figures"
    (tmp_path / "traces.jsonl").write_bytes((committed / "traces.jsonl").read_bytes())
    page = text(committed / "figures.md")
    command = re.search(r"^python -m bench\.study\.figures .*? --out FOLDER (.*)$", page, re.M)
    assert command is not None
    figures.main(["--only-report", "--out", str(tmp_path), *shlex.split(command[1])])
    assert text(tmp_path / "figures.md") == page
    assert {path.name for path in tmp_path.glob("*.png")} == {
        path.name for path in committed.glob("*.png")
    }


def test_the_page_of_the_cells_is_made_again(tmp_path: Path) -> None:
    runs, report = str(RESULTS / "cells.jsonl"), str(tmp_path / "cells")
    cells.main(["--results", runs, "--only-report", "--report", report])
    assert text(tmp_path / "cells.md") == text(RESULTS / "cells.md")
    assert text(tmp_path / "cells.json") == text(RESULTS / "cells.json")


CONDITIONS = {
    "none put in, natural": "natural", "the clean part alone": "clean",
    "a tenth of the users click at random": "noisy-users",
    **{f"{share} % {kind}": f"{kind}-{share}" for share in (10, 20, 40)
       for kind in ("random", "popular")},
}  # fmt: skip


def test_the_verdicts_are_those_of_the_cells() -> None:
    found: dict[str, dict[str, list[float]]] = {}
    for row in json.loads(text(RESULTS / "cells.json"))["cells"]:
        if row["method"] == "sgdl" and row["data"] == "ml100k":
            models = found.setdefault(row["condition"], {})
            models.setdefault(row["family"], []).append(100 * row["change"])
    page = text(ROOT / "docs" / "results.md")
    rows = re.findall(r"^\| (.*?) \| (\d+) \| (\S+) % \| (\S+) % \|", page, re.MULTILINE)
    assert {CONDITIONS[name] for name, *_ in rows} == set(found)
    for name, models, least, most in rows:
        changes = found[CONDITIONS[name]]
        every = [change for values in changes.values() for change in values]
        assert int(models) == len(changes)
        assert float(least) == pytest.approx(min(every), abs=0.05001)
        assert float(most) == pytest.approx(max(every), abs=0.05001)
