"""Two thousand steps of Phase II leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells its memory")
@pytest.mark.parametrize("case", ["higher", "neumf", "lightgcn"])
def test_two_thousand_steps_grow_neither_memory_nor_objects(case: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.support.soak", case],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    grown = json.loads(ran.stdout)
    assert grown["megabytes"] < 20
    assert grown["objects"] < 100  # of 1,600 steps: far below one a step; sixteen are records
