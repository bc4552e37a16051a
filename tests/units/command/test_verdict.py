"""Folds, scaled probabilities, suspects and Wilson's interval."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score
from torch import Tensor

from sgdl_wrap.command.instrument import Plan
from sgdl_wrap.command.verdict import share_and_interval, suspects
from sgdl_wrap.command.watching import fold_numbers, scaled, watch


def test_the_pairs_of_a_user_are_spread_evenly_over_the_folds() -> None:
    users = np.repeat(np.arange(200), np.random.default_rng(0).integers(1, 12, 200))
    folds = fold_numbers(users, 4, np.random.default_rng(0))
    counts = np.zeros((200, 4), dtype=int)
    np.add.at(counts, (users, folds), 1)
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()
    assert (np.bincount(folds) > 0.2 * len(users)).all()


class Watcher:
    """In the denoiser's place: suspects what it was trained on, and nothing else."""

    history = (SimpleNamespace(noise_share=0.5),)
    noise_share = (0.4, 0.65)

    def __init__(self, *_: Any, interactions: tuple[Tensor, Tensor], **__: Any) -> None:
        self._pairs = [values.numpy() for values in interactions]
        self._seen: set[tuple[int, int]] = set()

    def before_step(self, batch: tuple[Tensor, ...]) -> None:
        self._seen |= set(zip(batch[0].tolist(), batch[1].tolist(), strict=True))

    def step(self, batch: object) -> None:
        pass

    def end_epoch(self) -> None:
        pass

    def report(self) -> np.ndarray:
        kinds = [("user", int), ("item", int), ("suspicion", "f4"), ("noise_posterior", "f4")]
        rows = np.zeros(len(self._pairs[0]), dtype=kinds)
        rows["user"], rows["item"] = self._pairs
        pairs = zip(*self._pairs, strict=True)
        rows["suspicion"] = [(int(u), int(i)) in self._seen for u, i in pairs]
        return rows[::-1]


@pytest.mark.parametrize(("folds", "trained_on_itself"), [(1, True), (2, False), (4, False)])
def test_no_pair_is_judged_by_a_model_that_was_trained_on_it(
    monkeypatch: pytest.MonkeyPatch, folds: int, trained_on_itself: bool
) -> None:
    monkeypatch.setattr("sgdl_wrap.command.watching.SelfGuidedDenoiser", Watcher)
    users, items = np.repeat(np.arange(30), 6), np.tile(np.arange(6), 30)
    found = watch(users, items, folds=folds, passes=1)
    assert (found.suspicion == trained_on_itself).all()
    assert (found.share, found.interval) == (0.5, (0.4, 0.65))


def test_evidence_on_users_of_few_clicks_needs_folds() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(1500), 5)
    noisy = rng.random(len(users)) < 0.2
    tastes = (users + noisy * rng.integers(1, 6, len(users))) % 6
    items = 40 * tastes + rng.integers(40, size=len(users))
    _, first = np.unique(users * 240 + items, return_index=True)
    users, items, noisy = users[first], items[first], noisy[first]
    assert len(np.unique(items)) == 240
    in_sample, out_of_sample = (
        watch(users, items, folds=folds, passes=15).suspicion for folds in (1, 4)
    )
    assert roc_auc_score(noisy, out_of_sample) > roc_auc_score(noisy, in_sample) + 0.05


def test_probabilities_are_scaled_to_the_share() -> None:
    p = np.array([0.9, 0.5, 0.1, 0.0, np.nan], dtype=np.float32)
    found = scaled(p, 0.5)
    assert np.nanmean(found) == pytest.approx(0.5, abs=1e-3)
    assert found[0] == 1.0
    assert (np.diff(found[:4]) <= 0).all()
    assert np.isnan(found[4])
    assert (scaled(p * 0, 0.5)[:4] == 0).all()


def test_suspects_are_the_most_probable_and_of_equal_ones_the_most_suspicious() -> None:
    suspicion = np.array([0.2, 0.9, 0.8, np.nan, 0.7, 0.1], dtype=np.float32)
    probability = np.array([0.5, 0.0, 0.0, np.nan, 0.4, 0.0], dtype=np.float32)
    assert suspects(suspicion, probability, 0.6).tolist() == [True, True, False, False, True, False]
    assert not suspects(suspicion, probability, 0.0).any()
    assert suspects(suspicion, probability, 1.0).tolist() == [True, True, True, False, True, True]


@pytest.mark.parametrize(("k", "n"), [(0, 5), (5, 5), (3, 17), (40, 400)])
def test_the_interval_is_wilsons(k: int, n: int) -> None:
    p, low, high = share_and_interval(np.array([float(k)]), np.array([float(n)]))
    known = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert p[0] == k / n
    assert (low[0], high[0]) == pytest.approx((known.low, known.high), abs=1e-4)


def test_a_share_of_nothing_is_unknown() -> None:
    assert np.isnan(share_and_interval(np.zeros(1), np.zeros(1))).all()


@pytest.mark.parametrize(
    ("pairs", "batch", "passes"),
    [(500, 256, 15), (200_000, 2048, 15), (1_000_000, 8192, 10), (10_000_000, 8192, 5)],
)
def test_the_plan_follows_the_number_of_pairs(pairs: int, batch: int, passes: int) -> None:
    assert Plan.of(pairs) == Plan(batch, passes)
