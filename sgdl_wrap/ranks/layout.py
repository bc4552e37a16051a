"""How the interactions lie on the ranks: all of them on each, or each user's on one.

What Phase I asks of an interaction, whether it is among its user's best, how its loss compares
with its user's others, takes all interactions of a user. So a user is never divided.
"""

from __future__ import annotations

from typing import Any

import torch

from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.batches.samples import Samples
from sgdl_wrap.errors import BatchError, InteractionsError, UnsupportedModelError
from sgdl_wrap.ranks.ranks import CHUNK, Ranks


def settle(ranks: Ranks, interactions: Interactions, settings: dict[str, Any]) -> None:
    """Decides `ranks.replicated` by what the ranks have handed over.

    Args:
        settings: what must be the same everywhere; the config.

    Raises:
        InteractionsError: other settings or catalogues; users that are on several ranks, while the
            ranks differ.
        UnsupportedModelError: a setting that one process alone can have.
    """
    if not ranks.several:
        return
    if settings["on_nonfinite"] == "skip":
        raise UnsupportedModelError(
            "Expected on_nonfinite='raise' on several ranks, got 'skip': a batch that one rank "
            "leaves out, the others would wait for. Look for NaN in your loop, on all ranks alike."
        )
    size = interactions.n_items
    told = ranks.objects((interactions.fingerprint(), size, settings))
    for rank, (_, theirs, other) in enumerate(told):
        if theirs != told[0][1]:
            raise InteractionsError(
                f"Expected one catalogue on all ranks, got n_items = {told[0][1]} on rank 0 and "
                f"{theirs} on rank {rank}. Pass n_items=..., the size of the whole catalogue."
            )
        if other != told[0][2]:
            names = sorted(k for k in other if other[k] != told[0][2].get(k))
            raise InteractionsError(
                f"Expected one config on all ranks, got rank {rank} differ from rank 0 in "
                f"{', '.join(names)}. Build the denoiser with the same config everywhere."
            )
    ranks.replicated = len({fingerprint for fingerprint, *_ in told}) == 1
    if not ranks.replicated:
        _refuse_shared_users(ranks, interactions)


def _refuse_shared_users(ranks: Ranks, interactions: Interactions) -> None:
    """Each rank tells the others its users' ids, in order, some at a time.

    Raises:
        InteractionsError: two ranks have pairs of one user.
    """
    ids = interactions.known_users
    most, first = max(1, CHUNK // ranks.size), 0
    while True:
        # up to an id that is so low that no rank has more than `most` below or at it
        mine = int(ids[min(first + most, len(ids)) - 1]) if first < len(ids) else None
        ends = [end for end in ranks.objects(mine) if end is not None]
        if not ends:
            return
        last = int(torch.searchsorted(ids, min(ends), right=True))
        told = ranks.gather(ids[first:last]).rows
        users, holders = torch.unique(told, return_counts=True)
        if int(holders.max()) > 1:
            place = int(holders.argmax())
            raise InteractionsError(
                f"Expected all pairs on every rank, or each user's pairs on one rank, got pairs "
                f"of user {int(users[place])} on {int(holders[place])} ranks that differ. Divide "
                "by user, or hand every rank all pairs."
            )
        first = last


def own_users(ranks: Ranks, interactions: Interactions) -> tuple[int, int]:
    """The places of the users that this rank answers for, [first, last).

    Each rank has about as many interactions.
    """
    if not ranks.replicated:
        return 0, interactions.n_users
    edges = torch.arange(ranks.size + 1) * len(interactions) // ranks.size
    users = torch.searchsorted(interactions.starts, edges)
    users[0], users[-1] = 0, interactions.n_users
    first, last = users[ranks.rank : ranks.rank + 2].tolist()
    return first, last


def check_own_pairs(ranks: Ranks, samples: Samples) -> None:
    """Refuses a batch of other ranks' pairs where each rank knows its own users' alone.

    Raises:
        BatchError: it holds observed pairs that this rank does not know.
    """
    unknown = int((samples.observed & (samples.ids < 0)).sum())
    if ranks.several and not ranks.replicated and unknown:
        raise BatchError(
            f"Expected pairs that rank {ranks.rank} was handed, got {unknown} others in this "
            "batch. Load each rank's own pairs there, or hand every rank all pairs and use a "
            "DistributedSampler."
        )
