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

CAPACITY = 8192  # samples: kilobytes


@dataclass(frozen=True)
class Step:
    """What one training step leaves to be written down.

    Attributes:
        where: names its batch in messages.
        pairs: of its samples, copies.
        losses: L(θ), (B,), detached.
        weights: w, (B,), detached; None where all are 1.
    """

    where: str
    pairs: Pairs
    losses: Tensor
    weights: Tensor | None


def loss_values(steps: Sequence[Step]) -> np.ndarray:
    """The losses of at least one step, one after the other, float32 or float64."""
    losses = torch.cat([step.losses for step in steps]).cpu()
    values: np.ndarray = (losses if losses.dtype == torch.float64 else losses.float()).numpy()
    return values


def weight_values(steps: Sequence[Step]) -> np.ndarray:
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
        self._steps: list[Step] = []
        self.samples = 0

    @property
    def full(self) -> bool:
        """Whether it is time to write down."""
        return self.samples >= CAPACITY

    def add(self, step: Step) -> None:
        """Keeps a step."""
        self._steps.append(step)
        self.samples += len(step.losses)

    def take(self) -> list[Step]:
        """All steps kept; none are kept after."""
        steps, self._steps, self.samples = self._steps, [], 0
        return steps
