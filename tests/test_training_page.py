"""Every code block of docs/training.md runs, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from sgdl_wrap import EpochRecord
from tests.test_training_features import ITEMS, USERS, Factors, bpr, in_lists

PAGE = Path(__file__).resolve().parents[1] / "docs" / "training.md"


def test_every_code_block_runs_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 5
    with torch.random.fork_rng():
        torch.manual_seed(0)
        names = {
            "model": Factors(), "loss_fn": bpr, "loader": in_lists(0), "users": USERS,
            "items": ITEMS,
        }  # fmt: skip
        for block in blocks:
            exec(compile(block, PAGE.name, "exec"), names)  # it is our own page
    assert names["first_epoch"] == 1
    record = names["record"]
    assert isinstance(record, EpochRecord)
    assert record.skipped == 0
    assert "0 batches left out" in capsys.readouterr().out
    assert [place.name for place in tmp_path.iterdir()] == ["run.pt"]
