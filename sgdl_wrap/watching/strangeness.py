"""Whether a user is like an item's other users: evidence that popularity cannot give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.equations.suspicion import share_ahead
from sgdl_wrap.model.scores import ScorePairs, checked_scores
from sgdl_wrap.ranks.ranks import ALONE, Ranks

PROBES = 64, 256  # items whose scores make a user's profile: as many as a user has, within these
STRANGERS = 64, 256  # users whom an item's own are compared with
COMPARED = 1 << 24  # interactions times strangers, where that leaves more than the least
TABLE = 1 << 26  # items times strangers, at most
MASK = -1e8  # a score at most this is none: models mask items by -inf, -1e9 or the least float
PROFILE_BYTES = 1 << 28  # of all profiles together, at most
CHUNK = 1 << 12  # interactions looked at at once, so that they stay in the cache


@dataclass(frozen=True)
class Holders:
    """Which users have which items, over all ranks.

    Attributes:
        interactions: D, of this rank.
        counts: users of each item, over all ranks, (n_items,) int64.
        first, last: the places of the users that this rank answers for, [first, last).
        ranks: each knows the profiles of its own users.
    """

    interactions: Interactions
    counts: Tensor
    first: int
    last: int
    ranks: Ranks

    @classmethod
    def of(
        cls, interactions: Interactions, among: tuple[int, int] | None = None, ranks: Ranks = ALONE
    ) -> Holders:
        """All ranks ask together.

        Args:
            among: the places of the users that this rank answers for; None for all.
        """
        first, last = among if among is not None else (0, interactions.n_users)
        counts = torch.zeros(interactions.n_items, dtype=torch.int64)
        for _, _, items in _pieces(interactions, first, last):
            counts.index_add_(0, items, torch.ones_like(items))
        return cls(interactions, ranks.sums_of(counts), first, last, ranks)


def strangeness(
    holders: Holders, score: ScorePairs, *, generator: torch.Generator, chunk: int
) -> np.ndarray:
    """d_k: the share of strangers who are more like the item's other users than the user is.

    A user's profile p_u holds the model's scores of some probe items, standardised over the
    probes, less the mean over users, of length 1. Let T be the sum of the profiles of the item's
    users without u. Of S strangers s, who are drawn among the users without the item ::

        d_k = (#{s: p_s T > p_u T} + 1/2) / (S + 1)

    For a pair that nobody chose, the user is a stranger as well: all S + 1 ranks are as likely,
    and d_k is uniform on (0, 1), whether the item is popular or not and the user active or not.
    For a preference d_k is near 0. The pair's own score is not looked at: it shows what was
    memorized, noise as well.

    Args:
        holders: D, and the users looked at; of the others' interactions d is NaN. T is summed over
            all ranks.
        score: scores of pairs, called with at most about `chunk` pairs, users in order.
        generator: draws probes and strangers; on all ranks in the same state.

    Returns:
        (N,) float32; NaN where nothing is known: the item has no other user, or no stranger. Of
        few strangers d is near 1/2, which tells little.

    Raises:
        ScoreError: scores of another shape, or NaN or +inf among them.

    Source: ours (deviation 23).
    """
    interactions, first, last = holders.interactions, holders.first, holders.last
    probes = _drawn_probes(holders, generator)
    profiles = _profiles(holders, score, probes, chunk=chunk)
    sums = torch.zeros(interactions.n_items, len(probes), dtype=torch.float32)
    for _, users, items in _pieces(interactions, first, last):
        sums.index_add_(0, items, profiles[users])
    sums = holders.ranks.sums_of(sums)
    strangers, near = _strangers(holders, profiles, sums, generator)
    met = (near > -torch.inf).sum(dim=1)
    alike = _products(profiles, strangers)
    found = np.full(len(interactions), np.nan, dtype=np.float32)
    unknown = (holders.counts < 2) | (met == 0)
    for ids, users, items in _pieces(interactions, first, last):
        own = profiles[users]
        itself = own.square().sum(dim=1)  # 1, or 0 of a user who is like the mean user
        product = (own * sums[items]).sum(dim=1) - itself
        ahead = (near[items] - alike[users] > product[:, None]).sum(dim=1)
        share = share_ahead(ahead, met[items])
        found[ids] = torch.where(unknown[items], torch.nan, share).numpy()
    return found


def _pieces(
    interactions: Interactions, first: int, last: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some interactions at a time: their ids, their users counted from `first`, their items."""
    low, high = int(interactions.starts[first]), int(interactions.starts[last])
    for start in range(low, high, CHUNK):
        ids = slice(start, min(start + CHUNK, high))
        users = interactions.places(ids)
        yield ids, users - first, interactions.keys[ids] - users * interactions.n_items


def _drawn_probes(holders: Holders, generator: torch.Generator) -> Tensor:
    """Distinct items that someone has, ascending, as many as the profiles may hold."""
    counts, n_users, ranks = holders.counts, holders.interactions.n_users, holders.ranks
    (users,) = ranks.sums(n_users) if not ranks.replicated else (n_users,)
    most = min(max(int(counts.sum() / users), PROBES[0]), PROBES[1])
    most = max(8, min(most, int(PROFILE_BYTES / (4 * users))))
    seen = counts.nonzero()[:, 0]
    order = torch.randperm(len(seen), generator=generator)[:most]
    return seen[order].sort().values


def _profiles(holders: Holders, score: ScorePairs, probes: Tensor, *, chunk: int) -> Tensor:
    """p of the users looked at, (last - first, P) float32."""
    interactions, ranks = holders.interactions, holders.ranks
    first, last = holders.first, holders.last
    found = torch.empty(last - first, len(probes), dtype=torch.float32)
    step = max(1, chunk // len(probes))
    with ranks.together():  # nothing inside asks other ranks: bad scores of one end all
        for start in range(first, last, step):
            places = torch.arange(start, min(start + step, last))
            users = interactions.ids_at(places).repeat_interleave(len(probes))
            items = probes.repeat(len(places))
            scores = checked_scores(score(users, items), users, items).double()
            found[places - first] = _standardised(scores.view(len(places), len(probes))).float()
    total = found.sum(dim=0, dtype=torch.float64)
    (users_in_all,) = ranks.sums(len(found))
    total = ranks.sums_of(total)
    found -= (total / users_in_all).float()
    length = found.norm(dim=1, keepdim=True)
    return found.div_(torch.where(length > 1e-6, length, torch.inf))


def _standardised(scores: Tensor) -> Tensor:
    """Less their mean, over their standard deviation, along rows; masked as the row's least."""
    finite = scores > MASK
    if not bool(finite.all()):
        least = torch.where(finite, scores, torch.inf).amin(dim=1, keepdim=True)
        scores = torch.where(finite, scores, torch.nan_to_num(least, posinf=0.0))
    scores = scores - scores.mean(dim=1, keepdim=True)
    spread = scores.square().mean(dim=1, keepdim=True).sqrt()
    return scores / torch.where(spread > 0, spread, torch.inf)


def _strangers(
    holders: Holders, profiles: Tensor, sums: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Profiles of some users, (S, P), and their products with T of each item, (n_items, S).

    T of all users of the item; -inf where the stranger is one of them.
    """
    interactions, ranks, first = holders.interactions, holders.ranks, holders.first
    n_items = interactions.n_items
    (size,) = ranks.sums(len(interactions)) if not ranks.replicated else (len(interactions),)
    most = min(max(int(COMPARED / size), STRANGERS[0]), STRANGERS[1])
    most = min(TABLE // n_items, most)
    ids = interactions.ids_at(torch.arange(first, first + len(profiles)))
    chosen = _lowest_hashes(ids, most, ranks, generator)
    near = _products(profiles[chosen], sums)
    for row, place in enumerate((chosen + first).tolist()):
        has = slice(int(interactions.starts[place]), int(interactions.starts[place + 1]))
        near[row, interactions.keys[has] - place * n_items] = -torch.inf
    return ranks.gather(profiles[chosen]).rows, ranks.gather(near).rows.T.contiguous()


def _products(rows: Tensor, others: Tensor) -> Tensor:
    """Of each row with each other one; numpy's, as torch's would be of 16 bits where an epoch ends
    inside the user's autocast."""
    return torch.from_numpy(rows.numpy() @ others.numpy().T)


def _lowest_hashes(
    ids: Tensor, most: int, ranks: Ranks, generator: torch.Generator
) -> Tensor:
    """Places of this rank's users among the `most` with the lowest hashes on all ranks.

    Hashes follow from the id and one draw, so that it does not matter which rank has which users.
    """
    salt = int(torch.randint(2**62, (1,), generator=generator))
    hashes = torch.from_numpy(_hashed(ids.numpy(), salt))
    own = hashes.sort().values[:most]
    lowest = ranks.gather(own).rows.sort().values[:most]
    return (hashes <= lowest[-1]).nonzero()[:, 0]


def _hashed(ids: np.ndarray, salt: int) -> np.ndarray:
    """SplitMix64 of ids, int64 >= 0 (Steele, Lea, Flood, OOPSLA 2014)."""
    x = ids.astype(np.uint64) + np.uint64(salt)
    with np.errstate(over="ignore"):
        x = x * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: np.ndarray = ((x ^ (x >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)
    return found
