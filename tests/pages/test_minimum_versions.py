"""The lowest versions declared are the ones that .ci/minimum installs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_lower_bounds_declared_are_those_that_are_run() -> None:
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = declared[: declared.index("\ndev = ")].partition("[project]")[2]
    # tools, and frameworks with tests of their own, are not what the tests run with
    own = "lightning|accelerate|huggingface|loggers|recbole|docs"
    declared = re.sub(rf"^({own}) = .*$", "", declared, flags=re.MULTILINE)
    bounds = dict(re.findall(r'"([a-z-]+)>=([\d.]+)"', declared))
    pins = (ROOT / "constraints-minimum.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([a-z-]+)==([\d.]+)$", pins, re.MULTILINE))
    padded = {name: (bound + ".0.0").split(".")[:3] for name, bound in bounds.items()}
    assert pinned == {name: ".".join(parts) for name, parts in padded.items()}


def test_the_lowest_python_declared_is_the_one_that_is_run() -> None:
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (lowest,) = re.findall(r'requires-python = ">=([\d.]+)"', declared)
    assert lowest == "3.10"
    assert "(3, 10)" in (ROOT / ".ci" / "minimum").read_text(encoding="utf-8")
