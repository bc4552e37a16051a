"""Clean planted preferences in any size: users click items of the few clusters they like.

No matrix of users by items is made, so 100,000 users and 20,000 items fit on a small machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.data.interaction_data import Ids, InteractionData

SIZES = {
    "planted-400": {"n_users": 400, "n_items": 600, "clicks_per_user": 50},
    "planted-20k": {"n_users": 20_000, "n_items": 4_000, "clicks_per_user": 20},
    "planted-100k": {"n_users": 100_000, "n_items": 20_000, "clicks_per_user": 20},
}
SKEWED = "-zipf"
NAMES = tuple(size + suffix for size in SIZES for suffix in ("", SKEWED))

LIKED_CLUSTERS = 3
_ITEMS_PER_CLUSTER = 4_000 / 64
_LEAST_CLUSTERS = 8


def named(name: str, seed: int = 0) -> InteractionData:
    """One of NAMES: a size of SIZES, with the suffix "-zipf" a skewed popularity (exponent 1)."""
    if name not in NAMES:
        raise ValueError(f"Expected one of {', '.join(NAMES)}, got {name!r}. Choose one of these.")
    zipf = 1.0 if name.endswith(SKEWED) else None
    return planted(seed, **SIZES[name.removesuffix(SKEWED)], zipf=zipf, name=name)


def planted(
    seed: int,
    *,
    n_users: int,
    n_items: int,
    clicks_per_user: int = 20,
    zipf: float | None = None,
    n_clusters: int | None = None,
    name: str = "planted",
) -> InteractionData:
    """Clicks that all come from a user's taste; every flag is clean.

    A user likes three clusters at random, with shares θ_u from a flat Dirichlet. A click picks
    cluster c with probability θ_uc and in it the item of rank r with probability proportional to
    r^-zipf, or uniformly with zipf None. Repeats are dropped until the user has clicks_per_user
    distinct items. In the order drawn the first 80 % are train, the next 10 % valid, the last
    test, and the rows are sorted by user.

    Args:
        seed: of the generator; the same seed gives the same data.
        zipf: exponent of the popularity within a cluster, None for none.
        n_clusters: None takes one for each 62 items, as 64 for 4,000, and at least 8.

    Raises:
        ValueError: more clicks than half of the items in the clusters that a user likes.
    """
    if n_clusters is None:
        n_clusters = max(_LEAST_CLUSTERS, round(n_items / _ITEMS_PER_CLUSTER))
    n_liked = min(LIKED_CLUSTERS, n_clusters)
    most = n_liked * (n_items // n_clusters) // 2
    if not 1 <= clicks_per_user <= most:
        raise ValueError(
            f"Expected 1 to {most} clicks per user, half of the items in {n_liked} clusters, got "
            f"{clicks_per_user}. Raise n_items or lower clicks_per_user."
        )
    generator = np.random.default_rng(seed)
    items_by_cluster = generator.permutation(n_items)
    starts = np.arange(n_clusters + 1) * n_items // n_clusters
    within = _cumulative_popularity(starts, zipf)
    chance = generator.random((n_users, n_clusters), dtype=np.float32)
    liked = chance.argpartition(n_liked - 1, axis=1)[:, :n_liked]
    shares = generator.dirichlet(np.ones(n_liked), size=n_users).cumsum(axis=1)

    held = np.full((n_users, clicks_per_user), -1, dtype=np.int64)
    users = np.arange(n_users)
    while len(users):
        drawn_at = generator.random((len(users), 2 * clicks_per_user))
        choice = (drawn_at[:, :, None] >= shares[users, None, : n_liked - 1]).sum(axis=2)
        cluster = np.take_along_axis(liked[users], choice, axis=1)
        places = np.searchsorted(within, cluster + generator.random(cluster.shape), side="right")
        # rounding can carry a draw over the end of its cluster
        drawn = items_by_cluster[np.minimum(places, starts[cluster + 1] - 1)]
        held[users] = _first_distinct(np.hstack([held[users], drawn]), clicks_per_user)
        users = users[held[users, -1] < 0]

    place = np.arange(clicks_per_user)
    parts = {
        "train": 10 * place < 8 * clicks_per_user,
        "valid": (10 * place >= 8 * clicks_per_user) & (10 * place < 9 * clicks_per_user),
        "test": 10 * place >= 9 * clicks_per_user,
    }
    splits = {
        split: (
            np.repeat(np.arange(n_users), part.sum()),
            held[:, part].reshape(-1),
            np.ones(n_users * part.sum(), dtype=np.bool_),
        )
        for split, part in parts.items()
    }
    return InteractionData.of(name, n_users, n_items, splits)


def _cumulative_popularity(starts: Ids, zipf: float | None) -> NDArray[np.float64]:
    # In cluster c it rises from c to c + 1, so that one search finds cluster and item: (n_items,).
    clusters = []
    for cluster, size in enumerate(np.diff(starts)):
        weights = np.arange(1, size + 1) ** -(zipf or 0.0)
        clusters.append(cluster + weights.cumsum() / weights.sum())
    return np.concatenate(clusters)


def _first_distinct(candidates: Ids, count: int) -> Ids:
    """The first `count` distinct ids of each row in their order, -1 where there are fewer.

    Args:
        candidates: (U, M) int64; -1 is no id.

    Returns:
        (U, count) int64.
    """
    order = candidates.argsort(axis=1, kind="stable")
    by_id = np.take_along_axis(candidates, order, axis=1)
    is_first = np.ones(candidates.shape, dtype=np.bool_)
    is_first[:, 1:] = by_id[:, 1:] != by_id[:, :-1]
    new = np.empty_like(is_first)
    np.put_along_axis(new, order, is_first & (by_id >= 0), axis=1)
    rank = new.cumsum(axis=1)
    rows, columns = np.nonzero(new & (rank <= count))
    first = np.full((len(candidates), count), -1, dtype=np.int64)
    first[rows, rank[rows, columns] - 1] = candidates[rows, columns]
    return first
