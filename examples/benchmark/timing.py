"""Steps of several variants in turn, in one process, on the same batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from examples.batches import Batch
from examples.benchmark.variants import Step


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some times, in ms."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Spread:
        """Of at least one time."""
        if len(times) == 1:
            return cls(times[0], times[0], times[0])
        lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
        return cls(median, lower, upper)


def milliseconds(step: Step, batch: Batch) -> float:
    """What one step takes."""
    start = time.perf_counter()
    step(batch)
    return 1000 * (time.perf_counter() - start)


def in_turn(
    steps: Mapping[str, Step], batches: Sequence[Batch], rounds: int
) -> dict[str, list[float]]:
    """The times of every variant, one step each a round; who begins changes from round to round.

    Whatever slows the machine for a while slows all of them, and medians drop what hits one.
    """
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(rounds):
        batch = batches[round_number % len(batches)]
        first = round_number % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(milliseconds(steps[name], batch))
    return times
