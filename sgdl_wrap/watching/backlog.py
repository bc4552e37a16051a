"""Steps that are done and not yet written down.

Finding a batch's pairs and noting its losses costs little, and mostly by starting; done for several
steps at once, it costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from sgdl_wrap.batches.batch import StepRecord
from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.batches.pairs import Pairs
from sgdl_wrap.batches.samples import identified, refuse_unknown
from sgdl_wrap.errors import DenoiserError, InteractionsError, batch_named

CAPACITY = 8192  # samples: kilobytes


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


@dataclass(frozen=True)
class Reading:
    """What some steps have shown, made out before any of it is noted.

    Attributes:
        steps: how many they are, those that are refused included.
        visits: of each step that is not refused, the interactions seen, int64, and their losses.
        samples, observed, negatives: counts over all of these.
        loss_sums, weight_sums: of each of them, float64.
        refused: errors of the steps whose pairs are unknown; nothing is noted of these.
    """

    steps: int
    visits: list[tuple[np.ndarray, np.ndarray]]
    samples: int
    observed: int
    negatives: int
    loss_sums: np.ndarray
    weight_sums: np.ndarray
    refused: tuple[DenoiserError, ...] = ()

    def refuse(self) -> None:
        """Raises the first of the errors.

        Raises:
            BatchError, InteractionsError: there is one.
        """
        if not self.refused:
            return
        first = self.refused[0]
        if len(self.refused) > 1:
            first = type(first)(f"{first} It is the first of {len(self.refused)} such batches.")
        raise first


@dataclass(frozen=True)
class Backlog:
    """The steps since the last writing down, oldest first.

    Attributes:
        steps: they.
        samples: theirs, together.
    """

    steps: tuple[StepRecord, ...] = ()
    samples: int = 0

    @property
    def full(self) -> bool:
        """Whether it is time to write down."""
        return self.samples >= CAPACITY

    def plus(self, step: StepRecord) -> Backlog:
        """With one step more."""
        return Backlog((*self.steps, step), self.samples + len(step.losses))

    def after(self, reading: Reading) -> Backlog:
        """Without the steps that were read, which were the first."""
        rest = self.steps[reading.steps :]
        return Backlog(rest, sum(len(step.losses) for step in rest))

    def read(self, interactions: Interactions) -> Reading:
        """What the steps, at least one, have shown; nothing changes by it."""
        reading = _read(self.steps, interactions)
        if reading is not None:
            return reading
        refused: list[DenoiserError] = []
        steps: list[StepRecord] = []
        for step in self.steps:  # one by one, to leave out and to name what is wrong
            try:
                with batch_named(step.where):
                    refuse_unknown(identified(step.pairs, interactions))
                steps.append(step)
            except DenoiserError as error:
                refused.append(error)
        reading = _read(steps, interactions)
        if reading is None:
            reading = Reading(0, [], 0, 0, 0, np.empty(0), np.empty(0))
        return replace(reading, steps=len(self.steps), refused=tuple(refused))


def _read(steps: Sequence[StepRecord], interactions: Interactions) -> Reading | None:
    """Steps read together; None where there are none, or one has unknown pairs alone."""
    if not steps:
        return None
    pairs = Pairs.joined([step.pairs for step in steps])
    looked_up = [step.ids for step in steps if step.ids is not None]
    if len(looked_up) == len(steps):
        ids, observed = np.concatenate(looked_up), pairs.arrays()[2]
    else:
        try:
            samples = identified(pairs, interactions)
        except InteractionsError:
            return None
        ids, observed = samples.ids, samples.observed
    starts = np.cumsum([0] + [len(step.losses) for step in steps[:-1]])
    known = ids >= 0
    counts = np.add.reduceat(known, starts, dtype=np.int64)
    meant = np.add.reduceat(observed, starts, dtype=np.int64)
    if (counts[meant > 0] == 0).any():  # a batch may consist of negatives alone
        return None
    losses = loss_values(steps)
    seen, values = ids[known], losses[known]
    edges = [0, *np.cumsum(counts).tolist()]
    visits = [(seen[first:last], values[first:last]) for first, last in pairwise(edges)]
    loss_sums, weight_sums = (step_sums(v, starts) for v in (losses, weight_values(steps)))
    return Reading(
        len(steps), visits, len(ids), int(counts.sum()), int((~observed).sum()),
        loss_sums, weight_sums,
    )  # fmt: skip
