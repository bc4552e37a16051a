"""Generated clicks of which it is known which are noise, for tests and examples.

`import sgdl_wrap` does not bring this module: import `planted_clicks` from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sgdl_wrap.errors import DenoiserError

_KINDS = ("random", "popular")
_TEST_SHARE = 0.2
_ITEMS_PER_CLUSTER = 60
_LIKED_CLUSTERS = 3


@dataclass(frozen=True, eq=False)
class Clicks:
    """Clicks to train on, which of them are noise, and clean pairs to test on.

    Ids run from 0 to `n_users - 1` and `n_items - 1`. No pair occurs twice, neither in the clicks
    nor in the test pairs, and no pair is in both.
    """

    users: Tensor
    """Users of the N clicks to train on, (N,) int64, in random order."""
    items: Tensor
    """Their items, (N,) int64."""
    is_noise: Tensor
    """Whether each click is noise, (N,) bool. Only your evaluation should look at it."""
    test_users: Tensor
    """Users of the T pairs to test on, (T,) int64. All of them are clean."""
    test_items: Tensor
    """Their items, (T,) int64."""
    n_users: int
    n_items: int

    def noise_of(self, users: ArrayLike, items: ArrayLike) -> NDArray[np.bool_]:
        """Whether these clicks are noise, in the order given, as the rows of an audit have it.

        Args:
            users: (K,) integers.
            items: (K,) integers; each pair is one of the clicks.

        Returns:
            (K,) bool.

        Raises:
            DenoiserError: a pair that is none of the clicks.
        """
        known = (self.users * self.n_items + self.items).numpy()
        order = np.argsort(known)
        asked = np.asarray(users, dtype=np.int64) * self.n_items + np.asarray(items)
        places = np.searchsorted(known[order], asked).clip(max=len(known) - 1)
        strange = known[order][places] != asked
        if strange.any():
            user, item = divmod(int(asked[strange][0]), self.n_items)
            raise DenoiserError(
                f"Expected pairs of the clicks, got user {user} with item {item}. "
                "Ask for pairs of `users` and `items` only."
            )
        noise: NDArray[np.bool_] = self.is_noise.numpy()[order][places]
        return noise

    def ndcg(self, scores: Tensor, k: int = 20) -> float:
        """NDCG@k on the test pairs, the mean over the users that have some.

        DCG = Σ_r hit_r / log2(r + 1) over ranks r = 1..k, divided by the largest that is possible.
        Items that a user clicked in training are not ranked.

        Args:
            scores: of every item for every user, (n_users, n_items); higher is better.
            k: length of the list, at most `n_items`.

        Raises:
            DenoiserError: scores of another shape.
        """
        if scores.shape != (self.n_users, self.n_items):
            raise DenoiserError(
                f"Expected scores of shape ({self.n_users}, {self.n_items}), got "
                f"{tuple(scores.shape)}. Score every item for every user."
            )
        scores = scores.detach().cpu().double().clone()
        scores[self.users, self.items] = -torch.inf
        wanted = torch.zeros(scores.shape, dtype=torch.bool)
        wanted[self.test_users, self.test_items] = True
        hits = wanted.gather(1, scores.topk(k).indices).double()
        discounts = 1 / torch.arange(2, k + 2).double().log2()
        n_wanted = wanted.sum(dim=1)
        has_some = n_wanted > 0
        best = discounts.cumsum(0)[n_wanted[has_some].clamp(max=k) - 1]
        return float(((hits @ discounts)[has_some] / best).mean())


def planted_clicks(
    *,
    n_users: int = 400,
    n_items: int = 600,
    clicks_per_user: int = 40,
    noise: float = 0.2,
    kind: Literal["random", "popular"] = "random",
    seed: int = 0,
) -> Clicks:
    """Clicks on what users like, and noise among them.

    Items form clusters of about 60 and have a popularity p_i, normal. Each user likes three
    clusters, or all if there are fewer, with shares θ_u from a flat Dirichlet. The clean items of
    user u are drawn without replacement, with probability proportional to
    θ_u[cluster of i] · exp(p_i). A fifth of them are the test pairs. Noise then joins the others:
    pairs that nobody has clicked, until they are the share `noise` of the training clicks.

    The same arguments give the same clicks; no global random state is read or changed. Memory and
    time grow with n_users · n_items.

    Args:
        n_users: number of users.
        n_items: number of items.
        clicks_per_user: mean number of clean clicks of a user, a test pair or not. Each user has
            10 or more.
        noise: share of noise among the training clicks, in [0, 1).
        kind: "random" draws all other pairs alike, as slips do. "popular" draws an item in
            proportion to its clean clicks, as when people click what everybody is shown.
        seed: of the generator.

    Raises:
        DenoiserError: an unknown kind, a share outside [0, 1), or more clicks than there is room
            for.
    """
    if kind not in _KINDS:
        raise DenoiserError(f'Expected kind "random" or "popular", got {kind!r}. Choose one.')
    if not 0 <= noise < 1:
        raise DenoiserError(
            f"Expected noise in [0, 1), got {noise}. Choose a share such as 0.2 for 20 %."
        )
    generator = np.random.default_rng(seed)
    counts = np.maximum(10, generator.poisson(clicks_per_user, size=n_users))
    most = min(n_items, _LIKED_CLUSTERS * _ITEMS_PER_CLUSTER) // 2
    if n_users < 1 or counts.max() > most:
        raise DenoiserError(
            f"Expected one user or more with at most {most} clean clicks each, half of what a user "
            f"likes, got {n_users} with up to {counts.max(initial=0)}. Raise n_items or lower "
            "clicks_per_user."
        )
    users, items = _clean_pairs(generator, counts, n_items)
    is_test = np.concatenate(
        [generator.permutation(count) < round(_TEST_SHARE * count) for count in counts]
    )
    taken = np.zeros((n_users, n_items), dtype=bool)
    taken[users, items] = True
    popularity = np.bincount(items[~is_test], minlength=n_items) if kind == "popular" else None
    n_clean = int((~is_test).sum())
    noisy = _other_pairs(generator, taken, popularity, round(n_clean * noise / (1 - noise)))

    order = generator.permutation(n_clean + len(noisy[0]))
    return Clicks(
        users=torch.from_numpy(np.concatenate([users[~is_test], noisy[0]])[order]),
        items=torch.from_numpy(np.concatenate([items[~is_test], noisy[1]])[order]),
        is_noise=torch.from_numpy(order >= n_clean),
        test_users=torch.from_numpy(users[is_test]),
        test_items=torch.from_numpy(items[is_test]),
        n_users=n_users,
        n_items=n_items,
    )


def _clean_pairs(
    generator: np.random.Generator, counts: NDArray[np.int64], n_items: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As many items of each user as counts say, (U,), by the Gumbel top-k trick."""
    n_clusters = max(1, n_items // _ITEMS_PER_CLUSTER)
    n_liked = min(_LIKED_CLUSTERS, n_clusters)
    taste = np.full((len(counts), n_clusters), -np.inf)
    liked = generator.random(taste.shape).argsort(axis=1)[:, :n_liked]
    shares = generator.dirichlet(np.ones(n_liked), size=len(counts))
    np.put_along_axis(taste, liked, np.log(shares), axis=1)
    cluster = generator.permutation(n_items) % n_clusters
    preference = taste[:, cluster] + generator.normal(size=n_items)
    ranked = np.argsort(-(preference + generator.gumbel(size=preference.shape)), axis=1)
    users, ranks = np.nonzero(np.arange(n_items) < counts[:, None])
    return users, ranked[users, ranks]


def _other_pairs(
    generator: np.random.Generator,
    taken: NDArray[np.bool_],
    popularity: NDArray[np.int64] | None,
    count: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs that are not taken, (count,) each; of items with a popularity, (I,), if it is given."""
    free = np.flatnonzero(~taken)
    weights = None
    if popularity is not None:
        free = free[popularity[free % taken.shape[1]] > 0]
        weights = popularity[free % taken.shape[1]].astype(np.float64)
        weights /= weights.sum()
    if count > len(free):
        raise DenoiserError(
            f"Expected at most {len(free)} noisy clicks, as many as there are other pairs, got "
            f"{count}. Raise n_items or lower noise."
        )
    pairs = generator.choice(free, size=count, replace=False, p=weights)
    return pairs // taken.shape[1], pairs % taken.shape[1]
