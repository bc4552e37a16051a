"""Which interactions the samples of a batch are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.batches.pairs import Pairs
from sgdl_wrap.errors import BatchError

MOST_UNKNOWN = 1 / 3  # of the pairs that pass for observed: more of them are sampled negatives


@dataclass(frozen=True)
class Samples:
    """Which pairs the samples of a batch are.

    Attributes:
        ids: their interactions, (B,) int64; -1 where unobserved or unknown.
        users, items: (B,) int64.
        observed: which are observed pairs, (B,) bool; all where the batch does not say.
        told: whether the batch says which are observed.
    """

    ids: np.ndarray
    users: np.ndarray
    items: np.ndarray
    observed: np.ndarray
    told: bool

    @classmethod
    def joined(cls, parts: Sequence[Samples]) -> Samples:
        """Those of several batches, one after the other."""
        ids, users, items, observed = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("ids", "users", "items", "observed")
        )
        return cls(ids, users, items, observed, any(part.told for part in parts))

    @property
    def negative(self) -> np.ndarray:
        """Which are negatives, (B,) bool: as the batch says, else the unknown ones."""
        return ~self.observed if self.told else self.ids < 0


def are_pointwise(samples: int, observed: int, negatives: int) -> bool:
    """Whether unobserved pairs are samples of their own, as a whole epoch shows it.

    A pair or two that are missing among the interactions make no pointwise loss.

    Args:
        samples: of the epoch.
        observed: those of them that are interactions.
        negatives: those that their batch calls unobserved.
    """
    meant = samples - negatives
    return negatives > 0 or meant - observed > MOST_UNKNOWN * meant


def identified(pairs: Pairs, interactions: Interactions) -> Samples:
    """The samples of some pairs.

    Raises:
        InteractionsError: ids out of range.
    """
    users, items, observed = pairs.arrays()
    if observed.all():
        ids = interactions.find(users, items)
    else:  # sampled negatives, most of a pointwise batch, need no look-up
        rows = np.flatnonzero(observed)
        ids = np.full(len(users), -1, dtype=np.int64)
        ids[rows] = interactions.find(users[rows], items[rows])
    return Samples(ids, users, items, observed, pairs.observed is not None)


def refuse_unknown(samples: Samples) -> None:
    """Refuses a batch whose observed pairs are all unknown; it may have none.

    Raises:
        BatchError: they are.
    """
    meant, size = int(samples.observed.sum()), len(samples.ids)
    if meant and samples.ids.max() < 0:
        which = f"its {size} samples" if meant == size else f"the {meant} that it marks observed"
        raise BatchError(
            f"Expected observed pairs in this batch, got none of {which} among the interactions. "
            "Pass the training interactions at construction, and pair_fn=... if the batch's ids "
            "are numbered otherwise."
        )


def doubt_of_unknown(samples: Samples) -> str | None:
    """What to say if more than a third of a batch's pairs that pass for observed are unknown.

    They train, and count as sampled negatives where the whole epoch is like it; ids that are one
    off, padding and labels under a name that is not known look the same.
    """
    meant = int(samples.observed.sum())
    unknown = meant - int((samples.ids >= 0).sum())
    if unknown <= MOST_UNKNOWN * meant:
        return None
    return (
        f"Expected the pairs of this batch among the interactions, got {unknown} of {meant} "
        "unknown, which count as sampled negatives. If they are, say so: pair_fn returns "
        "(users, items, observed). Else number ids alike and leave padding out."
    )
