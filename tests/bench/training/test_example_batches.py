from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

from bench.training.batches import (
    LabelledBatches,
    NegativeSampler,
    TripleBatches,
    WholeUserBatches,
)

N_USERS, N_ITEMS = 12, 15


def train_pairs() -> tuple[np.ndarray, np.ndarray]:
    observed = np.random.default_rng(0).random((N_USERS, N_ITEMS)) < 0.6
    observed[0] = True
    observed[0, 7] = False  # one item is left to user 0
    users, items = np.nonzero(observed)
    return users.astype(np.int64), items.astype(np.int64)


def keys(users: np.ndarray, items: np.ndarray) -> list[int]:
    return sorted((np.asarray(users) * N_ITEMS + np.asarray(items)).tolist())


def triples(seed: int, batch_size: int = 10) -> TripleBatches:
    generator = np.random.default_rng(seed)
    return TripleBatches(*train_pairs(), N_ITEMS, batch_size=batch_size, generator=generator)


def labelled(seed: int, negatives: int = 3) -> LabelledBatches:
    return LabelledBatches(
        *train_pairs(),
        N_ITEMS,
        negatives_per_positive=negatives,
        batch_size=10,
        generator=np.random.default_rng(seed),
    )


def whole_users(seed: int, batch_size: int = 90) -> WholeUserBatches:
    return WholeUserBatches(
        *train_pairs(),
        N_ITEMS,
        negatives_per_positive=3,
        batch_size=batch_size,
        generator=np.random.default_rng(seed),
    )


def test_negatives_are_never_train_items_and_cover_all_others() -> None:
    users, items = train_pairs()
    asked = np.tile(np.arange(N_USERS), 400)
    drawn = NegativeSampler(users, items, N_ITEMS).draw(asked, np.random.default_rng(1))
    unobserved = set(range(N_USERS * N_ITEMS)) - set(keys(users, items))
    assert set(keys(asked, drawn)) == unobserved


def test_user_with_every_item_is_refused() -> None:
    users, items = np.array([0, 1, 1, 1]), np.array([2, 0, 1, 2])
    with pytest.raises(
        ValueError,
        match=r"^Expected users with fewer than 3 distinct train items, got user 1 with all of "
        r"them\. Drop that user from training\.$",
    ):
        NegativeSampler(users, items, 3)


def test_triples_hold_every_train_pair_once_and_valid_negatives() -> None:
    users, positives, negatives = map(torch.cat, zip(*triples(0), strict=True))
    observed = keys(*train_pairs())
    assert keys(users, positives) == observed
    assert not set(keys(users, negatives)) & set(observed)
    assert {users.dtype, positives.dtype, negatives.dtype} == {torch.int64}


def test_batches_have_the_size_asked_for_but_the_last() -> None:
    sizes = [len(users) for users, _, _ in triples(0)]
    assert sizes[:-1] == [10] * (len(sizes) - 1)
    assert sum(sizes) == len(train_pairs()[0])


@pytest.mark.parametrize("make", [labelled, whole_users])
def test_labelled_pairs_hold_every_train_pair_once_and_k_negatives_per_user_pair(
    make: Callable[[int], LabelledBatches],
) -> None:
    users, items, labels = map(torch.cat, zip(*make(0), strict=True))
    positive = labels == 1
    observed = keys(*train_pairs())
    assert keys(users[positive], items[positive]) == observed
    assert not set(keys(users[~positive], items[~positive])) & set(observed)
    counts = np.bincount(users[positive], minlength=N_USERS)
    assert np.array_equal(np.bincount(users[~positive], minlength=N_USERS), 3 * counts)
    assert labels.dtype == torch.float32


def test_labels_are_shuffled_together() -> None:
    first = next(iter(labelled(0)))[2]
    assert 0 < first.sum() < len(first)


@pytest.mark.parametrize("batch_size", [1, 90, 130, 10_000])
def test_whole_users_fill_batches_as_far_as_they_fit(batch_size: int) -> None:
    batches = [users for users, _, _ in whole_users(0, batch_size)]
    order = torch.cat(batches).unique_consecutive()
    assert len(order) == len(order.unique()) == N_USERS
    for batch, following in pairwise(batches):
        assert len(batch) <= batch_size or len(batch.unique()) == 1
        first_of_next = int((following == following[0]).sum())
        assert len(batch) + first_of_next > batch_size
    n_batches = {1: N_USERS, 10_000: 1}
    assert len(batches) == n_batches.get(batch_size, len(batches))


def test_users_without_train_pairs_are_in_no_batch() -> None:
    batches = WholeUserBatches(
        np.array([5, 2, 5]),
        np.array([0, 1, 2]),
        N_ITEMS,
        negatives_per_positive=1,
        batch_size=1,
        generator=np.random.default_rng(0),
    )
    assert sorted(len(users) for users, _, _ in batches) == [2, 4]


@pytest.mark.parametrize("make", [triples, labelled, whole_users])
def test_same_seed_gives_same_batches_and_epochs_differ(
    make: Callable[[int], TripleBatches | LabelledBatches],
) -> None:
    one, other = make(5), make(5)
    first = [torch.stack([*batch[:2]]) for batch in one]
    again = [torch.stack([*batch[:2]]) for batch in other]
    second = [torch.stack([*batch[:2]]) for batch in one]
    assert all(map(torch.equal, first, again))
    assert len(first) != len(second) or not all(map(torch.equal, first, second))


def test_global_random_state_stays_as_it_is() -> None:
    before = torch.get_rng_state()
    legacy = np.random.get_state()[1].copy()  # noqa: NPY002 - that state is what is tested
    list(triples(0))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(legacy, np.random.get_state()[1])  # noqa: NPY002
