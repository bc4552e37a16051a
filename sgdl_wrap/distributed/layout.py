"""How the interactions lie on the ranks: all of them on each, or each user's on one.

What Phase I asks of an interaction, whether it is among its user's best, how its loss compares
with its user's others, takes all interactions of a user. So a user is never divided.
"""

from __future__ import annotations

from typing import Any

import torch

from sgdl_wrap.batches.samples import Samples
from sgdl_wrap.distributed.ranks import CHUNK, Ranks
from sgdl_wrap.errors import BatchError, InteractionsError, UnsupportedModelError
from sgdl_wrap.interactions import Interactions


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
    told = ranks.objects((interactions.fingerprint(), size, interactions.n_users, settings))
    for rank, (_, theirs, _, other) in enumerate(told):
        if theirs != told[0][1]:
            raise InteractionsError(
                f"Expected one catalogue on all ranks, got n_items = {told[0][1]} on rank 0 and "
                f"{theirs} on rank {rank}. Pass n_items=..., the size of the whole catalogue."
            )
        if other != told[0][3]:
            names = sorted(k for k in other if other[k] != told[0][3].get(k))
            raise InteractionsError(
                f"Expected one config on all ranks, got rank {rank} differ from rank 0 in "
                f"{', '.join(names)}. Build the denoiser with the same config everywhere."
            )
    ranks.replicated = len({fingerprint for fingerprint, *_ in told}) == 1
    if ranks.replicated:
        return
    n_users = max(count for _, _, count, _ in told)
    here = torch.zeros(n_users, dtype=torch.int32)
    here[: interactions.n_users] = interactions.counts > 0
    for first in range(0, n_users, CHUNK):
        holders = ranks.sums_of(here[first : first + CHUNK])
        if int(holders.max()) > 1:
            user = first + int(holders.argmax())
            raise InteractionsError(
                f"Expected all pairs on every rank, or each user's pairs on one rank, got pairs "
                f"of user {user} on {int(holders.max())} ranks that differ. Divide by user, or "
                "hand every rank all pairs."
            )


def own_users(ranks: Ranks, interactions: Interactions) -> tuple[int, int]:
    """The users that this rank answers for, [first, last): about as many interactions each."""
    if not ranks.replicated:
        return 0, interactions.n_users
    edges = torch.arange(ranks.size + 1) * len(interactions) // ranks.size
    users = torch.searchsorted(interactions.starts, edges)
    users[0], users[-1] = 0, interactions.n_users
    first, last = users[ranks.rank : ranks.rank + 2].tolist()
    return first, last


def check_own_pairs(ranks: Ranks, samples: Samples, where: str) -> None:
    """Refuses a batch of other ranks' pairs where each rank knows its own users' alone.

    Raises:
        BatchError: it holds observed pairs that this rank does not know.
    """
    unknown = int((samples.observed & (samples.ids < 0)).sum())
    if ranks.several and not ranks.replicated and unknown:
        raise BatchError(
            f"Expected pairs that rank {ranks.rank} was handed, got {unknown} others in {where}. "
            "Load each rank's own pairs there, or hand every rank all pairs and use a "
            "DistributedSampler."
        )
