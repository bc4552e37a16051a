"""From evidence on pairs to an answer on every row, user and item."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgdl_wrap.command.clicks import Clicks
from sgdl_wrap.command.instrument import Factory
from sgdl_wrap.command.requirements import FileRefused
from sgdl_wrap.command.watching import FOLDS, Evidence, Progress, one_thread, watch

Z = 1.96  # of an interval that holds the truth 19 times out of 20
KNOWN, NO_ID, ONE_CLICK, NOTHING = "yes", "no id", "user has one item", "item has one user"


@dataclass(frozen=True)
class Verdict:
    """An answer on every row of the file.

    Attributes:
        suspicion, probability: (rows,) float32; NaN without evidence.
        suspect: (rows,) bool; never without evidence.
        evidence: of each row, an index of `WORDS`, (rows,) int8.
        share, interval: of noise among the pairs with evidence.
        pairs: with evidence.
        suspects: among them.
        seconds: that training and watching took.
    """

    suspicion: NDArray[np.float32]
    probability: NDArray[np.float32]
    suspect: NDArray[np.bool_]
    evidence: NDArray[np.int8]
    share: float
    interval: tuple[float, float]
    pairs: int
    suspects: int
    seconds: float

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which rows there is evidence on, (rows,)."""
        found: NDArray[np.bool_] = self.evidence == 0
        return found


WORDS = (KNOWN, NO_ID, ONE_CLICK, NOTHING)


def judge(
    clicks: Clicks,
    *,
    factory: Factory | None = None,
    folds: int = FOLDS,
    passes: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Verdict:
    """Trains, watches, and calls as many pairs suspects as the noise share supports.

    The suspects are the round(share · pairs) pairs with the highest probability of noise, of equal
    ones those with the highest suspicion; share is the middle of the interval. Users with one item
    are not looked at: nothing else tells their taste.

    Args:
        clicks: the rows.
        factory, folds, passes, progress: as of :func:`~sgdl_wrap.command.watching.watch`.

    Raises:
        FileRefused: no user has two items, or no item two such users.
    """
    looked = np.bincount(clicks.pair_user, minlength=len(clicks.users))[clicks.pair_user] > 1
    if not looked.any():
        raise FileRefused(
            "Expected users with two or more items, got one each. "
            "Name a column that several rows share with --user: an id of a person, not of a visit."
        )
    if np.bincount(clicks.pair_item[looked]).max() < 2:
        raise FileRefused(
            "Expected items that two or more users have, got none. "
            "Name a coarser column with --item: a product, not an offer or a search."
        )
    users = np.unique(clicks.pair_user[looked], return_inverse=True)[1]
    items = np.unique(clicks.pair_item[looked], return_inverse=True)[1]
    with one_thread() if factory is None else nullcontext():
        found = watch(users, items, factory=factory, folds=folds, passes=passes, progress=progress)
    suspicion, probability = (
        _spread(values, looked) for values in (found.suspicion, found.probability)
    )
    known = ~np.isnan(suspicion)
    suspect = suspects(suspicion, probability, found.share)
    why = np.where(known, 0, np.where(looked, 3, 2))
    return _on_rows(clicks, found, suspicion, probability, suspect, why)


def suspects(
    suspicion: NDArray[np.float32], probability: NDArray[np.float32], share: float
) -> NDArray[np.bool_]:
    """Which pairs are suspects, (pairs,): round(share · known) of them.

    Args:
        suspicion, probability: (pairs,), NaN where nothing is known.
        share: of noise.
    """
    known = ~np.isnan(suspicion)
    count = round(share * int(known.sum()))
    order = np.lexsort((-np.nan_to_num(suspicion), -np.nan_to_num(probability), ~known))
    found = np.zeros(len(suspicion), dtype=bool)
    found[order[:count]] = True
    return found


def share_and_interval(
    suspects: NDArray[np.float64], of: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """p = k / n and Wilson's interval, 95 %::

        (p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n),  z = 1.96

    Args:
        suspects: k, (groups,).
        of: n, (groups,); where it is 0, all three are NaN.

    Returns:
        p, low and high, (groups,) each.

    Source: Wilson, Journal of the American Statistical Association, 1927.
    """
    n = np.where(of > 0, of, np.nan)
    p = suspects / n
    middle, scale = p + Z**2 / (2 * n), 1 + Z**2 / n
    reach = Z * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return p, np.maximum((middle - reach) / scale, 0), np.minimum((middle + reach) / scale, 1)


def _spread(values: NDArray[np.float32], where: NDArray[np.bool_]) -> NDArray[np.float32]:
    found = np.full(len(where), np.nan, dtype=np.float32)
    found[where] = values
    return found


def _on_rows(
    clicks: Clicks,
    found: Evidence,
    suspicion: NDArray[np.float32],
    probability: NDArray[np.float32],
    suspect: NDArray[np.bool_],
    why: NDArray[np.int64],
) -> Verdict:
    """Every row has the answer of its pair; a row without an id has the last one, which is none."""
    nan = np.float32(np.nan)
    return Verdict(
        np.append(suspicion, nan)[clicks.pair],
        np.append(probability, nan)[clicks.pair],
        np.append(suspect, False)[clicks.pair],
        np.append(why, 1).astype(np.int8)[clicks.pair],
        found.share,
        found.interval,
        int((why == 0).sum()),
        int(suspect.sum()),
        found.seconds,
    )
