"""The figures of docs/when_to_use.md are those that the bench measured."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHANGES = re.compile(r"(?<![\d.])[+-]?\d+\.\d(?= ?%)")
AREAS = re.compile(r"(?<![\d.])0?(\.\d{2})(?!\d)")


def rows(page: str) -> list[list[str]]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def number(text: str) -> float:
    return float(re.sub(r"[ %]", "", text))


def test_each_condition_has_the_medians_of_its_cells() -> None:
    named = {
        "none": "clean", "as the data are": "natural", "20 % random pairs put in": "random-20",
        "40 % random pairs": "random-40", "20 % popular pairs": "popular-20",
        "40 % popular pairs": "popular-40",
    }  # fmt: skip
    measured = {row[0]: row for row in rows("bench/results/cells.md") if row[1] == "sgdl"}
    found = {row[0]: row for row in rows("docs/when_to_use.md") if row[0] in named}
    assert found.keys() == named.keys()
    for name, (_, cells, median, least, regained) in found.items():
        _, _, count, changes, shares, *_ = measured[named[name]]
        assert cells == count
        assert [number(median), number(least)] == [
            number(part) for part in re.findall(r"[+-][\d.]+%", changes)
        ]
        if regained:
            assert number(regained) == round(number(shares.partition(" ")[0]))


def test_each_change_by_model_is_one_of_the_cells() -> None:
    text = (ROOT / "docs" / "when_to_use.md").read_text(encoding="utf-8")
    sources = [ROOT / "bench" / "results" / "cells.md", ROOT / "docs" / "noise_share.md"]
    measured = "".join(path.read_text(encoding="utf-8") for path in sources)
    assert {abs(float(one)) for one in CHANGES.findall(text)} <= {
        abs(float(one)) for one in CHANGES.findall(measured)
    }
    assert set(AREAS.findall(text)) <= set(AREAS.findall(measured))
