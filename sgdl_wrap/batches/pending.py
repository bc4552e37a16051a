"""The batch between before_step and step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sgdl_wrap.batches.backlog import StepRecord
from sgdl_wrap.batches.pairs import Pairs
from sgdl_wrap.batches.samples import Samples
from sgdl_wrap.errors import NonFiniteError


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
