"""How large a loss is among others, against counting one by one, and its mean over epochs."""

from __future__ import annotations

import numpy as np
import pytest

from sgdl_wrap.memorization.suspicion import mean_over_epochs, share_smaller, suspicion


def slow_share(values: list[float], groups: list[int], k: int) -> float:
    others = [values[j] for j in range(len(values)) if groups[j] == groups[k] and j != k]
    return sum(x < values[k] for x in others) / max(len(others), 1)


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_what_counting_gives_with_ties_and_single_members(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(9, size=60))
    groups[-1] = 20
    values = rng.integers(6, size=60).astype(np.float64)
    expected = [slow_share(values.tolist(), groups.tolist(), k) for k in range(60)]
    np.testing.assert_allclose(share_smaller(values, groups), expected, rtol=1e-12)


def test_the_docstrings_example() -> None:
    users = np.array([4, 4, 4, 9])
    found = suspicion(np.array([0.0, 2.0, 8.0, 5.0]), users)
    parts = [0 + 0 + 0, 1 / 4 + 1 / 2 + 1 / 3, 1 + 1 + 1, 0 + 0 + 2 / 3]
    np.testing.assert_allclose(found, np.array(parts) / 3)


def test_unknown_losses_count_for_nobody() -> None:
    users = np.array([0, 0, 0, 1, 1])
    losses = np.array([1.0, np.nan, 3.0, 2.0, np.nan])
    found = suspicion(losses, users)
    assert np.isnan(found).tolist() == [False, True, False, False, True]
    known = ~np.isnan(losses)
    np.testing.assert_array_equal(found[known], suspicion(losses[known], users[known]))
    assert np.isnan(suspicion(np.full(3, np.nan), users[:3])).all()


def test_equal_losses_are_no_evidence() -> None:
    assert suspicion(np.full(6, 0.3), np.array([0, 0, 0, 2, 2, 5])).tolist() == [0.0] * 6


def test_the_unit_of_the_loss_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    users, losses = np.sort(rng.integers(8, size=50)), rng.normal(size=50)
    np.testing.assert_allclose(
        suspicion(losses, users), suspicion(losses * 40 - 7, users), rtol=1e-9, atol=1e-12
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
