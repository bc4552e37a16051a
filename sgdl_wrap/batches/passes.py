"""When a pass over the loader is over: how many rows of each pair it brings, by the visits so far.

A loader may show each pair once, or in several rows: one for each negative, or one for each click
of a log whose pairs were handed over once. Nothing of the loader is asked; counts of visits tell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

MOST_ROWS = 20  # of a pair in a pass; more look like sampling with replacement
LONGEST = 5  # visits of each pair that are waited for until 1 / K is known
LITTLE = 0.3  # of a pass; less of it is told from none by thousands of pairs alone
MOST_SEEN = 0.9  # of the pairs; an epoch that shows fewer is no pass
_LARGEST = np.iinfo(np.uint8).max


@dataclass(frozen=True)
class Bound:
    """When the visits are looked at next.

    Attributes:
        at: the number of visits.
        settled: whether the pass is over then, without another look.
        together: rows of a pair that come together; 0 before the first look.
        seen, over: visits at the last look, and the part of the pass that was over by then.
    """

    at: int
    settled: bool = False
    together: int = 0
    seen: int = 0
    over: float = 0.0


def first_look(pairs: int) -> Bound:
    """When half of the pairs have come, if each comes once."""
    return Bound(max(1, -(-pairs // 2)))


def visited(counts: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which counts change by some visits, and to what; 255 is the most that is counted.

    Args:
        counts: visits of each interaction, (N,) uint8.
        ids: of the interactions visited, (B,) int64, repeats allowed.

    Returns:
        Distinct ids and their new counts: ``counts[ids] = new`` takes the visits, once or twice.
    """
    some, times = np.unique(ids, return_counts=True)
    return some, np.minimum(counts[some] + times, _LARGEST).astype(np.uint8)


def next_bound(
    counts: np.ndarray, observed: int, bound: Bound, repeats: np.ndarray | None = None
) -> Bound:
    """The first bound that these visits have not reached, or a settled one that they have.

    A pass in which each pair comes once ends with as many visits as there are pairs. Others are
    looked at halfway to the end that is expected, again and again, as :func:`rows_each` knows the
    better how many rows come the nearer the end is. The part that is over grows until the pass is
    over; where it has shrunk, the pass was over at the look before: rows that differ from pair to
    pair, or pairs that never come, hide the end from `rows_each`.

    Args:
        counts: visits of each interaction since the pass began, (N,) uint8.
        observed: their sum; counts may be saturated.
        bound: the one that `observed` has reached.
        repeats: m, how often each pair was handed over, (N,); None if once each.
    """
    while observed >= bound.at and not bound.settled:
        bound = _looked(counts, observed, bound, repeats)
    return bound


def _looked(counts: np.ndarray, observed: int, bound: Bound, repeats: np.ndarray | None) -> Bound:
    size = len(counts)
    if bound.together == 0:
        if counts.max() < 2:  # nor will they in this pass, though its last rows may be dropped
            return Bound(size, settled=repeats is None, together=1)
        together = rows_together(counts)
        return Bound(together * size, together=together)
    pass_once, inverse = rows_each(counts, observed, bound.together, repeats)
    over = inverse * observed / pass_once
    spread = (2 / size) ** 0.5  # of what random order makes of `over` and of visits / (K R)
    if bound.seen and over < bound.over - 2 * (1 - over) * spread:
        # little of a pass was over by chance alone, as with replacement
        at = bound.seen if bound.over > LITTLE else pass_once
        return replace(bound, at=at, settled=True)
    later = replace(bound, seen=observed, over=over)
    if inverse * MOST_ROWS < 1:
        once = observed / pass_once
        if once >= LONGEST or (inverse + 2 * spread / once) * MOST_ROWS < 1:
            return replace(bound, at=pass_once, settled=True)  # with replacement, say
        return replace(later, at=min(LONGEST * pass_once, observed + observed // 2 + 1))
    end = pass_once * max(1, round(1 / inverse))
    if end <= observed:
        return replace(bound, at=end, settled=True)
    near = end - observed <= observed // 10
    return replace(later, at=end if near else observed + min(end - observed, observed) // 2)


def rows_together(counts: np.ndarray) -> int:
    """The rows of a pair that come together: the largest g that divides nearly all counts.

    A negative a row gives each pair g rows in one batch; then counts are 0 and g halfway through a
    pass. One pair may be cut in two by the end of a batch.

    Args:
        counts: visits of each interaction, (N,) uint8, some of them above 0.
    """
    found = np.bincount(counts, minlength=MOST_ROWS + 1)
    found[0] = 0
    touched = int(found.sum())
    if touched < 4:
        return 1
    for g in range(MOST_ROWS, 1, -1):
        if touched - int(found[::g].sum()) <= 1 + 0.02 * touched:
            return g
    return 1


def rows_each(
    counts: np.ndarray, observed: int, together: int = 1, repeats: np.ndarray | None = None
) -> tuple[int, float]:
    """g R, the rows of a pass that has each pair once, and 1 / K: the pass has g K R.

    With visits c_k in units of g rows that come together, and a pass that shows pair k in K w_k
    such units in random order, c_k ~ Binomial(K w_k, x), x the part of the pass that is over:

        E Σ c = x K R,   E Σ c (c - 1) = x² (K² Q - K R),   R = Σ w,   Q = Σ w²,
        1 / K = Q / R - R Σ c (c - 1) / (Σ c)²,   x = Σ c / (K R).

    w is m if the loader has the rows as they were handed over, and 1 if it has distinct pairs:
    Σ c m / Σ c is Q / R in the first case and R / N in the second, with R and Q those of m.

    At K R visits every c is K w, and 1 / K is exact. Before, it is known to about
    (1 - x) sqrt(2 / N) R / Σ c. Sampling with replacement has 1 / K = 0. Pairs that come unevenly,
    or never, make it less.

    Args:
        counts: visits of each interaction, (N,) uint8.
        observed: their sum.
        together: g.
        repeats: m, (N,); None for 1.
    """
    size = len(counts)
    total, squares = size, size  # R and Q
    if repeats is not None:
        times = repeats.astype(np.float64)
        both = float(times.sum()), float(times @ times)
        share = float(times @ counts) / max(float(counts.sum(dtype=np.int64)), 1.0)
        if share > (both[1] / both[0] + both[0] / size) / 2:
            total, squares = int(both[0]), int(both[1])
    found = np.bincount(counts)
    values = np.arange(len(found)) / together
    again = float(found @ (values * (values - 1)))
    inverse = squares / total - total * again / (observed / together) ** 2
    return together * total, inverse


def share_of_pairs(counts: np.ndarray, observed: int, rows: int) -> float:
    """The share of the pairs that so many rows show: the mean of 1 - (1 - q)^c, q = rows / visits.

    Each visit is among the rows with probability q; where q is 1, it is the share of c > 0.

    Args:
        counts: c, visits of each interaction, (N,) uint8.
        observed: their sum.
        rows: at most as many count.
    """
    found = np.bincount(counts)
    left = max(0.0, 1 - rows / observed) ** np.arange(len(found))
    return float(1 - found @ left / len(counts))


def doubts_of_a_pass(
    counts: np.ndarray | None, observed: int, bound: Bound, *, rows: int, dropped: float
) -> list[str]:
    """What is to be said of the first epoch that has ended by itself: nothing, as a rule.

    Args:
        counts: visits of each interaction in it, (N,) uint8; None if they were not counted.
        observed: their sum.
        bound: when it ended.
        rows: how many pairs were handed over, repeats counted.
        dropped: so many pairs may be missing for good reason: those of the loader's last batch, and
            of batches that were skipped.
    """
    remedy = "Call end_epoch() after each pass over the loader, or set explicit_epochs=True"
    if counts is None:
        return []
    # one that was longer than those that follow says what they will show; a batch does not matter
    longer = observed > bound.at + dropped
    share = share_of_pairs(counts, observed, bound.at if longer else observed)
    if share < MOST_SEEN and len(counts) * (1 - share) > dropped:
        return [
            f"Expected an epoch that ends by itself to show nearly every pair, got {share:.0%} of "
            f"{len(counts):,} in {bound.at:,} observed samples. Look for pairs that come more "
            "often than others, or never, and for observed pairs that are marked unobserved. "
            f"{remedy}."
        ]
    if bound.at >= 1.5 * rows:
        return [
            f"Expected each pair once in a pass over the loader, got about {bound.at / rows:.1f} "
            f"rows of each. An epoch ends by itself after {bound.at:,} observed samples, as such "
            f"a pass does. {remedy}, if a pass is longer or shorter."
        ]
    return []
