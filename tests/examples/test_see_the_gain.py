"""The example that shows the gain: what it counts, and that its chart is drawn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from examples import see_the_gain
from examples.see_the_gain import MatrixFactorization, clicks, hits, in_taste, main
from tests.examples.conftest import Run


def test_two_of_five_clicks_are_random_and_the_truth_tells_them() -> None:
    pairs = clicks(0)
    share = 1 - in_taste(pairs[:, 0], pairs[:, 1]).float().mean().item()
    # repeats of liked items are dropped, so that noise is more of what is left
    assert 0.4 < share < 0.6
    assert len(pairs) == len(pairs.unique(dim=0))


def test_hits_count_recommendations_that_were_not_clicked() -> None:
    model = MatrixFactorization(dim=500)
    users, items = torch.arange(100)[:, None], torch.arange(500)[None, :]
    with torch.no_grad():  # scores are the truth itself
        model.item.weight.copy_(torch.eye(500))
        model.user.weight.copy_(in_taste(users, items).float())
    assert hits(model, torch.tensor([[0, 0]])) == 1.0
    # of user 0 all 50 liked items were clicked: 10 of 1000 recommendations miss
    clicked = torch.stack([torch.zeros(50, dtype=torch.long), torch.arange(50)], 1)
    assert hits(model, clicked) == pytest.approx(0.99)


def test_it_prints_both_and_draws_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(see_the_gain, "EPOCHS", 14)
    with torch.random.fork_rng():
        main(["--seeds", "0", "1", "--chart", str(tmp_path / "gain.svg")])
    printed = capsys.readouterr().out
    assert printed.count("denoised ") >= 3
    assert "mean and deviation: plain " in printed
    assert "\n  next     " in printed
    drawn = (tmp_path / "gain.svg").read_text(encoding="utf-8")
    assert "switch" in drawn
    assert str(tmp_path) not in drawn


def test_a_copy_of_it_shows_the_gain(run_alone: Run) -> None:
    printed = run_alone("see_the_gain", "--seeds", "0")
    found = re.search(r"^seed 0: plain (\d+\.\d)%, denoised (\d+\.\d)%$", printed, re.MULTILINE)
    assert found is not None
    assert float(found[2]) > float(found[1]) + 3
