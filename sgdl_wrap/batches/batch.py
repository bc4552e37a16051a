"""The batch in hand, between before_step and step, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from sgdl_wrap.batches.pairs import Pairs
from sgdl_wrap.batches.samples import Samples
from sgdl_wrap.errors import NonFiniteError


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


@dataclass
class Pending:
    """A batch between before_step and step, and how far its step has come.

    Attributes:
        batch: the user's own object.
        pairs: of its samples.
        where: names it in messages.
        samples: which pairs these are; looked up when they are first asked for.
        losses: with their graph; Phase II computes them in before_step.
        weights: by the ψ of then.
        versions: of the parameters, then.
        error: why it is to be left out at step.
        failed: whether its step was tried and raised: another batch may take its place.
        record: what its step is to leave.
        objective: the loss, without graph.
        gradients: of the parameters that the optimizers hold, once they are known to be finite.
        stepped: one entry for each optimizer that has stepped on it.
    """

    batch: Any
    pairs: Pairs
    where: str
    samples: Samples | None = None
    losses: Tensor | None = None
    weights: Tensor | None = None
    versions: tuple[int, ...] = ()
    error: NonFiniteError | None = None
    failed: bool = False
    record: StepRecord | None = None
    objective: Tensor | None = None
    gradients: list[Tensor | None] | None = None
    stepped: list[Any] = field(default_factory=list)
