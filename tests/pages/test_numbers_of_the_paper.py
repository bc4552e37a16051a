"""Equations and deviations have one number in the pages, in docstrings and in comments."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sgdl_wrap"
COMPUTED = (1, 3, 4, 5, 7, 8, 9, 10, 11, 12, 16)  # by `equations/`


@cache
def numbers(text: str, word: str) -> frozenset[int]:
    """Of "Eq. 7", "Eq. 11, 12", "Eq. 8 and 12" or "Eq. 1 to 4", all that are meant."""
    found: set[int] = set()
    for match in re.finditer(rf"\b{word} (\d+(?:(?:, | and | to )\d+)*)", " ".join(text.split())):
        for part in re.split(", | and ", match[1]):
            first, _, last = part.partition(" to ")
            found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def equations(text: str) -> frozenset[int]:
    return numbers(text, r"Eq\.")


def deviations(text: str) -> frozenset[int]:
    return numbers(text, "[Dd]eviations?")


def rows(page: str, columns: int) -> list[list[str]]:
    """The cells of the page's table, without its head."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in cells if len(row) == columns][2:]


METHOD, DEVIATIONS = rows("method.md", 4), rows("deviations.md", 5)
CODE = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8").replace("#", " ")
    for path in sorted(PACKAGE.rglob("*.py"))
}


def files(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def said(place: str) -> str:
    """The text of a file, or of all files of a folder."""
    return "\n".join(text for name, text in CODE.items() if name.startswith(place))


@pytest.mark.parametrize("row", METHOD, ids=lambda row: row[0])
def test_each_file_and_test_of_the_method_is_there_and_names_the_numbers(row: list[str]) -> None:
    _, cell, places, tests = row
    assert all((ROOT / place).exists() for place in (*files(places), *files(tests)))
    text = "\n".join(map(said, files(places)))
    assert equations(cell) <= equations(text)
    assert deviations(cell) <= deviations(text)


@pytest.mark.parametrize("number", COMPUTED)
def test_each_equation_has_one_file_that_computes_it_which_the_table_names(number: int) -> None:
    folder = "sgdl_wrap/equations/"
    sources = [
        name for name, text in CODE.items() if name.startswith(folder)
        and any(number in equations(line) for line in re.findall(r"Source: (?!ours)(.*)", text))
    ]  # fmt: skip
    named = {place for row in METHOD if number in equations(row[1]) for place in files(row[2])}
    assert sources
    assert set(sources) <= named


def test_deviations_are_numbered_in_order_and_each_is_pinned_by_tests_that_are_there() -> None:
    assert [int(row[0]) for row in DEVIATIONS] == list(range(1, len(DEVIATIONS) + 1))
    for row in DEVIATIONS:
        assert files(row[4])
        assert all((ROOT / test).exists() for test in files(row[4]))


def test_code_and_table_have_each_deviation_and_no_other() -> None:
    listed = {int(row[0]) for row in DEVIATIONS}
    assert deviations("\n".join(CODE.values())) == listed
    assert {n for row in METHOD for n in deviations(row[1])} == listed
