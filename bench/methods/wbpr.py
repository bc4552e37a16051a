"""WBPR: negatives drawn by popularity, as what is popular and was not chosen is not wanted.

Source: Gantner et al., Personalized Ranking for Non-Uniformly Sampled Items, KDD Cup 2011 (JMLR
W&CP 18, 2012), Sec. 4: the weight of a negative item j is its number of interactions, and drawing
negatives in proportion to that has the expectation of weighting them.

Departures:

1. The paper also weighs each user by 1 / |I_u|. Here every interaction counts once, as in all
   the methods compared.
2. For pointwise losses the same distribution draws the negatives with label 0, as the SGDL paper
   must have done for NeuMF and CDAE.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from bench.data.interaction_data import InteractionData
from bench.methods.method import Method
from bench.training.batches import Batch, Ids, NegativeSampler
from bench.training.recipes import Recipe


class PopularitySampler(NegativeSampler):
    """Draws for each user an item without a train interaction, ∝ popularity^power.

    Popularity is the item's number of distinct train interactions; items without any are never
    drawn, unless power is 0.

    Raises:
        ValueError: some user has interacted with every item that can be drawn.
    """

    def __init__(self, users: Ids, items: Ids, n_items: int, *, power: float = 1.0) -> None:
        super().__init__(users, items, n_items)
        popularity = np.bincount(self._observed % n_items, minlength=n_items)
        self._cumulative = np.cumsum(popularity**power)
        n_drawable = np.count_nonzero(popularity) if power > 0 else n_items
        counts = np.bincount(self._observed // n_items)
        if counts.max() >= n_drawable:
            raise ValueError(
                f"Expected users with fewer than {n_drawable} distinct train items, got user "
                f"{counts.argmax()} with all of them. Drop that user from training."
            )

    def draw(self, users: Ids, generator: np.random.Generator) -> Ids:
        """One negative item for each entry of users, (N,) int64; redraws only the collisions."""
        items = self._draw_items(len(users), generator)
        unsettled = np.flatnonzero(self._is_observed(users, items))
        while len(unsettled):
            items[unsettled] = self._draw_items(len(unsettled), generator)
            unsettled = unsettled[self._is_observed(users[unsettled], items[unsettled])]
        return items

    def _draw_items(self, count: int, generator: np.random.Generator) -> Ids:
        places = generator.random(count) * self._cumulative[-1]
        drawn: Ids = np.searchsorted(self._cumulative, places, side="right")
        return drawn


@dataclass(frozen=True)
class WBPR(Method):
    """Ordinary training on negatives drawn by popularity."""

    power: float = 1.0
    """Exponent of the popularity. Paper: 1; 0 draws uniformly, which is ordinary training."""

    def changed(self, recipe: Recipe) -> Recipe:
        """The recipe with batches whose negatives are drawn by popularity."""

        def batches(
            data: InteractionData, batch_size: int, generator: np.random.Generator
        ) -> Iterable[Batch]:
            ordinary = recipe.batches(data, batch_size, generator)
            ordinary.sampler = PopularitySampler(  # type: ignore[attr-defined]
                data.train_users, data.train_items, data.n_items, power=self.power
            )
            return ordinary

        return replace(recipe, batches=batches)
