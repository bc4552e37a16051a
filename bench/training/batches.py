"""Batches for the two losses: BPR triples, and pairs labelled 1 (observed) or 0 (sampled).

Negatives are drawn anew each epoch. All randomness comes from a generator handed in, so that two
runs with the same seed see the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int64]
Batch = tuple[Tensor, Tensor, Tensor]


class NegativeSampler:
    """Draws for each user an item, uniform over the items without a train interaction.

    Args:
        users, items: the train interactions, (N,) int64 each.
        n_items: number of items.

    Raises:
        ValueError: some user has interacted with every item, so nothing is left to draw.
    """

    def __init__(self, users: Ids, items: Ids, n_items: int) -> None:
        self.n_items = n_items
        self._observed = np.unique(users * n_items + items)
        if len(self._observed):
            counts = np.bincount(self._observed // n_items)
            if counts.max() >= n_items:
                raise ValueError(
                    f"Expected users with fewer than {n_items} distinct train items, got user "
                    f"{counts.argmax()} with all of them. Drop that user from training."
                )

    def draw(self, users: Ids, generator: np.random.Generator) -> Ids:
        """One negative item for each entry of users, (N,) int64; redraws only the collisions."""
        items = generator.integers(self.n_items, size=len(users))
        unsettled = np.flatnonzero(self._is_observed(users, items))
        while len(unsettled):
            items[unsettled] = generator.integers(self.n_items, size=len(unsettled))
            unsettled = unsettled[self._is_observed(users[unsettled], items[unsettled])]
        return items

    def _is_observed(self, users: Ids, items: Ids) -> NDArray[np.bool_]:
        keys = users * self.n_items + items
        places = np.searchsorted(self._observed, keys)
        found = self._observed[np.minimum(places, len(self._observed) - 1)] == keys
        return np.asarray(found, dtype=np.bool_)


class TripleBatches:
    """One epoch per iteration: every train pair once, shuffled, with one negative each.

    Yields (users, positives, negatives), (B,) int64 each; the last batch may be smaller. The
    attribute `sampler` draws the negatives; another one may take its place.
    """

    def __init__(
        self,
        users: Ids,
        items: Ids,
        n_items: int,
        *,
        batch_size: int,
        generator: np.random.Generator,
    ) -> None:
        self._users, self._items = users, items
        self.sampler = NegativeSampler(users, items, n_items)
        self._batch_size = batch_size
        self._generator = generator

    def __iter__(self) -> Iterator[Batch]:
        order = self._generator.permutation(len(self._users))
        users = self._users[order]
        negatives = self.sampler.draw(users, self._generator)
        yield from _slices(
            torch.from_numpy(users),
            torch.from_numpy(self._items[order]),
            torch.from_numpy(negatives),
            self._batch_size,
        )


class LabelledBatches:
    """One epoch per iteration: every train pair once with label 1, and k negatives with label 0.

    Yields (users, items, labels), (B,) int64, int64 and float32, positives and negatives shuffled
    together; the last batch may be smaller. The attribute `sampler` draws the negatives; another
    one may take its place.
    """

    def __init__(
        self,
        users: Ids,
        items: Ids,
        n_items: int,
        *,
        negatives_per_positive: int,
        batch_size: int,
        generator: np.random.Generator,
    ) -> None:
        self._users, self._items = users, items
        self.sampler = NegativeSampler(users, items, n_items)
        self._negatives_per_positive = negatives_per_positive
        self._batch_size = batch_size
        self._generator = generator

    def __iter__(self) -> Iterator[Batch]:
        users, items, labels = self._draw_epoch()
        order = self._generator.permutation(len(users))
        yield from _slices(
            torch.from_numpy(users[order]),
            torch.from_numpy(items[order]),
            torch.from_numpy(labels[order]),
            self._batch_size,
        )

    def _draw_epoch(self) -> tuple[Ids, Ids, NDArray[np.float32]]:
        negative_users = np.repeat(self._users, self._negatives_per_positive)
        negatives = self.sampler.draw(negative_users, self._generator)
        users = np.concatenate([self._users, negative_users])
        items = np.concatenate([self._items, negatives])
        labels = np.zeros(len(users), dtype=np.float32)
        labels[: len(self._users)] = 1
        return users, items, labels


class WholeUserBatches(LabelledBatches):
    """The pairs of `LabelledBatches`, with all of a user's in one batch.

    A model that reads a user's whole row before it scores one item reads each row once an epoch
    this way, and almost every row in every batch if the pairs are mixed. Users come in a new
    order each epoch. A batch holds as many as fit into batch_size pairs, and at least one.
    """

    def __iter__(self) -> Iterator[Batch]:
        users, items, labels = self._draw_epoch()
        places = self._generator.permutation(int(users.max()) + 1)
        order = np.argsort(places[users], kind="stable")
        columns = [torch.from_numpy(column[order]) for column in (users, items, labels)]
        ends = np.cumsum(np.bincount(places[users]))
        start = 0
        while start < len(users):
            # batch_size 5, ends [2, 4, 7] -> rows 0 to 4, then 4 to 7
            fitting = int(np.searchsorted(ends, start + self._batch_size, side="right")) - 1
            first = int(np.searchsorted(ends, start, side="right"))
            stop = int(ends[max(first, fitting)])
            yield columns[0][start:stop], columns[1][start:stop], columns[2][start:stop]
            start = stop


def _slices(first: Tensor, second: Tensor, third: Tensor, batch_size: int) -> Iterator[Batch]:
    for start in range(0, len(first), batch_size):
        part = slice(start, start + batch_size)
        yield first[part], second[part], third[part]
