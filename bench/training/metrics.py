"""Recall and NDCG by full ranking: every item a user has not been seen with is a candidate.

Ties are broken by the item id, the lower first, so that the same scores always give the same
metrics.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CUTOFFS = (5, 20)
_SCORES_AT_ONCE = 2**24
ScoreItems = Callable[[Tensor], Tensor]
"""Maps user ids, (U,) int64, to the scores of all items, (U, n_items)."""


class ScoresError(ValueError):
    """Scores that nothing can be ranked by."""


def top_items(scores: Tensor, k: int) -> Tensor:
    """The k best items of each row, best first, ties by the lower item id.

    ``torch.topk`` alone leaves the order of equal scores open, and a stable sort of whole rows is
    ten times slower. So topk finds the best, and only rows where the next score equals the last of
    them are looked through once more.

    Args:
        scores: (U, n_items) with n_items >= k, without NaN.

    Returns:
        Item ids, (U, k) int64.

    Raises:
        ScoresError: NaN among the scores.
    """
    if bool(scores.isnan().any()):
        raise ScoresError(
            "Expected scores to rank, got NaN. Lower the learning rate, or look where the "
            "model's parameters stop being finite."
        )
    n_items = scores.shape[1]
    best = scores.topk(min(k + 1, n_items), dim=1)
    ids = best.indices[:, :k].sort(dim=1).values
    if k < n_items:
        torn = (best.values[:, k - 1] == best.values[:, k]).nonzero()[:, 0]
        if len(torn):
            ids[torn] = _lowest_of_the_best(scores[torn], best.values[torn, k - 1 : k], k)
    order = scores.gather(1, ids).argsort(dim=1, descending=True, stable=True)
    return ids.gather(1, order)


def _lowest_of_the_best(scores: Tensor, threshold: Tensor, k: int) -> Tensor:
    # The k best items of each row by rising id, given their least score as threshold, (U, 1): all
    # above it, and the first of those that equal it.
    better = scores > threshold
    equal = scores == threshold
    vacant = k - better.sum(dim=1, keepdim=True)
    chosen = better | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= vacant))
    return chosen.nonzero()[:, 1].view(len(scores), k)


def recall(hits: Tensor, n_relevant: Tensor, k: int) -> Tensor:
    """Recall@K of each user: |top-K ∩ relevant| / |relevant|.

    Args:
        hits: whether the item at each rank is relevant, (U, >= k) bool.
        n_relevant: number of relevant items, (U,), at least 1.

    Returns:
        (U,) float64 in [0, 1].
    """
    return hits[:, :k].double().sum(dim=1) / n_relevant


def ndcg(hits: Tensor, n_relevant: Tensor, k: int) -> Tensor:
    """NDCG@K of each user with binary relevance.

    DCG@K = Σ_{r=1..K} hit_r / log2(r + 1), divided by the DCG of min(K, |relevant|) hits on top.

    Args and returns as in `recall`.
    """
    discounts = torch.arange(2, k + 2, dtype=torch.float64).log2().reciprocal()
    ideal = discounts.cumsum(dim=0)[n_relevant.clamp(max=k).long() - 1]
    return (hits[:, :k].double() * discounts).sum(dim=1) / ideal


class FullRanking:
    """Evaluates a recommender on held-out interactions by ranking all items.

    Metrics are means over the users with at least one held-out item. A masked item is never
    counted as a hit.

    Args:
        users, items: held-out interactions, (N,) int64 each; a repeated pair counts once.
        masked_users, masked_items: pairs taken off the ranking (training interactions), (M,).
        n_items: number of items.
        cutoffs: the K of the metrics, each at most n_items.
        users_at_once: rows of the score matrix held in memory at a time; None takes as many as
            make 2^24 scores. A graph model propagates once for each such part.
    """

    def __init__(
        self,
        users: NDArray[np.int64],
        items: NDArray[np.int64],
        *,
        masked_users: NDArray[np.int64],
        masked_items: NDArray[np.int64],
        n_items: int,
        cutoffs: tuple[int, ...] = CUTOFFS,
        users_at_once: int | None = None,
    ) -> None:
        if len(users) == 0:
            raise ValueError(
                "Expected at least one held-out interaction, got none. "
                "Hold out some interactions to evaluate on."
            )
        if max(cutoffs) > n_items:
            raise ValueError(
                f"Expected at least {max(cutoffs)} items to rank, as many as the largest cutoff, "
                f"got {n_items}. Take smaller cutoffs or more items."
            )
        self.cutoffs = cutoffs
        self._n_items = n_items
        if users_at_once is None:
            users_at_once = max(1, _SCORES_AT_ONCE // n_items)
        self._users_at_once = users_at_once
        relevant = np.unique(users * n_items + items)
        self._users, n_relevant = np.unique(relevant // n_items, return_counts=True)
        self._relevant = torch.from_numpy(relevant)
        self._n_relevant = torch.from_numpy(n_relevant)
        masked = np.unique(masked_users * n_items + masked_items)
        masked = masked[np.isin(masked // n_items, self._users)]
        # Rows of the score matrix, sorted, so that a chunk of users is a slice.
        self._masked_rows = np.searchsorted(self._users, masked // n_items)
        self._masked_items = torch.from_numpy(masked % n_items)

    @torch.no_grad()
    def per_user(self, score_items: ScoreItems) -> dict[str, Tensor]:
        """Metrics of each evaluated user, in the order of user ids: {"recall@5": (U,), ...}."""
        hits = torch.cat(
            [
                self._hits(score_items, start, start + self._users_at_once)
                for start in range(0, len(self._users), self._users_at_once)
            ]
        )
        return {
            f"{name}@{k}": metric(hits, self._n_relevant, k)
            for name, metric in (("recall", recall), ("ndcg", ndcg))
            for k in self.cutoffs
        }

    def __call__(self, score_items: ScoreItems) -> dict[str, float]:
        """Means over the evaluated users: {"recall@5": ..., "recall@20": ..., "ndcg@5": ...}."""
        return {name: float(values.mean()) for name, values in self.per_user(score_items).items()}

    def of_model(self, model: nn.Module) -> dict[str, float]:
        """The same for a model with ``score_all_items``, put in eval mode for the while."""
        was_training = model.training
        model.eval()
        try:
            return self(model.score_all_items)  # type: ignore[arg-type]
        finally:
            model.train(was_training)

    def _hits(self, score_items: ScoreItems, start: int, stop: int) -> Tensor:
        users = torch.from_numpy(self._users[start:stop])
        # The scorer may return a view of the model's own state: mask a copy.
        scores = score_items(users).detach().to("cpu", copy=True)
        first, last = np.searchsorted(self._masked_rows, (start, stop))
        rows = torch.from_numpy(self._masked_rows[first:last] - start)
        scores[rows, self._masked_items[first:last]] = -torch.inf
        ranked = top_items(scores, max(self.cutoffs))
        keys = users[:, None] * self._n_items + ranked
        places = torch.searchsorted(self._relevant, keys).clamp(max=len(self._relevant) - 1)
        return (self._relevant[places] == keys) & (scores.gather(1, ranked) > -torch.inf)
