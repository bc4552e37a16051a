"""How large a loss is among others, against counting one by one, and its mean over epochs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sgdl_wrap.interactions import Interactions
from sgdl_wrap.memorization import suspicion as module
from sgdl_wrap.memorization.suspicion import mean_over_epochs, share_smaller, suspicion


def of(users: np.ndarray) -> Interactions:
    """Interactions of these users, sorted, each with another item."""
    return Interactions(torch.from_numpy(users), torch.arange(len(users)))


def slow_share(values: list[float], groups: list[int], k: int) -> float:
    others = [values[j] for j in range(len(values)) if groups[j] == groups[k] and j != k]
    return sum(x < values[k] for x in others) / max(len(others), 1)


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_what_counting_gives_with_ties_and_single_members(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(9, size=60))
    groups[-1] = 20
    values = rng.integers(6, size=60)
    expected = [slow_share(values.tolist(), groups.tolist(), k) for k in range(60)]
    np.testing.assert_allclose(share_smaller(values, groups), expected, rtol=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
@pytest.mark.parametrize("seed", range(3))
def test_suspicion_is_what_counting_gives_in_chunks_of_any_size(
    seed: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    rng = np.random.default_rng(seed)
    users = np.sort(np.append(rng.integers(9, size=58), [20, 20]))  # 9 to 19 have none
    losses = rng.choice(rng.exponential(size=30), size=60).astype(np.float32)  # with ties
    losses[rng.random(60) < 0.2] = np.nan
    losses[users == 3] = np.nan
    known = np.flatnonzero(~np.isnan(losses))
    values, groups = losses[known].astype(np.float64).tolist(), users[known].tolist()
    found = suspicion(losses, of(users))
    assert np.flatnonzero(~np.isnan(found)).tolist() == known.tolist()
    for k, place in enumerate(known):
        own = [x for x, user in zip(values, groups, strict=True) if user == groups[k]]
        scaled = (values[k] - min(own)) / (max(own) - min(own) or 1)
        shares = slow_share(values, groups, k), slow_share(values, [0] * len(values), k)
        assert found[place] == pytest.approx((scaled + sum(shares)) / 3, rel=1e-12)


def test_the_docstrings_example() -> None:
    users = np.array([4, 4, 4, 9])
    found = suspicion(np.array([0.0, 2.0, 8.0, 5.0]), of(users))
    parts = [0 + 0 + 0, 1 / 4 + 1 / 2 + 1 / 3, 1 + 1 + 1, 0 + 0 + 2 / 3]
    np.testing.assert_allclose(found, np.array(parts) / 3)


def test_unknown_losses_count_for_nobody() -> None:
    users = np.array([0, 0, 0, 1, 1])
    losses = np.array([1.0, np.nan, 3.0, 2.0, np.nan])
    found = suspicion(losses, of(users))
    assert np.isnan(found).tolist() == [False, True, False, False, True]
    known = ~np.isnan(losses)
    np.testing.assert_array_equal(found[known], suspicion(losses[known], of(users[known])))
    assert np.isnan(suspicion(np.full(3, np.nan), of(users[:3]))).all()


def test_equal_losses_are_no_evidence() -> None:
    assert suspicion(np.full(6, 0.3), of(np.array([0, 0, 0, 2, 2, 5]))).tolist() == [0.0] * 6


def test_the_unit_of_the_loss_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    users, losses = np.sort(rng.integers(8, size=50)), rng.normal(size=50)
    np.testing.assert_allclose(
        suspicion(losses, of(users)), suspicion(losses * 40 - 7, of(users)),
        rtol=1e-9, atol=1e-12,
    )


def test_the_mean_over_epochs_is_the_mean() -> None:
    shown = np.random.default_rng(1).random((6, 10))
    mean = np.full(10, np.nan)
    for epoch, now in enumerate(shown, 1):
        mean = mean_over_epochs(mean, now, epoch)
    np.testing.assert_allclose(mean, shown.mean(axis=0), rtol=1e-12)


def test_an_epoch_without_an_interaction_leaves_its_mean() -> None:
    nan = np.nan
    mean = mean_over_epochs(np.array([0.5, 0.5, nan, nan]), np.array([nan, 1.0, nan, 0.25]), 2)
    assert mean[:2].tolist() == [0.5, 0.75]
    assert np.isnan(mean[2])
    assert mean[3] == 0.25
