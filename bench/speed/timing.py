"""Steps of several variants in turn, in one process, on the same batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.speed.variants import Step
from bench.training.batches import Batch

# Steps in a row: a multiple of every guidance_interval, as steps differ within one, and enough
# for a variant to have its code and data in the processor's cache, as training has.
CYCLE = 48
LARGE_CYCLE = 12  # where a step takes so long that the cache does not matter


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


def milliseconds(step: Step, batches: Sequence[Batch]) -> float:
    """What one step takes, on average over the batches."""
    start = time.perf_counter()
    for batch in batches:
        step(batch)
    return 1000 * (time.perf_counter() - start) / len(batches)


def in_turn(
    steps: Mapping[str, Step], batches: Sequence[Batch], rounds: int, cycle: int = CYCLE
) -> dict[str, list[float]]:
    """The times of every variant, `cycle` steps each a round; who begins changes with the round.

    Whatever slows the machine for a while slows all of them, and medians drop what hits one.
    """
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(rounds):
        start = round_number * cycle
        taken = [batches[(start + place) % len(batches)] for place in range(cycle)]
        first = round_number % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(milliseconds(steps[name], taken))
    return times
