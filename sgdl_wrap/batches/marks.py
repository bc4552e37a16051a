"""Whether the pairs that batches mark unobserved are what they are taken for: sampled negatives."""

from __future__ import annotations

import numpy as np

from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.batches.samples import MOST_UNKNOWN, Samples
from sgdl_wrap.errors import BatchError

LEAST = 8  # pairs marked unobserved; fewer tell nothing
ENOUGH = 64  # of them; more tell no more
REMEDY = (
    "Mark observed pairs by labels above 0, or pass pair_fn=..., which returns "
    "(users, items, observed)."
)
_CAUSES = (
    "Look for a third column that is no label (a price, a rating minus a mean) and for labels that "
    "are turned round."
)


def tells_of_marks(samples: Samples) -> bool:
    """Whether batches mark enough pairs unobserved, or say nothing of any."""
    return not samples.told or int((~samples.observed).sum()) >= ENOUGH


def doubt_of_marks(samples: Samples, interactions: Interactions) -> str | None:
    """Looks up the pairs that batches mark unobserved: few of them should be interactions.

    Sampled negatives hit interactions by chance, in dense data often. How often is known: see
    :func:`chance_of_known`.

    Args:
        samples: of the batch.
        interactions: D.

    Returns:
        What to say if far more of them are than chance explains, and more than a third.

    Raises:
        BatchError: all of them are interactions, and no pair that it marks observed is.
    """
    marked = ~samples.observed
    count = int(marked.sum())
    if count < LEAST:
        return None
    users, items = samples.users[marked], samples.items[marked]
    known = int(known_pairs(users, items, interactions).sum())
    if known <= MOST_UNKNOWN * count:
        return None
    if known <= most_by_chance(count, chance_of_known(users, interactions)):
        return None
    observed = int(samples.observed.sum())
    if known == count and samples.ids.max() < 0:
        others = f", and none of the {observed} that it marks observed" if observed else ""
        raise BatchError(
            f"Expected observed pairs in this batch, got all {count} pairs that it marks "
            f"unobserved among the interactions{others}. {_CAUSES} {REMEDY}"
        )
    return (
        f"Expected the pairs that this batch marks unobserved to be sampled negatives, got {known} "
        f"of {count} among the interactions. {_CAUSES} {REMEDY}"
    )


def known_pairs(users: np.ndarray, items: np.ndarray, interactions: Interactions) -> np.ndarray:
    """Which pairs are interactions, (n,) bool; ids out of range are not."""
    found = (users >= 0) & (items >= 0) & (items < interactions.n_items)
    found[found] = interactions.find(users[found], items[found]) >= 0
    return found


def chance_of_known(users: np.ndarray, interactions: Interactions) -> float:
    """How often a negative that is sampled for these users is an interaction, on average.

    The larger of Σ_{i ∈ I_u} 1 / n_items, for items drawn uniformly, and Σ_{i ∈ I_u} N_i / N, for
    items drawn by popularity, I_u the items of user u and N_i the interactions of item i.

    Args:
        users: user of each negative, (n,) int64; unknown ones have no items.
        interactions: D.
    """
    popularity = np.bincount(interactions.items.numpy(), minlength=interactions.n_items)
    starts, places = interactions.starts.numpy(), interactions.places_of(users)
    uniform = popular = 0.0
    for place, times in zip(*np.unique(places, return_counts=True), strict=True):
        if place >= 0:
            ids = slice(starts[place], starts[place + 1])
            of_user = (interactions.keys[ids] % interactions.n_items).numpy()
            uniform += times * len(of_user) / interactions.n_items
            popular += times * int(popularity[of_user].sum()) / len(interactions)
    return float(max(uniform, popular) / len(users))


def most_by_chance(count: int, chance: float) -> float:
    """So many of `count` sampled negatives may be interactions, and nothing is wrong.

    Three times the expected number, or half of what is left if that is less; and no less than two
    more than three standard deviations above it. 100 negatives, of which 5 are expected: 15.
    """
    expected = count * chance
    multiple = count * min(3 * chance, (1 + chance) / 2)
    return float(max(multiple, expected + 3 * (expected * (1 - chance)) ** 0.5 + 2))
