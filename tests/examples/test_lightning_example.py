from __future__ import annotations

import re

import pytest

from tests.examples.conftest import Run

pytest.importorskip("lightning")


def test_both_runs_end_and_the_denoised_one_switches(run_alone: Run) -> None:
    printed = run_alone("lightning_example", "--epochs", "8", "--history-length", "4")
    plain, denoised = re.findall(r"NDCG@20 (0\.\d+)", printed)
    assert float(plain) > 0.05
    assert float(denoised) > 0.05
    assert plain != denoised
    assert re.search(r"^memorization point: [2-7]$", printed, re.M)
    assert re.search(r"with AUC 0\.\d+$", printed, re.M)
