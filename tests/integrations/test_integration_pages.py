"""Every code block of the pages on other frameworks runs, one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from tests.promises.test_training_features import ITEMS, USERS, Factors, bpr, in_lists
from tests.support.models_zoo import seeded

DOCS = Path(__file__).resolve().parents[2] / "docs"

pytestmark = [
    # Lightning asks torch's tree specs by a name that torch has retired
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
]


@pytest.fixture
def _accelerator_reset() -> Iterator[None]:
    pytest.importorskip("accelerate")
    from tests.integrations.accelerate_runs import reset

    reset()
    yield
    reset()


def run_blocks(page: str, expected: int, names: dict[str, Any]) -> dict[str, Any]:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)
    assert len(blocks) == expected
    with seeded(0):
        for block in blocks:
            exec(compile(block, page, "exec"), names)  # it is our own page
    return names


def test_the_page_on_lightning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    with seeded(3):
        net = Factors()
    names = run_blocks("lightning.md", 3, {
        "net": net, "loader": DataLoader(in_lists(0), batch_size=None), "loss_fn": bpr,
        "users": USERS, "items": ITEMS, "__name__": "page",
    })  # fmt: skip
    assert len(names["guided"].denoiser.history) == 4
    assert "4 epochs" in capsys.readouterr().out


@pytest.mark.usefixtures("_accelerator_reset")
def test_the_page_on_accelerate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    with seeded(3):
        model = Factors()
    names = run_blocks("accelerate.md", 2, {
        "model": model, "optimizer": torch.optim.Adam(model.parameters(), lr=0.01),
        "loader": DataLoader(in_lists(0), batch_size=None), "loss_fn": bpr,
        "users": USERS, "items": ITEMS,
    })  # fmt: skip
    assert len(names["denoiser"].history) == 3
    assert "3 epochs" in capsys.readouterr().out
    assert (tmp_path / "run" / "denoiser-0.pt").exists()


def test_the_page_on_hugging_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names = run_blocks("huggingface.md", 3, {"__name__": "page"})
    assert len(names["guided"].denoiser.history) == 4
    assert "4 epochs, the last one after resuming" in capsys.readouterr().out
