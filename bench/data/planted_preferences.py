"""Generated data: users click what they prefer, and some clicks are noise whose place is known.

Every user likes a few clusters of items; items have a popularity. Clean interactions come from
the top of that preference, noisy ones are random pairs. It runs anywhere, needs no download, and
tells clean from noisy, which no real data set does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.data.interaction_data import Flags, Ids, InteractionData


def generate(
    seed: int = 0,
    *,
    n_users: int = 400,
    n_items: int = 600,
    interactions_per_user: int = 50,
    noise_rate: float = 0.25,
    n_clusters: int = 16,
    sharpness: float = 4.0,
) -> InteractionData:
    """Interactions with planted preferences and planted noise.

    Preference of user u for item i: sharpness * (a_u · b_i) + p_i, with a_u a sparse mixture over
    clusters (Dirichlet, scaled by its largest entry), b_i the item's cluster as a near one-hot
    vector, and p_i a normal popularity. The clean items of u are drawn without replacement with
    probability proportional to exp(preference), by the Gumbel top-k trick.

    Of the clean interactions of a user 80 % go to train, 10 % to valid, 10 % to test. Then
    unobserved pairs, uniform over all that are left, join train and valid (never test) until
    they make up noise_rate of each: a real validation set is as noisy as its train set.

    Args:
        seed: seed of the generator; the same seed gives the same data.
        interactions_per_user: mean number of clean interactions of a user, at least 10 each.
        noise_rate: share of noisy interactions in train and in valid, in [0, 1).
        n_clusters: number of item clusters.
        sharpness: how much taste outweighs popularity and chance.
    """
    if not 0 <= noise_rate < 1:
        raise ValueError(
            f"Expected a noise_rate in [0, 1), got {noise_rate}. Choose a share such as 0.25."
        )
    generator = np.random.default_rng(seed)
    counts = np.maximum(10, generator.poisson(interactions_per_user, size=n_users))
    if counts.max() > n_items // 2:
        raise ValueError(
            f"Expected at most n_items / 2 = {n_items // 2} clean interactions per user, got "
            f"{counts.max()}. Raise n_items or lower interactions_per_user."
        )
    preference = _preference(generator, n_users, n_items, n_clusters, sharpness)
    users, items = _draw_clean(generator, preference, counts)
    split = _split_per_user(generator, counts)

    taken = np.zeros((n_users, n_items), dtype=bool)
    taken[users, items] = True
    parts: dict[str, tuple[Ids, Ids, Flags]] = {}
    for index, name in enumerate(("train", "valid", "test")):
        part_users, part_items = users[split == index], items[split == index]
        n_noise = 0 if name == "test" else round(len(part_users) * noise_rate / (1 - noise_rate))
        noise_users, noise_items = _draw_unobserved(generator, taken, n_noise)
        order = generator.permutation(len(part_users) + n_noise)
        parts[name] = (
            np.concatenate([part_users, noise_users])[order],
            np.concatenate([part_items, noise_items])[order],
            (np.arange(len(order)) < len(part_users))[order],
        )
    return InteractionData.of("generated", n_users, n_items, parts)


def _preference(
    generator: np.random.Generator, n_users: int, n_items: int, n_clusters: int, sharpness: float
) -> NDArray[np.float64]:
    taste = generator.dirichlet(np.full(n_clusters, 0.2), size=n_users)
    taste /= taste.max(axis=1, keepdims=True)
    clusters = 0.1 * generator.random((n_items, n_clusters))
    clusters[np.arange(n_items), generator.integers(n_clusters, size=n_items)] = 1.0
    popularity = generator.normal(size=n_items)
    preference: NDArray[np.float64] = sharpness * (taste @ clusters.T) + popularity
    return preference


def _draw_clean(
    generator: np.random.Generator, preference: NDArray[np.float64], counts: Ids
) -> tuple[Ids, Ids]:
    ranked = np.argsort(-(preference + generator.gumbel(size=preference.shape)), axis=1)
    users, ranks = np.nonzero(np.arange(preference.shape[1]) < counts[:, None])
    return users, ranked[users, ranks]


def _split_per_user(generator: np.random.Generator, counts: Ids) -> Ids:
    # counts [10, 12] -> 0 (train) except one 1 (valid) and one 2 (test) per user, shuffled
    parts = []
    for count in counts:
        tenth = count // 10
        part = np.zeros(count, dtype=np.int64)
        part[:tenth], part[tenth : 2 * tenth] = 1, 2
        parts.append(generator.permutation(part))
    return np.concatenate(parts)


def _draw_unobserved(
    generator: np.random.Generator, taken: NDArray[np.bool_], count: int
) -> tuple[Ids, Ids]:
    # Marks what it draws as taken, so that no split shares a pair with another.
    free = np.flatnonzero(~taken)
    if count > len(free):
        raise ValueError(
            f"Expected at most {len(free)} noisy pairs, as many as are unobserved, got {count}. "
            "Raise n_items or lower noise_rate."
        )
    pairs = generator.choice(free, size=count, replace=False)
    taken.flat[pairs] = True
    return pairs // taken.shape[1], pairs % taken.shape[1]
