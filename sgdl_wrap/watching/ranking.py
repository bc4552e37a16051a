"""Which interactions a model ranks among its user's best: m_t(u, i) of Sec. 3.1.1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.equations.memorization import ranked_within
from sgdl_wrap.model.scores import ScorePairs, checked_scores


@dataclass(frozen=True)
class RankedEpoch:
    """What one ranking found.

    Attributes:
        packed: numpy.packbits of m_t(k), one bit per interaction.
        cut: score of each user's last ranked candidate, by place, (n_users,) float32; a pair scored
            below it is outside the ranking list. NaN where the user was not ranked.
    """

    packed: np.ndarray
    cut: Tensor


@dataclass(frozen=True)
class RankingLists:
    """Each user's ranking list, by the score of its last candidate.

    Attributes:
        interactions: D.
        cut: as of :class:`RankedEpoch`.
        score: scores of pairs, by the model as it is now.
        most: pairs that may be scored in one call.
    """

    interactions: Interactions
    cut: Tensor
    score: ScorePairs
    most: int

    def outside(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Which unobserved pairs the model scores below their user's ranking list, (n,) bool."""
        places = self.interactions.places_of(users)
        cuts = np.where(places >= 0, self.cut.numpy().take(places, mode="clip"), np.nan)
        chunks = (torch.split(torch.from_numpy(ids), self.most) for ids in (users, items))
        scores = torch.cat([self.score(*pairs) for pairs in zip(*chunks, strict=True)])
        below: np.ndarray = scores.cpu().float().numpy() < cuts  # never, where there is no cut
        return below


@dataclass(frozen=True)
class Ranking:
    """m_t(u, i) = 1 if i is among the top N_u of u's candidates, N_u = u's observed items.

    Candidates are u's observed items and, for "sampled", N_u unobserved items drawn uniformly
    with replacement (none where u has seen every item; deviation 1), for "full", every other item.

    Attributes:
        candidates: which they are.
        chunk: about as many pairs are scored in one call; one user's candidates are never split.

    Source: Sec. 3.1.1; the sampled candidates follow the authors' code.
    """

    candidates: Literal["sampled", "full"]
    chunk: int

    def epoch(
        self,
        interactions: Interactions,
        score: ScorePairs,
        *,
        generator: torch.Generator,
        on_ranked: Callable[[int, int], None] | None = None,
        among: tuple[int, int] | None = None,
    ) -> RankedEpoch:
        """Ranks every user's candidates by the model as it is now.

        Args:
            interactions: the observed pairs.
            score: scores of pairs, by the ids of users and items.
            generator: draws the sampled candidates.
            on_ranked: called with (interactions done, N) after each chunk.
            among: the places of the users that are ranked, [first, last); the others' bits are 0,
                their cuts NaN.

        Raises:
            ScoreError: scores of another shape, or NaN or +inf among them.
        """
        memorized = np.zeros(len(interactions), dtype=bool)
        cut = torch.full((interactions.n_users,), torch.nan, dtype=torch.float32)
        per_user = interactions.n_items if self.candidates == "full" else 0
        for first, last in user_chunks(interactions, self.chunk, per_user, among):
            if self.candidates == "sampled":
                users, items, observed = _sampled(interactions, first, last, generator)
            else:
                users, items, observed = _all_items(interactions, first, last)
            ids = interactions.ids_at(users)  # `users` are places
            scores = checked_scores(score(ids, items), ids, items)
            ranks = ranked_within(users, scores, observed)
            counts = interactions.counts[users]
            low, high = int(interactions.starts[first]), int(interactions.starts[last])
            # observed candidates stand in the order of their ids
            memorized[low:high] = (ranks < counts)[observed].numpy()
            final = ranks == counts - 1
            cut[users[final]] = scores[final].float()
            if on_ranked is not None:
                on_ranked(high, len(interactions))
        return RankedEpoch(np.packbits(memorized), cut)


def user_chunks(
    interactions: Interactions,
    chunk: int,
    per_user: int,
    among: tuple[int, int] | None = None,
) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) of users whose candidates together number about `chunk`.

    They are ranges of places, and cover those `among`, or all.

    A user has `per_user` candidates, or twice its observed items where that is 0.
    """
    if not per_user:
        yield from interactions.user_spans(max(1, chunk // 2), among)
        return
    start, stop = among if among is not None else (0, interactions.n_users)
    step = max(1, chunk // per_user)
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


def _sampled(
    interactions: Interactions, first: int, last: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    low, high = int(interactions.starts[first]), int(interactions.starts[last])
    counts = interactions.counts[first:last]
    users = torch.repeat_interleave(torch.arange(first, last), counts)
    items = interactions.keys[low:high] - users * interactions.n_items
    free = interactions.n_items - counts[users - first]
    uniform = torch.rand(len(users), generator=generator, dtype=torch.float64)
    ranks = (uniform * free).long()  # < free, as uniform <= 1 - 2**-53, also where free is rounded
    some = free > 0
    drawn = interactions.unobserved(users[some], ranks[some])
    observed = torch.zeros(len(users) + len(drawn), dtype=torch.bool)
    observed[: len(users)] = True
    return torch.cat([users, users[some]]), torch.cat([items, drawn]), observed


def _all_items(
    interactions: Interactions, first: int, last: int
) -> tuple[Tensor, Tensor, Tensor]:
    low, high = int(interactions.starts[first]), int(interactions.starts[last])
    users = torch.repeat_interleave(torch.arange(first, last), interactions.n_items)
    items = torch.arange(interactions.n_items).repeat(last - first)
    observed = torch.zeros(len(users), dtype=torch.bool)
    observed[interactions.keys[low:high] - first * interactions.n_items] = True
    return users, items, observed
