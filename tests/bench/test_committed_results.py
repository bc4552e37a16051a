"""The pages in bench/results are what their commands make of the results beside them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bench.audit import __main__ as audit
from bench.study import __main__ as study
from bench.study import figures, tables

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def commands() -> dict[str, list[str]]:
    """The first command of each page, by the page's name, in words."""
    found = {}
    for page in sorted(RESULTS.glob("*.md")):
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
