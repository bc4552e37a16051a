"""What the bench measures: rankings on head and tail, and detection beside popularity."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from bench.data.interaction_data import Ids, InteractionData
from bench.training.metrics import ScoreItems, ndcg, recall, top_items

CUTOFF = 20
MAX_USERS = 2_000
_SCORES_AT_ONCE = 2**26


def head_items(data: InteractionData) -> NDArray[np.bool_]:
    """Which items are head: the fewest that make up half of the clean train interactions.

    Items are taken by falling number of clean train interactions (all of train without flags),
    ties by the lower id, until they have half of them. The others are tail.

    Returns:
        (n_items,) bool.
    """
    items = data.train_items if data.train_clean is None else data.train_items[data.train_clean]
    counts = np.bincount(items, minlength=data.n_items)
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    head = np.empty(data.n_items, dtype=np.bool_)
    head[order] = 2 * before < counts.sum()
    return head


class Evaluation:
    """NDCG@20, Recall@20, and Recall@20 on head and on tail items, by full ranking.

    Recall of a group G is the mean over users with a relevant item in G of
    |top-20 ∩ relevant ∩ G| / |relevant ∩ G|; None if there is no such user. The ranking is the
    same for both groups. On valid the relevant items are all of valid, noise included, since a
    user cannot tell; test is clean. On valid a user's train items are masked, on test its train
    and valid items. So models that are compared need one Evaluation, of the same noisy data.

    Args:
        data: what is evaluated on.
        on: "valid" or "test".
        max_users: at most so many users, drawn with a fixed generator. A user has the same place
            in the draw under each condition and for valid and test.
    """

    def __init__(
        self, data: InteractionData, on: str = "test", *, max_users: int = MAX_USERS
    ) -> None:
        if on not in ("valid", "test"):
            raise ValueError(f'Expected "valid" or "test" to evaluate on, got {on!r}. Choose one.')
        if data.n_items < CUTOFF:
            raise ValueError(
                f"Expected at least {CUTOFF} items to rank, got {data.n_items}. Take more items."
            )
        held_users, held_items = (
            (data.valid_users, data.valid_items)
            if on == "valid"
            else (data.test_users, data.test_items)
        )
        if not len(held_users):
            raise ValueError(f"Expected {on} interactions, got none. Hold out some of them.")
        self._n_items = data.n_items
        self._users = _drawn_users(held_users, data.n_users, max_users)
        row = np.full(data.n_users, -1)
        row[self._users] = np.arange(len(self._users))
        masked_users, masked_items = data.train_users, data.train_items
        if on == "test":
            masked_users = np.concatenate([masked_users, data.valid_users])
            masked_items = np.concatenate([masked_items, data.valid_items])
        self._relevant = self._keys(row[held_users], held_items)
        self._masked = self._keys(row[masked_users], masked_items)
        self._head = torch.from_numpy(head_items(data))
        rows, items = self._relevant // data.n_items, self._relevant % data.n_items
        n_users, is_head = len(self._users), self._head[items]
        self._n_relevant = torch.bincount(rows, minlength=n_users)
        self._n_head = torch.bincount(rows[is_head], minlength=n_users)

    @property
    def users(self) -> Ids:
        """The evaluated users, rising, (U,) int64."""
        return self._users

    @torch.no_grad()
    def __call__(self, score_items: ScoreItems) -> dict[str, float | None]:
        """Means over the evaluated users.

        {"ndcg@20": ..., "recall@20": ..., "recall_head@20": ..., "recall_tail@20": ...}.
        """
        at_once = max(1, _SCORES_AT_ONCE // self._n_items)
        parts = [
            self._hits(score_items, start, min(start + at_once, len(self._users)))
            for start in range(0, len(self._users), at_once)
        ]
        hits, head = (torch.cat(columns) for columns in zip(*parts, strict=True))
        everywhere = recall(hits, self._n_relevant, CUTOFF)
        return {
            f"ndcg@{CUTOFF}": float(ndcg(hits, self._n_relevant, CUTOFF).mean()),
            f"recall@{CUTOFF}": float(everywhere.mean()),
            f"recall_head@{CUTOFF}": _group_recall(hits & head, self._n_head),
            f"recall_tail@{CUTOFF}": _group_recall(hits & ~head, self._n_relevant - self._n_head),
        }

    def of_model(self, model: nn.Module) -> dict[str, float | None]:
        """The same for a model with ``score_all_items``, whose parts are in eval mode meanwhile."""
        modes = [(part, part.training) for part in model.modules()]
        model.eval()
        try:
            return self(model.score_all_items)  # type: ignore[arg-type]
        finally:
            for part, training in modes:
                part.training = training

    def _keys(self, rows: Ids, items: Ids) -> Tensor:
        # row * n_items + item of the evaluated users, sorted, each once.
        evaluated = rows >= 0
        return torch.from_numpy(np.unique(rows[evaluated] * self._n_items + items[evaluated]))

    def _hits(self, score_items: ScoreItems, start: int, stop: int) -> tuple[Tensor, Tensor]:
        # Whether the item at each rank is relevant, and whether it is head: (U, 20) bool each.
        # The scorer may return a view of the model's own state: mask a copy.
        users = torch.from_numpy(self._users[start:stop])
        scores = score_items(users).detach().to("cpu", copy=True)
        first, last = torch.searchsorted(
            self._masked, torch.tensor([start, stop]) * self._n_items
        ).tolist()
        masked = self._masked[first:last]
        scores[masked // self._n_items - start, masked % self._n_items] = -torch.inf
        ranked = top_items(scores, CUTOFF)
        keys = torch.arange(start, stop)[:, None] * self._n_items + ranked
        places = torch.searchsorted(self._relevant, keys).clamp(max=len(self._relevant) - 1)
        hits = (self._relevant[places] == keys) & (scores.gather(1, ranked) > -torch.inf)
        return hits, self._head[ranked]


def _drawn_users(held_users: Ids, n_users: int, count: int) -> Ids:
    held = np.unique(held_users)
    priority = np.random.default_rng(0).permutation(n_users)[held]
    return np.sort(held[np.argsort(priority)[:count]])


def _group_recall(hits: Tensor, n_relevant: Tensor) -> float | None:
    has_some = n_relevant > 0
    if not bool(has_some.any()):
        return None
    return float(recall(hits[has_some], n_relevant[has_some], CUTOFF).mean())


def train_popularity(data: InteractionData) -> Ids:
    """Number of train interactions of the item of each train interaction, (N,) int64."""
    return np.bincount(data.train_items, minlength=data.n_items)[data.train_items]


def auc(scores: ArrayLike, noisy: ArrayLike) -> float | None:
    """Probability that a noisy interaction scores above a clean one, a tie counting half.

    (Σ ranks of noisy - n(n + 1)/2) / (n m) with n noisy, m clean and mean ranks of ties. None if
    there is one class only.

    Args:
        scores: (N,), larger for what looks noisy, without NaN.
        noisy: (N,) bool.
    """
    values, is_noisy = np.asarray(scores), np.asarray(noisy, dtype=np.bool_)
    if np.isnan(values).any():
        raise ValueError("Expected scores to rank, got NaN. Leave out what has no score.")
    n = int(is_noisy.sum())
    m = len(is_noisy) - n
    if not n or not m:
        return None
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((ranks[place[is_noisy]].sum() - n * (n + 1) / 2) / (n * m))


def rarity_auc(noisy: ArrayLike, popularity: ArrayLike) -> float | None:
    """`auc` of -popularity: what taking rare items for noise would reach."""
    return auc(-np.asarray(popularity), noisy)


def within_popularity(
    scores: ArrayLike, noisy: ArrayLike, popularity: ArrayLike, n: int = 5
) -> dict[str, Any]:
    """`auc` of all interactions and of each of n parts by the popularity of their item.

    The parts are cut at the quantiles of popularity over the interactions, so they hold about
    equally many and an item is never in two.

    Args:
        scores: (N,), larger for what looks noisy.
        noisy: (N,) bool.
        popularity: (N,), number of train interactions of each interaction's item.

    Returns:
        "overall": `auc`; "fifths": that of each part from rare to popular, None where it has one
        class only; "within": the mean over the parts that have both, None if there is none.
    """
    values, is_noisy = np.asarray(scores), np.asarray(noisy, dtype=np.bool_)
    part = _parts(popularity, n)
    fifths = [auc(values[part == i], is_noisy[part == i]) for i in range(n)]
    known = [value for value in fifths if value is not None]
    return {
        "overall": auc(values, is_noisy),
        "fifths": fifths,
        "within": float(np.mean(known)) if known else None,
    }


def weight_spread(
    weights: ArrayLike, suspicion: ArrayLike, popularity: ArrayLike
) -> dict[str, list[float | None]]:
    """Mean weight by tenth of suspicion and by fifth of popularity, both rising.

    Both are cut at quantiles, so equal values are never in two parts; a part that is left empty
    by that is None.

    Args:
        weights, suspicion, popularity: (N,) each.

    Returns:
        "by_suspicion": 10 means; "by_popularity": 5 means.
    """
    return {
        "by_suspicion": _means(weights, _parts(suspicion, 10), 10),
        "by_popularity": _means(weights, _parts(popularity, 5), 5),
    }


def _parts(values: ArrayLike, n: int) -> Ids:
    # The part from 0 to n - 1 of each value, by the quantiles of all, (N,).
    array = np.asarray(values)
    if not len(array):
        return np.empty(0, dtype=np.int64)
    # an edge is one of the values: one between two could round to either side of both
    edges = np.quantile(array, np.arange(1, n) / n, method="inverted_cdf")
    return np.searchsorted(edges, array, side="left")


def _means(weights: ArrayLike, part: Ids, n: int) -> list[float | None]:
    counts = np.bincount(part, minlength=n)
    sums = np.bincount(part, weights=np.asarray(weights, dtype=np.float64), minlength=n)
    return [float(s / c) if c else None for s, c in zip(sums, counts, strict=True)]
