"""The settings of plain training, found on validation."""

from __future__ import annotations

from collections.abc import Callable

MOST = 9  # trials
LEAST_L2 = 1e-7
Point = tuple[float, float]  # learning rate, l2


def tuned(start: Point, value: Callable[[Point], float], *, most: int = MOST) -> Point:
    """The best of some points, each a third or three times a neighbour in rate or penalty.

    The search goes on from the best until none of its neighbours is better, or `most` points were
    tried. So the best is inside of what was tried, unless the trials ran out.

    Args:
        start: where it begins.
        value: validation NDCG@20 of a point; higher is better.
    """
    seen = {start: value(start)}

    def best() -> Point:
        return max(seen, key=lambda point: seen[point])

    while True:
        now = best()
        for point in _neighbours(now):
            if len(seen) >= most:
                return best()
            if point not in seen:
                seen[point] = value(point)
                if seen[point] > seen[now]:
                    break
        if best() == now:
            return now


def _neighbours(point: Point) -> list[Point]:
    rate, l2 = point
    found = [(rate, _third(l2, 3)), (rate, _third(l2, 1 / 3)), (_third(rate, 3), l2),
             (_third(rate, 1 / 3), l2)]
    return [(r, p) for r, p in found if p >= LEAST_L2]


def _third(value: float, factor: float) -> float:
    return float(f"{value * factor:.3g}")
