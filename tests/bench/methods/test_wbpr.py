from __future__ import annotations

import numpy as np
import pytest

from bench.data.interaction_data import InteractionData
from bench.methods.wbpr import WBPR, PopularitySampler
from bench.training.fit import set_up
from bench.training.recipes import Recipe

# Items 0, 1, 2, 3 with 4, 2, 1 and 0 interactions; user 4 has item 2, user 5 nothing.
USERS = np.array([0, 1, 2, 3, 0, 1, 4])
ITEMS = np.array([0, 0, 0, 0, 1, 1, 2])


@pytest.mark.parametrize(
    ("power", "weights"), [(1.0, [4, 2, 1, 0]), (0.5, [2, 2**0.5, 1, 0]), (0.0, [1, 1, 1, 1])]
)
def test_items_come_in_proportion_to_popularity(power: float, weights: list[float]) -> None:
    sampler = PopularitySampler(USERS, ITEMS, 4, power=power)
    drawn = sampler.draw(np.full(40_000, 5), np.random.default_rng(0))
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    # Five standard deviations of a share of 40,000 draws are at most 0.0125.
    assert shares == pytest.approx(np.divide(weights, np.sum(weights)), abs=0.0125)


def test_observed_items_are_never_drawn() -> None:
    drawn = PopularitySampler(USERS, ITEMS, 4).draw(np.zeros(500, int), np.random.default_rng(0))
    assert set(drawn.tolist()) == {2}


def test_repeated_pairs_count_once() -> None:
    sampler = PopularitySampler(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 1]), 2)
    drawn = sampler.draw(np.full(4_000, 2), np.random.default_rng(0))
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.04)


def test_user_with_every_drawable_item_is_refused() -> None:
    users, items = np.array([0, 0, 1]), np.array([0, 1, 1])
    with pytest.raises(
        ValueError,
        match=r"^Expected users with fewer than 2 distinct train items, got user 0 with all of "
        r"them\. Drop that user from training\.$",
    ):
        PopularitySampler(users, items, 5)


def test_the_recipe_draws_its_negatives_by_popularity(
    recipe: Recipe, small_data: InteractionData
) -> None:
    def negatives(changed: Recipe) -> np.ndarray:
        batches = set_up(changed, small_data, seed=0).batches
        if recipe.pointwise:
            parts = [items[labels == 0] for _, items, labels in batches]
        else:
            parts = [third for _, _, third in batches]
        return np.concatenate([part.numpy() for part in parts])

    popularity = np.bincount(small_data.train_items, minlength=small_data.n_items)
    ordinary = popularity[negatives(recipe)].mean()
    # 1.28 times, in both.
    assert popularity[negatives(WBPR().changed(recipe))].mean() > 1.2 * ordinary
