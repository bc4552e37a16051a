from __future__ import annotations

import re

import pytest

from tests.examples.conftest import Run

pytest.importorskip("accelerate")


def test_it_is_saved_half_way_and_ends(run_alone: Run) -> None:
    printed = run_alone("accelerate_example", "--epochs", "8", "--history-length", "4")
    epochs = [int(number) for number in re.findall(r"^epoch (\d+):", printed, re.M)]
    assert epochs == [*range(1, 9)]
    assert re.search(r"^memorization point: [3-7]$", printed, re.M)
    assert re.search(r"with AUC 0\.\d+$", printed, re.M)
