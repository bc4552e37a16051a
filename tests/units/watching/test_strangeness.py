"""Strangeness against a slow reference that follows its definition user by user."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdl_wrap import ScoreError
from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.watching import strangeness as coherence
from sgdl_wrap.watching.strangeness import Holders, strangeness

N_USERS, N_ITEMS = 23, 17


def made(seed: int, share: float = 0.3) -> tuple[Interactions, torch.Tensor]:
    """Some pairs, every user with at least one, and a score for each pair."""
    rng = np.random.default_rng(seed)
    held = rng.random((N_USERS, N_ITEMS)) < share
    held[np.arange(N_USERS), rng.integers(N_ITEMS, size=N_USERS)] = True
    users, items = np.nonzero(held)
    scores = torch.from_numpy(rng.normal(size=(N_USERS, N_ITEMS))).float()
    return Interactions(users, items, n_items=N_ITEMS), scores


def found_of(
    interactions: Interactions, scores: torch.Tensor, *, seed: int = 0, chunk: int = 64,
    among: tuple[int, int] | None = None,
) -> np.ndarray:
    holders = Holders.of(interactions)
    if among is not None:  # the counts are those of all ranks
        holders = replace(holders, first=among[0], last=among[1])
    return strangeness(
        holders, lambda users, items: scores[users, items],
        generator=torch.Generator().manual_seed(seed), chunk=chunk,
    )  # fmt: skip


def reference(interactions: Interactions, scores: torch.Tensor, seed: int) -> np.ndarray:
    """The definition, with the same draws."""
    generator = torch.Generator().manual_seed(seed)
    users, items = interactions.users.numpy(), interactions.items.numpy()
    seen = np.unique(items)
    probes = np.sort(seen[torch.randperm(len(seen), generator=generator).numpy()])
    strangers = torch.randperm(N_USERS, generator=generator).numpy()
    rows = scores.double().numpy()[:, probes]
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows = rows / np.sqrt((rows**2).mean(axis=1, keepdims=True))
    rows = rows - rows.mean(axis=0)
    profiles = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = []
    for user, item in zip(users, items, strict=True):
        holders = users[items == item]
        others = [u for u in holders if u != user]
        free = [s for s in strangers if s not in holders]
        if not others or not free:
            found.append(np.nan)
            continue
        rest = profiles[others].sum(axis=0)
        ahead = sum(profiles[s] @ rest > profiles[user] @ rest for s in free)
        found.append((ahead + 0.5) / (len(free) + 1))
    return np.array(found)


@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.05, 0.3, 0.9]),
       chunk=st.sampled_from([1, 40, 10_000]))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_strangeness_is_what_its_definition_counts(seed: int, share: float, chunk: int) -> None:
    interactions, scores = made(seed, share)
    found = found_of(interactions, scores, seed=seed, chunk=chunk)
    # a stranger whose cosine equals the user's to rounding may count or not
    np.testing.assert_allclose(
        found, reference(interactions, scores, seed), atol=1.01 / 8, rtol=0
    )
    exact = np.isclose(found, reference(interactions, scores, seed), atol=1e-6, equal_nan=True)
    assert exact.mean() > 0.95


def test_pieces_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    interactions, scores = made(3)
    whole = found_of(interactions, scores)
    monkeypatch.setattr(coherence, "CHUNK", 5)
    np.testing.assert_array_equal(found_of(interactions, scores), whole)


def test_it_is_free_of_what_a_user_or_an_item_gets_from_everyone() -> None:
    interactions, scores = made(5)
    rng = torch.Generator().manual_seed(1)
    scaled = scores * (1 + torch.rand(N_USERS, 1, generator=rng))
    shifted = scaled + torch.randn(N_USERS, 1, generator=rng)
    np.testing.assert_allclose(
        found_of(interactions, shifted), found_of(interactions, scores), atol=1e-6
    )


def test_a_user_like_the_items_others_is_not_strange_and_a_stranger_is() -> None:
    """Two tastes: users 0 to 19 like even items, 20 to 39 odd ones; user 0 has one odd item."""
    taste = np.arange(40) // 20
    scores = torch.from_numpy(np.where(np.arange(12) % 2 == taste[:, None], 1.0, 0.0)).float()
    scores += 0.05 * torch.rand(scores.shape, generator=torch.Generator().manual_seed(0))
    held = (np.arange(12) % 2 == taste[:, None]) & (np.arange(12) < 8)
    held[0, 1] = True
    interactions = Interactions(*np.nonzero(held), n_items=12)
    found = found_of(interactions, scores)
    noise = (interactions.users.numpy() == 0) & (interactions.items.numpy() == 1)
    assert found[noise] > 0.3
    assert np.median(found[~noise]) < 0.1


def test_nothing_is_known_of_an_item_with_one_user_or_with_all() -> None:
    users = [0, 1, 2, 3, 0, 1, 2, 3, 2]
    items = [0, 0, 0, 0, 1, 2, 2, 3, 3]
    interactions = Interactions(users, items, n_items=5)
    scores = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    found = found_of(interactions, scores)
    lone = np.isin(interactions.items.numpy(), [0, 1])
    assert np.isnan(found[lone]).all()
    assert np.isfinite(found[~lone]).all()


def test_scores_that_are_all_equal_make_no_one_strange() -> None:
    interactions, scores = made(2)
    found = found_of(interactions, torch.zeros_like(scores))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("mask", [-torch.inf, -1e9, torch.finfo(torch.float32).min])
def test_a_masked_score_counts_as_the_users_least(mask: float) -> None:
    interactions, scores = made(4)
    never = scores.clone()
    never[:, 3] = mask
    least = scores.clone()
    least[:, 3] = torch.where(torch.arange(N_ITEMS) == 3, torch.inf, scores).amin(dim=1)
    np.testing.assert_allclose(
        found_of(interactions, never), found_of(interactions, least), atol=1e-6
    )


@pytest.mark.parametrize("n_strangers", [1, 3, 20])
def test_chance_is_uniform_however_few_strangers_there_are(n_strangers: int) -> None:
    """Two users have an item by chance: d is 1/2 in the mean, and never at an end."""
    n_users, found = n_strangers + 2, []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn(n_users, 30, generator=generator)
        held = torch.ones(n_users, 30, dtype=torch.bool)  # so that all items are probes
        held[2:, 0] = False
        interactions = Interactions(*held.nonzero().T)
        found.append(found_of(interactions, scores, seed=seed)[0])
    assert np.mean(found) == pytest.approx(0.5, abs=0.08)
    assert min(found) == pytest.approx(0.5 / (n_strangers + 1), abs=1e-6)
    assert max(found) <= 1 - 0.5 / (n_strangers + 1) + 1e-6


def test_users_of_other_ranks_are_left_out() -> None:
    interactions, scores = made(6)
    found = found_of(interactions, scores, among=(0, 9))
    own = interactions.users.numpy() < 9
    assert np.isfinite(found[own]).all()
    assert np.isnan(found[~own]).all()


def test_bad_scores_are_named() -> None:
    interactions, scores = made(1)
    scores[0] = torch.nan
    with pytest.raises(ScoreError, match=r"Expected scores that are finite or -inf, got \d+ NaN"):
        found_of(interactions, scores)


@pytest.mark.parametrize("seed", range(4))
def test_strangeness_stays_a_share_where_an_items_users_cancel_out(seed: int) -> None:
    """Two opposite tastes, and items that nearly all have: the rest of their users adds up to 0."""
    rng = np.random.default_rng(seed)
    taste = torch.from_numpy(np.repeat([1.0, -1.0], 1000)).float()
    quality = torch.from_numpy(rng.normal(size=40)).float()
    held = [(u, i) for i in range(40) for u in rng.permutation(2000)[: 1997 if i % 2 else 20]]
    users, items = np.array(held).T
    interactions = Interactions(users, items, n_items=40)
    found = strangeness(
        Holders.of(interactions), lambda users, items: taste[users] * quality[items],
        generator=torch.Generator().manual_seed(3), chunk=1 << 16,
    )  # fmt: skip
    known = found[~np.isnan(found)]
    assert len(known) > 1000
    assert ((known >= 0) & (known <= 1)).all()


def test_huge_scores_of_one_user_take_nothing_from_the_others() -> None:
    interactions, scores = made(7)
    huge = scores.double()
    huge[4] = torch.finfo(torch.float32).min
    found = found_of(interactions, huge)
    assert np.isfinite(found).all()
    assert len(np.unique(found)) > 3
