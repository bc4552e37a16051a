"""The batch in hand, between before_step and step, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.batches.pairs import Pairs
from sgdl_wrap.batches.samples import Samples, identified
from sgdl_wrap.errors import THIS_BATCH, NonFiniteError
from sgdl_wrap.model.tables import Lookup


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
class BatchInHand:
    """A batch between before_step and step: what is known of it, and how far its step has come.

    Attributes:
        batch: the user's own object.
        pairs: of its samples.
        interactions: D.
        where: names it in messages.
        kept: the batch as it was before the loss has seen it.
        losses: L(θ), (B,), with their graph; Phase II computes them in before_step.
        lookups: how they look up large tables, by the place of the parameter.
        features: what g reads of the samples, (B, F), without graph.
        weights: by the ψ of then, (B,).
        versions: of the parameters, then.
        error: why it is to be skipped at step.
        failed: whether its step was tried and raised: another batch may take its place.
        record: what its step is to leave.
        objective: the loss, without graph.
        gradients: of the parameters that the optimizers hold, once they are known to be finite.
        stepped: one entry for each optimizer that has stepped on it.
        size: B.
    """

    batch: Any
    pairs: Pairs
    interactions: Interactions
    where: str = THIS_BATCH
    kept: Any = None
    losses: Tensor | None = None
    lookups: dict[int, list[Lookup]] = field(default_factory=dict)
    features: Tensor | None = None
    weights: Tensor | None = None
    versions: tuple[int, ...] = ()
    error: NonFiniteError | None = None
    failed: bool = False
    record: StepRecord | None = None
    objective: Tensor | None = None
    gradients: list[Tensor | None] | None = None
    stepped: list[Any] = field(default_factory=list)
    size: int = field(init=False)
    _samples: Samples | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.size = len(self.pairs.users)

    @property
    def samples(self) -> Samples:
        """Which pairs its samples are; looked up when they are first asked for.

        Raises:
            InteractionsError: ids out of range.
        """
        if self._samples is None:
            self._samples = identified(self.pairs, self.interactions)
        return self._samples

    def recorded(self, losses: Tensor) -> StepRecord:
        """What its step leaves, in copies, as losses may be a view of something large."""
        ids = None if self._samples is None else self._samples.ids
        kept = losses.detach().clone()
        return StepRecord(self.where, self.pairs.kept(), kept, self.weights, ids)
