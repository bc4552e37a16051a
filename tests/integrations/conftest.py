"""What tests of several files are given."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.models_zoo import seeded


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with data, where RecBole may write, and nothing of the process is left changed."""
    from tests.integrations.recbole_runs import write_data

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["test"])  # RecBole reads settings from it
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("benchmark", "deterministic"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    write_data(tmp_path)
    with seeded(0):
        yield tmp_path
