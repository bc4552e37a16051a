"""Distances in the place of scores are found by the losses of what they call memorized."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import DenoiserConfig, DenoiserWarning, SelfGuidedDenoiser
from sgdl_wrap.watching.sign import (
    MOST,
    PARTS,
    LossGap,
    compared_users,
    gap_sums,
    loss_gap,
)
from tests.support.models_zoo import seeded

N_USERS, N_ITEMS, EACH = 60, 120, 10
USERS = torch.arange(N_USERS).repeat_interleave(EACH)
ITEMS = (30 * (USERS % 4) + 7 * USERS + torch.arange(EACH).repeat(N_USERS) * 3) % N_ITEMS


class Metric(nn.Module):
    """The squared distance of user and item, or the score that is its opposite."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign
        with seeded(3):
            self.user, self.item = nn.Embedding(N_USERS, 8), nn.Embedding(N_ITEMS, 8)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return self.sign * ((self.user(users) - self.item(items)) ** 2).sum(1)


def hinge(model: Any, batch: Any) -> Tensor:
    """Of metric learning: positives are to be nearer than negatives."""
    users, items, others = batch
    near, far = (model(users, ids) * model.sign for ids in (items, others))
    return F.relu(4 + near - far)


def epochs(denoiser: SelfGuidedDenoiser, number: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(number):
        for rows in torch.randperm(len(USERS), generator=generator).split(100):
            others = torch.randint(N_ITEMS, rows.shape, generator=generator)
            batch = (USERS[rows], ITEMS[rows], others)
            denoiser.before_step(batch)
            denoiser.step(batch)


def wrapped(sign: float, config: DenoiserConfig, **more: Any) -> SelfGuidedDenoiser:
    model = Metric(sign)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    return SelfGuidedDenoiser(
        model, optimizer, hinge, interactions=(USERS, ITEMS), n_items=N_ITEMS, config=config, **more
    )


WARNED = (
    r"^Expected memorized pairs to have lower losses than the others, got them \d\.\d standard "
    r"deviations higher in epoch {}: score_fn or forward may return distances\. Return scores that "
    r"are higher for better items \(-distance\)\.$"
)
QUIET = DenoiserConfig(history_length=4, noise_rate=0.0)  # no switch comes


@pytest.mark.parametrize("config", [QUIET, DenoiserConfig(audit_only=True)], ids=["I", "audit"])
def test_distances_are_doubted_once(config: DenoiserConfig) -> None:
    denoiser = wrapped(1.0, config)
    with pytest.warns(DenoiserWarning, match=WARNED.format(1)) as caught:
        epochs(denoiser, 3)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    again = wrapped(1.0, config)
    again.load_state_dict(denoiser.state_dict())
    epochs(again, 1)  # said before it was saved


@pytest.mark.parametrize("config", [QUIET, DenoiserConfig(audit_only=True)], ids=["I", "audit"])
def test_their_opposites_are_scores(config: DenoiserConfig) -> None:
    epochs(wrapped(-1.0, config), 12)  # warnings are errors
    epochs(wrapped(1.0, config, score_fn=lambda model, users, items: -model(users, items)), 12)


def test_a_model_that_has_learned_nothing_is_not_doubted() -> None:
    for seed in range(20):
        denoiser = wrapped(1.0, QUIET.but(seed=seed))
        denoiser._optimizers[0].param_groups[0]["lr"] = 0.0
        scores = torch.rand(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(seed))
        denoiser._user_code._score_fn = lambda model, u, i, scores=scores: scores[u, i]
        epochs(denoiser, 2)


def test_a_switch_that_never_comes_is_not_answered_by_a_time_out_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    denoiser = wrapped(1.0, QUIET)
    with pytest.warns(DenoiserWarning, match=WARNED.format(1)):
        epochs(denoiser, 30)
    (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert said.startswith("Phase I may never end: after epoch ")
    assert said.endswith(
        " epochs before. Look first whether scores are higher for better items: memorized pairs "
        "had higher losses than the others."
    )


# ------------------------------------------------------------------ the formula


def test_the_gap_is_cohens_d_of_losses_scaled_by_user() -> None:
    rng = np.random.default_rng(0)
    users = np.sort(rng.integers(6, size=90))
    losses = (rng.random(90) * (1 + users)).astype(np.float32)
    losses[rng.random(90) < 0.2] = np.nan
    memorized = rng.random(90) < 0.4
    groups: dict[bool, list[float]] = {True: [], False: []}
    for user in range(6):
        own = [k for k in range(90) if users[k] == user and not np.isnan(losses[k])]
        low, high = min(losses[own]), max(losses[own])
        for k in own:
            scaled = 0.0 if high == low else (float(losses[k]) - low) / (high - low)
            groups[bool(memorized[k])].append(scaled)
    some, others = np.array(groups[True]), np.array(groups[False])
    within = (some.var() * len(some) + others.var() * len(others)) / (len(some) + len(others))
    found = loss_gap(*gap_sums(losses, users, memorized))
    assert (found.memorized, found.others) == (len(some), len(others))
    assert found.effect == pytest.approx((some.mean() - others.mean()) / within**0.5, rel=1e-5)


def test_what_ranks_have_seen_adds_up() -> None:
    rng = np.random.default_rng(1)
    users, losses = np.repeat(np.arange(8), 10), rng.random(80)
    memorized = rng.random(80) < 0.5
    parts = [gap_sums(losses[k], users[k], memorized[k]) for k in (slice(0, 30), slice(30, 80))]
    found = loss_gap(*np.sum(parts, axis=0).tolist())
    assert found.effect == pytest.approx(loss_gap(*gap_sums(losses, users, memorized)).effect)


def test_of_very_many_pairs_some_are_compared_whole_users_from_all_over() -> None:
    sizes = np.random.default_rng(2).integers(0, 60, size=20_000)
    sizes[500:700] = 0
    starts = np.concatenate([[0], np.cumsum(sizes)])
    assert compared_users(starts, (0, 3000)) == [(0, 3000)]
    spans = compared_users(starts, (100, 19_000))
    chosen = sum(int(starts[last] - starts[first]) for first, last in spans)
    assert MOST * 0.97 < chosen < MOST * 1.03
    ends = [100, *(user for span in spans for user in span), 19_000]
    assert ends == sorted(ends)
    assert len(spans) == PARTS
    assert spans[-1][0] > 17_000
    giant = np.array([0, 10, 10 + 2 * MOST, 20 + 2 * MOST])
    assert compared_users(giant, (0, 3)) == [(0, 2)]  # a user is never divided


@pytest.mark.parametrize("all_of_them", [True, False])
def test_without_both_kinds_or_any_loss_there_is_no_gap(all_of_them: bool) -> None:
    memorized = np.full(30, all_of_them)
    users = np.repeat(np.arange(3), 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for losses in (np.arange(30.0), np.full(30, np.nan), np.ones(30)):
            found = loss_gap(*gap_sums(losses, users, memorized))
            assert found.effect == 0
            assert not found.suspect
        mixed = loss_gap(*gap_sums(np.ones(30), users, np.arange(30) < 15))
    assert mixed == LossGap(15, 15, 0.0)


@pytest.mark.parametrize(
    ("gap", "suspect"),
    [
        (LossGap(1000, 1000, 0.41), True),
        (LossGap(1000, 1000, 0.39), False),  # too small, however sure
        (LossGap(1000, 1000, -0.9), False),
        (LossGap(50, 50, 0.9), False),  # 4.5 standard errors
        (LossGap(50, 50, 1.1), True),
        (LossGap(19, 10_000, 3.0), False),
    ],
)
def test_it_takes_size_and_certainty(gap: LossGap, suspect: bool) -> None:
    assert gap.suspect is suspect
