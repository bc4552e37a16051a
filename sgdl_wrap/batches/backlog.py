"""Steps that are done and not yet written down.

Finding a batch's pairs and noting its losses costs little, and mostly by starting; done for several
steps at once, it costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.batches.pairs import Pairs
from sgdl_wrap.batches.samples import identified, refuse_unknown
from sgdl_wrap.errors import DenoiserError, InteractionsError
from sgdl_wrap.interactions import Interactions
from sgdl_wrap.memorization.tracker import MemorizationTracker
from sgdl_wrap.records import RunningEpoch

CAPACITY = 8192  # samples: kilobytes


@dataclass(frozen=True)
class StepRecord:
    """What one training step leaves to be written down.

    Attributes:
        where: names its batch in messages.
        pairs: of its samples, copies.
        losses: L(θ), (B,), detached.
        weights: w, (B,), detached; None where all are 1.
        ids: of the interactions that the pairs are, (B,) int64, where they are looked up already.
    """

    where: str
    pairs: Pairs
    losses: Tensor
    weights: Tensor | None
    ids: np.ndarray | None = None


def loss_values(steps: Sequence[StepRecord]) -> np.ndarray:
    """The losses of at least one step, one after the other, float32 or float64."""
    losses = torch.cat([step.losses for step in steps]).cpu()
    values: np.ndarray = (losses if losses.dtype == torch.float64 else losses.float()).numpy()
    return values


def weight_values(steps: Sequence[StepRecord]) -> np.ndarray:
    """The weights of at least one step, one after the other."""
    weights = [torch.ones_like(s.losses) if s.weights is None else s.weights for s in steps]
    values: np.ndarray = torch.cat(weights).cpu().double().numpy()
    return values


def step_sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The sum of each step's values, float64, whose bits do not depend on the steps beside it."""
    sums: np.ndarray = np.add.reduceat(values, starts, dtype=np.float64)
    return sums


class Backlog:
    """The steps since the last writing down, oldest first."""

    def __init__(self) -> None:
        self._steps: list[StepRecord] = []
        self.samples = 0

    @property
    def full(self) -> bool:
        """Whether it is time to write down."""
        return self.samples >= CAPACITY

    def add(self, step: StepRecord) -> None:
        """Keeps a step."""
        self._steps.append(step)
        self.samples += len(step.losses)

    def take(self) -> list[StepRecord]:
        """All steps kept; none are kept after."""
        steps, self._steps, self.samples = self._steps, [], 0
        return steps

    def write_down(
        self, interactions: Interactions, tracker: MemorizationTracker, epoch: RunningEpoch
    ) -> None:
        """Notes what the steps have shown, in `tracker` and `epoch`; none are kept after.

        Raises:
            BatchError, InteractionsError: batches whose pairs are unknown, the first of them
                named; the others are noted.
        """
        steps = self.take()
        if _noted(steps, interactions, tracker, epoch):
            return
        failures = []
        for step in steps:  # one by one, to leave out and to name what is wrong
            try:
                refuse_unknown(identified(step.pairs, interactions, step.where), step.where)
                _noted([step], interactions, tracker, epoch)
            except DenoiserError as error:
                failures.append(error)
        first = failures[0]
        if len(failures) > 1:
            first = type(first)(f"{first} It is the first of {len(failures)} such batches.")
        raise first


def _noted(
    steps: list[StepRecord],
    interactions: Interactions,
    tracker: MemorizationTracker,
    epoch: RunningEpoch,
) -> bool:
    """Notes steps together; False, and nothing is noted, where one has unknown pairs alone."""
    if not steps:
        return True
    pairs = Pairs.joined([step.pairs for step in steps])
    looked_up = [step.ids for step in steps if step.ids is not None]
    if len(looked_up) == len(steps):
        ids, observed = np.concatenate(looked_up), pairs.arrays()[2]
    else:
        try:
            samples = identified(pairs, interactions, "a batch")
        except InteractionsError:
            return False
        ids, observed = samples.ids, samples.observed
    starts = np.cumsum([0] + [len(step.losses) for step in steps[:-1]])
    known = ids >= 0
    counts = np.add.reduceat(known, starts, dtype=np.int64)
    meant = np.add.reduceat(observed, starts, dtype=np.int64)
    if (counts[meant > 0] == 0).any():  # a batch may consist of negatives alone
        return False
    losses = loss_values(steps)
    if tracker.smoothed is None:
        tracker.record(ids[known], losses[known])
    else:  # every visit of an interaction counts, one after the other
        parts = (np.split(column, starts[1:]) for column in (ids, known, losses))
        for some, seen, values in zip(*parts, strict=True):
            tracker.record(some[seen], values[seen])
    sums = (step_sums(values, starts) for values in (losses, weight_values(steps)))
    epoch.add(len(ids), int(counts.sum()), int((~observed).sum()), *sums)
    return True
