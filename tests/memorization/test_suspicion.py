"""How suspicious an epoch makes an interaction, and the mean over epochs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sgdl_wrap.interactions import Interactions
from sgdl_wrap.memorization import suspicion as module
from sgdl_wrap.memorization.suspicion import mean_over_epochs, suspicion

NAN = np.nan


def of(users: np.ndarray) -> Interactions:
    """Interactions of these users, sorted, each with another item."""
    return Interactions(torch.from_numpy(users), torch.arange(len(users)))


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
@pytest.mark.parametrize("seed", range(3))
def test_suspicion_is_what_counting_gives_in_chunks_of_any_size(
    seed: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    rng = np.random.default_rng(seed)
    users = np.sort(np.append(rng.integers(9, size=58), [20, 20]))  # 9 to 19 have none
    losses = rng.choice(rng.exponential(size=30), size=60).astype(np.float32)  # with ties
    losses[rng.random(60) < 0.2] = NAN
    losses[users == 3] = NAN
    percentile = rng.random(60, dtype=np.float32)
    found = suspicion(losses, of(users), percentile)
    for k, value in enumerate(losses.astype(np.float64)):
        own = [x for x in losses[users == users[k]].astype(np.float64) if x == x]
        scaled = NAN if value != value else (value - min(own)) / (max(own) - min(own) or 1)
        assert found[k] == pytest.approx((scaled + percentile[k]) / 2, rel=1e-12, nan_ok=True)


def test_half_is_the_loss_among_the_users_and_half_the_rank() -> None:
    users, losses = np.array([4, 4, 4, 9]), np.array([0.0, 2.0, 8.0, 5.0])
    assert suspicion(losses, of(users)).tolist() == [0.0, 0.25, 1.0, 0.0]
    ranks = np.array([0.5, 0.0, 1.0, 0.25], dtype=np.float32)
    assert suspicion(losses, of(users), ranks).tolist() == [0.25, 0.125, 1.0, 0.125]


def test_unknown_losses_count_for_nobody() -> None:
    users = np.array([0, 0, 0, 1, 1])
    losses, ranks = np.array([1.0, NAN, 3.0, 2.0, NAN]), np.linspace(0, 1, 5)
    for percentile in (None, ranks):
        found = suspicion(losses, of(users), percentile)
        assert np.isnan(found).tolist() == [False, True, False, False, True]
        known = ~np.isnan(losses)
        part = None if percentile is None else percentile[known]
        alone = suspicion(losses[known], of(users[known]), part)
        np.testing.assert_array_equal(found[known], alone)
    assert np.isnan(suspicion(np.full(3, NAN), of(users[:3]), ranks[:3])).all()


def test_equal_losses_are_no_evidence() -> None:
    assert suspicion(np.full(6, 0.3), of(np.array([0, 0, 0, 2, 2, 5]))).tolist() == [0.0] * 6


def test_the_unit_of_the_loss_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    users, losses = np.sort(rng.integers(8, size=50)), rng.normal(size=50)
    np.testing.assert_allclose(
        suspicion(losses, of(users)), suspicion(losses * 40 - 7, of(users)), rtol=1e-9, atol=1e-12
    )


def test_the_mean_over_epochs_is_the_mean() -> None:
    shown = np.random.default_rng(1).random((6, 10))
    mean = np.full(10, NAN)
    for epoch, now in enumerate(shown, 1):
        mean = mean_over_epochs(mean, now, epoch)
    np.testing.assert_allclose(mean, shown.mean(axis=0), rtol=1e-12)


def test_an_epoch_without_an_interaction_leaves_its_mean() -> None:
    mean = mean_over_epochs(np.array([0.5, 0.5, NAN, NAN]), np.array([NAN, 1.0, NAN, 0.25]), 2)
    assert mean[:2].tolist() == [0.5, 0.75]
    assert np.isnan(mean[2])
    assert mean[3] == 0.25
