from __future__ import annotations

import re

import pytest

from tests.examples.conftest import Run

pytest.importorskip("recbole")


def test_both_runs_end_and_suspicion_finds_noise(run_alone: Run) -> None:
    printed = run_alone("recbole_example", "--epochs=6", "--embedding_size=8")
    assert "ndcg@20: plain 0." in printed
    assert "true 0.2" in printed
    auc = re.search(r"with AUC (0\.\d+)", printed)
    assert auc is not None
    assert float(auc[1]) > 0.6  # chance is 0.5
