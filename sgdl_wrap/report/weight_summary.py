"""What the weights do, in a few numbers: how far from even they are, and along what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sgdl_wrap.ranks.ranks import ALONE, Ranks

MOST = 1 << 16  # interactions looked at: more change the second decimal no more
SUSPICIOUS = 0.9  # above this quantile of suspicion
RISES, PRESSED = 1.05, 0.5  # ratios of weights
SURE = 0.05  # confidence from which weights are to follow suspicion
EVEN = 0.995  # effective sample size over the number of samples


@dataclass(frozen=True)
class WeightSummary:
    """Of the weights w of interactions.

    Attributes:
        effective: (Σ w)² / (n Σ w²) in (0, 1], the effective sample size over n; 1 where all
            weights are equal.
        suspicious: mean weight of the most suspicious tenth over that of the rest; of more than a
            tenth where several are equally suspicious.
        rare: mean weight of the least popular fifth over that of the rest.

        A ratio is 1 where one of its parts is empty.
    """

    effective: float
    suspicious: float
    rare: float


def evenly(size: int, most: int = MOST) -> np.ndarray:
    """At most so many places among `size`, evenly spaced, int64."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).astype(np.int64))


def summary(
    weights: np.ndarray, suspicion: np.ndarray, fifths: np.ndarray, *, ranks: Ranks = ALONE
) -> WeightSummary:
    """The summary of some interactions; NaN weights and suspicions are left out.

    Args:
        weights: w, (n,) >= 0.
        suspicion: (n,).
        fifths: of popularity, 0 to 4, 0 the least popular, (n,).
        ranks: those whose interactions are summed up together.
    """
    known = ~(np.isnan(weights) | np.isnan(suspicion))
    w, s, rare = weights[known], suspicion[known], fifths[known] == 0
    everywhere = ranks.gather(torch.from_numpy(s)).rows.numpy()
    above = np.zeros(len(s), dtype=bool)
    if len(everywhere):
        edge = np.quantile(everywhere, SUSPICIOUS)
        # of equal ones at the edge all count, but where nearly all are equal the others do
        above = s >= edge if edge > everywhere.min() else s > edge
    sums = [float(len(w)), float(w.sum()), float((w * w).sum())]
    for part in (above, rare):
        sums += [float(part.sum()), float(w[part].sum())]
    n, total, squares, n_above, w_above, n_rare, w_rare = ranks.sums(*sums)
    return WeightSummary(
        effective=total**2 / (n * squares) if squares > 0 else 1.0,
        suspicious=_over_rest(w_above, n_above, total, n),
        rare=_over_rest(w_rare, n_rare, total, n),
    )


def doubt(found: WeightSummary) -> str | None:
    """What is wrong with the weights, and what to do; None if nothing is.

    They rise with suspicion, or they press unpopular items down further than what is suspicious.
    """
    if found.suspicious > RISES:
        return (
            f"Expected the most suspicious tenth to have lower weights than the rest, got "
            f"{found.suspicious:.2f} of the rest's: what guides teaches the noise. Set "
            "weighting_entropy higher, or audit_only=True to leave training as it is."
        )
    if found.rare < PRESSED * min(found.suspicious, 1.0):  # noise may lie on rare items, too
        return (
            f"Expected weights to follow suspicion, got the least popular fifth at "
            f"{found.rare:.2f} of the rest's and the most suspicious tenth at "
            f"{found.suspicious:.2f}: they follow popularity. Look at the recall of unpopular "
            "items, and set audit_only=True if it falls."
        )
    return None


def _over_rest(part: float, n_part: float, total: float, n: float) -> float:
    rest = total - part
    if n_part == 0 or n_part == n or rest <= 0:
        return 1.0
    return (part / n_part) / (rest / (n - n_part))
