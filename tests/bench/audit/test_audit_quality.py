"""The comparison of rankings: its measures, its rivals' rules, its tables, and going on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from bench.audit import __main__ as audit_quality
from bench.audit.__main__ import main, markdown, quality
from bench.audit.rivals import DROP_RATES, RivalRankings
from bench.data.planted_preferences import generate
from bench.training.recipes import RECIPES_FOR_GENERATED_DATA


def test_quality_by_hand() -> None:
    noisy = np.array([True, False, True, False, False])
    found = quality(np.array([0.9, 0.8, 0.7, 0.2, 0.1]), noisy)
    assert found == {"auc": pytest.approx(5 / 6), "at_flagged": 0.5, "at_1000": 0.4}


@pytest.mark.parametrize("model", ["lightgcn", "neumf"])
def test_rivals_note_the_last_loss_and_what_t_ce_would_drop(model: str) -> None:
    data = generate(seed=0)
    rng, n = np.random.default_rng(5), len(data.train_users)
    recipe = RECIPES_FOR_GENERATED_DATA[model]
    shown = torch.empty(0)
    rivals = RivalRankings(replace(recipe, loss_fn=lambda model, batch: shown), data)
    dropped = {rate: np.zeros(n) for rate in DROP_RATES}
    last = np.full(n, np.nan)
    for epoch in range(6):
        for part in np.array_split(rng.permutation(n), 10):
            k = len(part)
            third = np.full(k, 3)
            users, items = data.train_users[part], data.train_items[part]
            losses = rng.gamma(1.0, size=k)
            if recipe.pointwise:  # as many negatives, with larger losses, that do not count
                users, items = np.tile(users, 2), np.concatenate([items, items[::-1]])
                third = np.repeat([1.0, 0.0], k)
                losses = np.concatenate([losses, rng.random(k) + 50])
            batch: Any = tuple(torch.from_numpy(x) for x in (users, items, third))
            shown = torch.from_numpy(losses)
            rivals.loss_fn(torch.nn.Identity(), batch)
            rivals.note(batch, float(epoch))
            last[part] = losses[:k]
            for rate in DROP_RATES:  # the ramp is done after five epochs
                n_dropped = int(rate * min(epoch / 5, 1) * k)
                dropped[rate][part[np.argsort(-losses[:k])[:n_dropped]]] += 1
    scores = rivals.scores()
    np.testing.assert_array_equal(scores["loss of the last epoch"], last)
    for rate in DROP_RATES:
        found = scores[f"T-CE, {rate:g}"]
        np.testing.assert_array_equal(np.floor(found * 6 + 1e-9), dropped[rate])
        for share in range(5):  # equal shares are ordered by the last loss
            among = dropped[rate] == share
            assert (np.argsort(found[among]) == np.argsort(last[among])).all()


def row(seed: int, ours: float, t_ce: tuple[float, float, float]) -> dict[str, Any]:
    rankings = dict(zip((f"T-CE, {rate:g}" for rate in DROP_RATES), t_ce, strict=True))
    rankings |= {"suspicion, audit only": ours, "suspicion, denoised": 0.9,
                 "loss of the last epoch": 0.5}
    return {
        "model": "neumf", "condition": "natural", "seed": seed, "epochs": 12, "interactions": 200,
        "flagged": 50, "noise_rate": 0.3, "memorization_point": 6, "provenance": {"commit": "abc"},
        "rankings": {
            name: {"auc": value, "at_flagged": value / 2, "at_1000": value / 4}
            for name, value in rankings.items()
        },
    }  # fmt: skip


def test_tables_show_the_best_t_ce_and_count_what_is_below_ours() -> None:
    lines = markdown([row(0, 0.8, (0.6, 0.7, 0.65)), row(1, 0.7, (0.5, 0.75, 0.6))], "go")
    assert "| suspicion, audit only | 0.750 ± 0.071 | 0.375 ± 0.035 | 0.188 ± 0.018 |  |" in lines
    assert "| T-CE, 0.1 | 0.725 ± 0.035 | 0.362 ± 0.018 | 0.181 ± 0.009 | 1 of 2 |" in lines
    assert "T-CE, 0.05" not in lines
    assert "| suspicion, denoised | 0.900 ± 0.000 | 0.450 ± 0.000 | 0.225 ± 0.000 | 0 of" in lines
    assert "12 epochs, seeds 0, 1; 25.0% are flagged" in lines


def test_the_command_measures_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "new" / "audit"
    words = ["--data", "generated", "--models", "lightgcn", "--conditions", "natural",
             "--seeds", "0", "--epochs", "2", "--report", str(report)]
    main(words)
    found = json.loads(report.with_suffix(".jsonl").read_text())
    assert found["interactions"] == len(generate(seed=0).train_users)
    assert found["rankings"]["suspicion, audit only"]["auc"] > 0.6
    assert found["rankings"]["loss of the last epoch"]["auc"] > 0.55
    assert report.with_suffix(".md").read_text() in capsys.readouterr().out

    monkeypatch.setattr(audit_quality, "measured", None)  # not called again
    main(words)
    assert json.loads(report.with_suffix(".jsonl").read_text()) == found


def test_auc_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    noisy, scores = rng.random(300) < 0.2, rng.random(300)
    assert quality(scores, noisy)["auc"] == roc_auc_score(noisy, scores)
