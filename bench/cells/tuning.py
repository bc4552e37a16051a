"""The settings of plain training, searched on validation."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from math import floor, log

MOST = 9  # trials
STEP = 3.0
LEAST_L2 = 1e-6  # a penalty below is none
Point = tuple[float, float]  # learning rate, l2
Level = tuple[int, int]  # steps from the start, in each
_DIRECTIONS: tuple[Level, ...] = ((1, 0), (-1, 0), (0, 1), (0, -1))


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        point: the best (learning rate, l2).
        inside: whether all its neighbours were tried. False if the trials ran out before.
    """

    point: Point
    inside: bool


def search(start: Point, *, most: int = MOST) -> Generator[Point, float, Tuned]:
    """Yields the points to try, is sent the value of each, and returns the best.

    A neighbour is a step of 3 in the rate or in the penalty. The search moves to the first
    neighbour that is better, tries the same direction again, and ends when no neighbour of the
    best is better. So the best is inside of what was tried, unless `most` points were tried
    before. A penalty below 1e-6 is 0. Below 0 there is nothing, so 0 is no edge.

    Args:
        start: where it begins.
        most: points to try at most.
    """
    best: Level = (0, 0)
    values = {best: (yield _point(start, best))}
    first: Level = _DIRECTIONS[0]
    while True:
        lowest = _lowest(start[1])
        around = [
            (direction, (best[0] + direction[0], best[1] + direction[1]))
            for direction in (first, *(one for one in _DIRECTIONS if one != first))
        ]
        untried = [(d, level) for d, level in around if level not in values and level[1] >= lowest]
        if not untried:
            return Tuned(_point(start, best), inside=True)
        if len(values) >= most:
            return Tuned(_point(start, best), inside=False)
        direction, level = untried[0]
        values[level] = yield _point(start, level)
        if values[level] > values[best]:
            best, first = level, direction


def _lowest(l2: float) -> int:
    """The level of penalty 0."""
    if l2 < LEAST_L2:
        return 0
    # the first step down that goes below the least; 1e-9 against rounding
    return -(floor(log(l2 / LEAST_L2, STEP) + 1e-9) + 1)


def _point(start: Point, level: Level) -> Point:
    rate, l2 = start
    rate = rate if level[0] == 0 else _rounded(rate * STEP ** level[0])
    if l2 < LEAST_L2:  # above none is the least penalty
        return rate, _rounded(LEAST_L2 * STEP ** (level[1] - 1)) if level[1] else 0.0
    if level[1] <= _lowest(l2):
        return rate, 0.0
    return rate, l2 if level[1] == 0 else _rounded(l2 * STEP ** level[1])


def _rounded(value: float) -> float:
    """Three digits: a setting is read, and is the same after it was written."""
    return float(f"{value:.3g}")
