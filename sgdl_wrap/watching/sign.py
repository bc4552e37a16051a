"""Whether scores are higher for better items: memorized pairs should have the lower losses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sgdl_wrap.equations.noise_rate import scale_per_user

EFFECT = 0.4  # standard deviations; right models reach 0.25 at worst, distances 0.5 to 3 at first
SURE = 5.0  # standard errors: chance alone reaches them in one epoch of three million
LEAST = 20  # pairs on either side
MOST = 1 << 17  # pairs that are compared; more tell no more, and take time
PARTS = 16  # of the users, that they are taken from


@dataclass(frozen=True)
class LossGap:
    """How far the losses of memorized pairs lie above those of the others.

    Attributes:
        memorized, others: how many pairs there are of each.
        effect: the difference of the means, in standard deviations within the two groups; 0 if
            there is none to tell.
    """

    memorized: int
    others: int
    effect: float

    @property
    def suspect(self) -> bool:
        """Whether the memorized clearly have the higher losses."""
        if min(self.memorized, self.others) < LEAST:
            return False
        error = math.sqrt(1 / self.memorized + 1 / self.others)
        return self.effect >= max(EFFECT, SURE * error)


def compared_users(starts: np.ndarray, users: tuple[int, int]) -> list[tuple[int, int]]:
    """Ranges [first, last) of users whose pairs are compared: all, or some from all over.

    Args:
        starts: starts[u] : starts[u + 1] are the pairs of user u.
        users: first and last + 1 of those to choose from.
    """
    low, high = int(starts[users[0]]), int(starts[users[1]])
    if high - low <= MOST:
        return [users]
    begins = np.linspace(low, high, PARTS, endpoint=False).astype(np.int64)
    firsts = np.searchsorted(starts, begins)
    lasts = np.searchsorted(starts, begins + MOST // PARTS)
    ends = zip(firsts.tolist(), lasts.tolist(), strict=True)
    return [(first, min(last, users[1])) for first, last in ends if first < last]


def gap_sums(losses: np.ndarray, users: np.ndarray, memorized: np.ndarray) -> tuple[float, ...]:
    """n, Σ x and Σ x² of the memorized pairs, then of the others; sums of several ranks add up.

    x = (L - min_u) / (max_u - min_u) over the losses of the user u, so that neither users whose
    losses are high nor their number of pairs matter.

    Args:
        losses: of this epoch, (N,); NaN marks interactions not seen.
        users: user of each, (N,) int64, sorted.
        memorized: m_t of this epoch, (N,) bool.
    """
    seen = ~np.isnan(losses)
    if not seen.any():
        return (0.0,) * 6
    if not seen.all():
        losses, users, memorized = losses[seen], users[seen], memorized[seen]
    scaled = scale_per_user(losses, users)
    total, squares = float(scaled.sum()), float(scaled @ scaled)
    some = scaled[memorized]
    count, part, part_squares = len(some), float(some.sum()), float(some @ some)
    rest = len(scaled) - count, total - part, squares - part_squares
    return (float(count), part, part_squares, *rest)


def loss_gap(
    count: float, total: float, squares: float, others: float, their_total: float,
    their_squares: float,
) -> LossGap:  # fmt: skip
    """The gap that :func:`gap_sums` tell of.

    (mean of x - mean of x') / s, s² the pooled variance, Cohen's d.
    """
    if not count or not others:
        return LossGap(int(count), int(others), 0.0)
    mean, their_mean = total / count, their_total / others
    within = squares - count * mean**2 + their_squares - others * their_mean**2
    spread = math.sqrt(max(within, 0.0) / (count + others))
    effect = (mean - their_mean) / spread if spread > 1e-6 else 0.0
    return LossGap(int(count), int(others), effect)
