"""The project's check is its scripts, and the pages quote what they run."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECK = ROOT / ".ci"
BY_HAND = {"minimum"}  # gigabytes of downloads: a job of its own
RUN = (CHECK / "run").read_text(encoding="utf-8")
PARTS = re.findall(r"^for part in (.*); do$", RUN, re.MULTILINE)[0].split()


def lines_of(part: str) -> list[str]:
    return (CHECK / part).read_text(encoding="utf-8").splitlines()


def test_the_check_runs_every_script_that_there_is() -> None:
    scripts = {path.name for path in CHECK.iterdir() if os.access(path, os.X_OK) and path.is_file()}
    assert scripts == {"run", *PARTS} | BY_HAND
    assert len(PARTS) == len(set(PARTS))


@pytest.mark.parametrize("part", PARTS)
def test_a_part_says_what_it_is_and_stops_at_the_first_error(part: str) -> None:
    first, second, *rest = lines_of(part)
    assert first == "#!/usr/bin/env bash"
    assert re.match(r"# [A-Z].*\.$", second)
    assert 'source "$(dirname "$0")/common"' in rest or "set -euo pipefail" in rest


@pytest.mark.parametrize(
    ("page", "part"), [("README.md", "tests"), ("docs/recbole.md", "recbole")]
)
def test_the_command_of_a_page_is_the_command_of_the_check(page: str, part: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    quoted = {line for block in blocks for line in block.splitlines() if " -m venv " in line}
    assert quoted & set(lines_of(part))


def test_what_contributing_says_of_the_check_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`\.ci/(\w+)", text))
    assert named == {"run", *PARTS} | BY_HAND
