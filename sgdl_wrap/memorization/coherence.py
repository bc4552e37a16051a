"""Whether a user is like an item's other users: evidence that popularity cannot give."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.distributed.ranks import ALONE, Ranks
from sgdl_wrap.interactions import Interactions
from sgdl_wrap.memorization.ranking import ScorePairs, checked_scores

PROBES = 64, 256  # items whose scores make a user's profile: as many as a user has, within these
STRANGERS = 128, 512  # users whom an item's own are compared with
COMPARED = 1 << 24  # interactions times strangers, where that leaves more than the least
TABLE = 1 << 24  # items times strangers, at most
HELD = 1.5  # in the place of a cosine, of a user who has the item
PROFILE_BYTES = 1 << 28  # of all profiles together, at most
CHUNK = 1 << 14  # interactions looked at at once, so that they stay in the cache


def strangeness(
    interactions: Interactions,
    score: ScorePairs,
    counts: Tensor,
    *,
    generator: torch.Generator,
    chunk: int,
    among: tuple[int, int] | None = None,
    ranks: Ranks = ALONE,
) -> np.ndarray:
    """d_k: the share of strangers who are more like the item's other users than the user is.

    A user's profile p_u holds the model's scores of some probe items, standardised over the
    probes, less the mean over users, of length 1. With T_i the sum of the profiles of item i's
    users, user u and a stranger s, who is drawn among the users without the item, compare as ::

        a_k = cos(p_u, T_i - p_u)        b_s = cos(p_s, T_i)        d_k = mean_s [b_s > a_k]

    For a pair that nobody chose, the user is a stranger, and d_k is uniform on [0, 1], whether the
    item is popular or not and the user active or not. For a preference d_k is near 0. The pair's
    own score is not looked at: it shows what was memorized, noise as well.

    Args:
        interactions: D.
        score: scores of pairs, called with at most about `chunk` pairs, users in order.
        counts: users of each item, over all ranks, (n_items,) int64.
        generator: draws probes and strangers; on all ranks in the same state.
        among: the places of the users looked at, [first, last); of the others' interactions d is
            NaN.
        ranks: each knows the profiles of its own users; T is summed over all.

    Returns:
        (N,) float32; NaN where nothing is known: the item has no other user, or no stranger.

    Raises:
        ScoreError: scores of another shape, or NaN or +inf among them.

    Source: ours (deviation 23).
    """
    first, last = among if among is not None else (0, interactions.n_users)
    probes = _drawn_probes(counts, interactions.n_users, ranks, generator)
    profiles = _profiles(
        interactions, score, probes, first, last, chunk=chunk, ranks=ranks
    )
    sums = torch.zeros(interactions.n_items, len(probes), dtype=torch.float32)
    for _, users, items in _pieces(interactions, first, last):
        sums.index_add_(0, items, profiles[users])
    sums = ranks.sums_of(sums)
    strangers, met = _strangers(interactions, profiles, sums, first, ranks, generator)
    squares = sums.square().sum(dim=1)
    found = np.full(len(interactions), np.nan, dtype=np.float32)
    alone = (counts < 2) | (met == 0)
    for ids, users, items in _pieces(interactions, first, last):
        own = profiles[users]
        along = (own * sums[items]).sum(dim=1)
        length = own.square().sum(dim=1)  # 1, or 0 of a user who is like the mean user
        others = squares[items] - 2 * along + length
        clear = others > 1e-6 * (1 + squares[items])  # else what is left is rounding
        cosine = (along - length) / torch.where(clear, others, torch.inf).sqrt()
        cosine = cosine.clamp(-1, 1)  # HELD is for those who have the item
        below = torch.searchsorted(strangers, _in_order(cosine, items), right=True)
        below -= items * (len(strangers) // interactions.n_items)
        share = 1 - below.float() / met[items].clamp_min(1)
        found[ids] = torch.where(alone[items], torch.nan, share).numpy()
    return found


def item_counts(interactions: Interactions, among: tuple[int, int], ranks: Ranks) -> Tensor:
    """How many users each item has, over all ranks, (n_items,) int64.

    Args:
        among: the places of the users that this rank answers for, [first, last).
    """
    counts = torch.zeros(interactions.n_items, dtype=torch.int64)
    for _, _, items in _pieces(interactions, *among):
        counts.index_add_(0, items, torch.ones_like(items))
    return ranks.sums_of(counts)


def _pieces(
    interactions: Interactions, first: int, last: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some interactions at a time: their ids, their users counted from `first`, their items."""
    low, high = int(interactions.starts[first]), int(interactions.starts[last])
    for start in range(low, high, CHUNK):
        ids = slice(start, min(start + CHUNK, high))
        users = interactions.places(ids)
        yield ids, users - first, interactions.keys[ids] - users * interactions.n_items


def _drawn_probes(
    counts: Tensor, n_users: int, ranks: Ranks, generator: torch.Generator
) -> Tensor:
    """Distinct items that someone has, ascending, as many as the profiles may hold."""
    (users,) = ranks.sums(n_users) if not ranks.replicated else (n_users,)
    most = min(max(int(counts.sum() / users), PROBES[0]), PROBES[1])
    most = max(8, min(most, int(PROFILE_BYTES / (4 * users))))
    seen = counts.nonzero()[:, 0]
    order = torch.randperm(len(seen), generator=generator)[:most]
    return seen[order].sort().values


def _profiles(
    interactions: Interactions,
    score: ScorePairs,
    probes: Tensor,
    first: int,
    last: int,
    *,
    chunk: int,
    ranks: Ranks,
) -> Tensor:
    """p of the users with places in [first, last), (last - first, P) float32."""
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
    """Less their mean, over their standard deviation, along rows; -inf as the row's least."""
    finite = scores > -torch.inf
    if not bool(finite.all()):
        least = torch.where(finite, scores, torch.inf).amin(dim=1, keepdim=True)
        scores = torch.where(finite, scores, torch.nan_to_num(least, posinf=0.0))
    scores = scores - scores.mean(dim=1, keepdim=True)
    spread = scores.square().mean(dim=1, keepdim=True).sqrt()
    return scores / torch.where(spread > 0, spread, torch.inf)


def _strangers(
    interactions: Interactions,
    profiles: Tensor,
    sums: Tensor,
    first: int,
    ranks: Ranks,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """b of each item, in order, one item after the other; and how many strangers each has met.

    Those who have an item stand behind its strangers.

    Returns:
        (n_items * S,) float64, as of :func:`_in_order`, ascending; and (n_items,) int64.
    """
    n_items = interactions.n_items
    (size,) = ranks.sums(len(interactions)) if not ranks.replicated else (len(interactions),)
    most = min(max(int(COMPARED / size), STRANGERS[0]), STRANGERS[1])
    most = min(max(TABLE // n_items, 16), most)
    ids = interactions.ids_at(torch.arange(first, first + len(profiles)))
    chosen = _lowest_hashes(ids, most, ranks, generator)
    length = sums.norm(dim=1)
    # numpy's product: torch's would be of 16 bits where an epoch ends inside the user's autocast
    found = torch.from_numpy(profiles[chosen].numpy() @ sums.numpy().T)
    found /= torch.where(length > 0, length, torch.inf)
    for row, place in enumerate((chosen + first).tolist()):
        has = slice(int(interactions.starts[place]), int(interactions.starts[place + 1]))
        found[row, interactions.keys[has] - place * n_items] = HELD
    found = ranks.gather(found).rows.T.sort(dim=1).values
    met = (found < HELD).sum(dim=1)
    return _in_order(found, torch.arange(n_items)[:, None]).flatten(), met


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


def _in_order(cosines: Tensor, items: Tensor) -> Tensor:
    """Numbers that are ordered by item first, then by cosine: all are looked up in one array."""
    return cosines.clamp(-1, HELD).double() + 4 * items
