"""Training steps: each batch is read, guided, weighted, and its gradients are looked at."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from sgdl_wrap.batches.backlog import StepRecord
from sgdl_wrap.batches.pairs import PairFn, PairReader, Pairs
from sgdl_wrap.batches.samples import Samples, doubt_unknown, identified, refuse_unknown
from sgdl_wrap.batches.trees import doubt_storable
from sgdl_wrap.checks import check_guidance_fits, check_optimizers, check_penalty
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.distributed.layout import check_own_pairs
from sgdl_wrap.distributed.ranks import Ranks
from sgdl_wrap.epochs import Epochs
from sgdl_wrap.errors import NonFiniteError, OrderError
from sgdl_wrap.finite import check_finite, check_gradients
from sgdl_wrap.interactions import Interactions
from sgdl_wrap.self_guided.lookahead import Lookahead
from sgdl_wrap.self_guided.phase import SelfGuidedPhase
from sgdl_wrap.self_guided.tables import Lookup
from sgdl_wrap.user_code import UserCode

logger = logging.getLogger("sgdl_wrap")

_GRADIENT_REMEDY = (
    "Lower the learning rate, clip gradients (weighted_loss), or look for sqrt(0), log(0) and 0/0 "
    "in loss_fn."
)


@dataclass
class Pending:
    """A batch between before_step and step."""

    batch: Any
    pairs: Pairs
    samples: Samples | None = None  # looked up when they are first asked for
    losses: Tensor | None = None  # with graph; Phase II computes them in before_step
    weights: Tensor | None = None
    versions: tuple[int, ...] = ()
    error: NonFiniteError | None = None  # to be left out at step


class Steps:
    """Takes batches from before_step to step, one at a time.

    Args:
        user_code: model, loss and scores.
        optimizers: the user's.
        enabled: False is plain training.
        interactions: D.
        pair_fn: reads a batch's pairs; None knows the common layouts.
        config: the method's choices.
        ranks: the processes that train together.
        epochs: where training stands; steps that are done go to its backlog.

    Attributes:
        pending: the batch between before_step and step.
    """

    def __init__(
        self,
        user_code: UserCode,
        optimizers: Sequence[Optimizer],
        *,
        enabled: bool,
        interactions: Interactions,
        pair_fn: PairFn | None,
        config: DenoiserConfig,
        ranks: Ranks,
        epochs: Epochs,
    ) -> None:
        self._user_code = user_code
        self._optimizers = optimizers
        self._enabled = enabled
        self._interactions = interactions
        self._read_pairs = PairReader(pair_fn)
        self._config = config
        self._ranks = ranks
        self._epochs = epochs
        self.pending: Pending | None = None
        self._read_one = False

    def begin(self, batch: Any) -> None:
        """Reads a batch; in Phase II also guides it.

        Raises:
            BatchError, InteractionsError, LossError, NonFiniteError: as
                :meth:`SelfGuidedDenoiser.before_step`.
        """
        pending = Pending(batch, self._read_pairs(batch))
        try:
            lookahead = self._prepare(batch, pending.pairs)
            if self._epochs.self_guided is not None and lookahead is not None:
                self._guide(pending, self._epochs.self_guided, lookahead)
        except NonFiniteError as error:
            if self._config.on_nonfinite == "raise":
                raise
            pending.error = error
        self.pending = pending

    def try_out(self, batch: Any) -> None:
        """Tries the loss on a batch, as the first one of training would."""
        self._prepare(batch, self._read_pairs(batch))

    def weights_now(self, batch: Any) -> Tensor:
        """Weights of a batch's samples in evaluation mode, (B,), without graph; 1 in Phase I."""
        if self._epochs.self_guided is None:
            return torch.ones_like(self._user_code.losses_aside(batch, None))
        aside = Pending(batch, self._read_pairs(batch))
        losses = self._user_code.losses_aside(batch, len(aside.pairs))
        weights = self._weights(
            self._epochs.self_guided, aside, losses, "this batch", alone=True
        )
        return weights.to(losses.dtype)

    def train(self, batch: Any, penalty: Tensor | None) -> Tensor:
        """As :meth:`SelfGuidedDenoiser.step`, but for the end of an epoch."""
        added = self._user_code.added
        with added.adding():
            try:
                if penalty is not None:
                    penalty = check_penalty(penalty)
                objective, record = self._objective(batch)
                if penalty is not None:
                    objective = objective + penalty
                with added.shared():
                    for optimizer in self._optimizers:
                        optimizer.zero_grad()
                    objective.backward()  # type: ignore[no-untyped-call]
                if record is not None:
                    weights = {"weights by ψ": [record.weights]}
                    check_gradients(self._optimizers, record.where, _GRADIENT_REMEDY, weights)
            except NonFiniteError as error:
                self._leave_out(error)
                return torch.full((), torch.nan, device=self._user_code.device)
            if record is not None:
                self._note(record)
            with added.shared():
                for optimizer in self._optimizers:
                    optimizer.step()
        return objective.detach()

    def weighted_loss(self, batch: Any) -> Tensor:
        """As :meth:`SelfGuidedDenoiser.weighted_loss`."""
        with self._user_code.added.adding():
            try:
                objective, record = self._objective(batch)
                if record is not None and record.weights is not None:
                    weights = {"weights by ψ": [record.weights]}
                    check_finite(weights, record.where, _GRADIENT_REMEDY)
            except NonFiniteError as error:
                self._leave_out(error)
                return torch.zeros((), device=self._user_code.device, requires_grad=True)
            if record is not None:
                self._note(record)
        return objective

    def plain_and_weighted_loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        """As :meth:`SelfGuidedDenoiser.plain_and_weighted_loss`."""
        losses = None if self.pending is None else self.pending.losses
        weighted = self.weighted_loss(batch)
        if losses is None or weighted.is_leaf:  # Phase I, or left out
            return weighted, weighted
        return losses.mean(), weighted

    # ------------------------------------------------------------------ of a step

    def _objective(self, batch: Any) -> tuple[Tensor, StepRecord | None]:
        """The weighted loss with its graph, and what is to be noted if all goes well.

        Of plain training, nothing is noted.

        Raises:
            OrderError, LossError, NonFiniteError: as :meth:`SelfGuidedDenoiser.step`.
        """
        if not self._enabled:
            return self._user_code.losses(batch, None, "this batch")[1], None
        pending = self.pending
        if pending is None:
            raise OrderError(
                "Expected before_step(batch) before step(batch), got step alone. "
                "Call before_step on each batch first."
            )
        if pending.batch is not batch:
            raise OrderError(
                "Expected step on the batch that before_step was called with, got another. "
                "Pass the same object to both."
            )
        self.pending = None  # an error below leaves no half-done batch behind
        if pending.error is not None:
            raise pending.error
        where = self._epochs.where()
        losses, weights = pending.losses, pending.weights
        if losses is None or weights is None:  # Phase I
            losses, objective = self._user_code.losses(batch, len(pending.pairs), where)
        else:
            lookahead = self._user_code.lookahead
            if lookahead is not None and _versions(lookahead) != pending.versions:
                raise OrderError(
                    "Expected unchanged parameters between before_step and step, got them "
                    "changed. Call before_step right before step."
                )
            objective = (weights.to(losses.dtype) * losses).mean()
        # copies, as losses may be a view of something large
        kept = losses.detach().clone()
        ids = None if pending.samples is None else pending.samples.ids
        return objective, StepRecord(where, pending.pairs.kept(), kept, weights, ids)

    def _note(self, record: StepRecord) -> None:
        """Keeps what a step has shown."""
        self._epochs.backlog.add(record)
        self._epochs.running.batches += 1

    def _leave_out(self, error: NonFiniteError) -> None:
        """Counts a batch that is not to be trained on, or stops, as the config says."""
        if self._config.on_nonfinite == "raise":
            raise error
        self.pending = None
        self._epochs.running.skipped += 1
        logger.warning("Batch left out. %s", error)

    def _prepare(self, batch: Any, pairs: Pairs) -> Lookahead | None:
        """What is tried at the first batch, and again when the model has changed.

        None with `audit_only`, which has no lookahead, and asks nothing of the loss for one.
        """
        first, where = not self._read_one, self._epochs.where()
        audits = self._config.audit_only
        if first or (self._user_code.sliceable is None and not audits):
            samples = identified(pairs, self._interactions, where)
            refuse_unknown(samples, where)
            check_own_pairs(self._ranks, samples, where)
            if first:
                doubt_unknown(samples, where)
        if audits:
            if first:
                self._user_code.losses_aside(batch, len(pairs))
            self._read_one = True
            return None
        if first and self._config.denoising_learning:
            doubt_storable(batch)
        lookahead = self._user_code.prepare(batch, len(pairs))
        self._read_one = True
        check_guidance_fits(
            len(pairs), sliceable=self._user_code.sliceable, config=self._config,
            where=where,
        )
        if self._epochs.self_guided is not None and not lookahead.is_current():
            check_optimizers(self._user_code.modules, self._optimizers)
            return self._user_code.renew(batch, len(pairs))
        return lookahead

    def _guide(
        self, pending: Pending, self_guided: SelfGuidedPhase, lookahead: Lookahead
    ) -> None:
        """Phase II before the step: losses, ψ and φ, the weights, the next guidance."""
        where = self._epochs.where()
        watching: AbstractContextManager[dict[int, list[Lookup]]] = nullcontext({})
        if self_guided.learns_next:
            lookahead.follow()
            watching = lookahead.watching()
        with torch.enable_grad():
            with watching as lookups:
                losses, _ = self._user_code.losses(
                    pending.batch, len(pending.pairs), where, twice=self_guided.learns_next
                )
            self_guided.guide(
                pending.batch, losses, lookups,
                features=lambda: self._features(self_guided, pending, losses, where),
                samples=lambda: self._samples(pending, where, some_known=True),
                lookahead=lookahead,
                streams=self._user_code.streams,
                assumed_lr=self._assumed_lr(),
                outside_list=self._outside_list,
                sliceable=bool(self._user_code.sliceable),
                where=where,
            )
        pending.losses = losses
        pending.weights = self._weights(self_guided, pending, losses, where)
        pending.versions = _versions(lookahead)

    def _features(
        self, self_guided: SelfGuidedPhase, pending: Pending, losses: Tensor, where: str
    ) -> Tensor:
        """What g reads of a batch's samples, (B, F)."""
        inputs = self_guided.config.weight_inputs
        if inputs == ("loss",):
            return losses.detach()[:, None]
        if "smoothed_loss" in inputs:
            self._epochs.write_down()  # what g reads of the past is all of it
        return self._epochs.tracker.features(self._samples(pending, where).ids, losses, inputs)

    def _weights(
        self,
        self_guided: SelfGuidedPhase,
        pending: Pending,
        losses: Tensor,
        where: str,
        *,
        alone: bool = False,
    ) -> Tensor:
        """The samples' weights by the ψ of now, (B,), without graph."""
        return self_guided.weights(
            features=lambda: self._features(self_guided, pending, losses, where),
            samples=lambda: self._samples(pending, where),
            alone=alone,
        )

    def _samples(self, pending: Pending, where: str, *, some_known: bool = False) -> Samples:
        """Which pairs a batch's samples are, looked up once; with `some_known`, one at least.

        Raises:
            BatchError, InteractionsError: as :func:`refuse_unknown` and :func:`identified`.
        """
        if pending.samples is None:
            pending.samples = identified(pending.pairs, self._interactions, where)
        if some_known:
            refuse_unknown(pending.samples, where)
        return pending.samples

    def _outside_list(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Which unobserved pairs the model scores below their user's ranking list, (n,) bool."""
        cut = self._epochs.tracker.cut.numpy()
        cuts = np.where(users < len(cut), cut.take(users, mode="clip"), np.nan)
        most = min(self._config.ranking_chunk, self._config.max_guidance_batch or len(users))
        chunks = (torch.split(torch.from_numpy(ids), most) for ids in (users, items))
        scores = torch.cat([self._user_code.score(*pairs) for pairs in zip(*chunks, strict=True)])
        below: np.ndarray = scores.cpu().float().numpy() < cuts  # never, where there is no cut
        return below

    def _assumed_lr(self) -> float:
        if self._config.assumed_lr is not None:
            return self._config.assumed_lr
        rates = (float(g["lr"]) for optimizer in self._optimizers for g in optimizer.param_groups)
        return next((rate for rate in rates if rate), 0.0)  # of 0, ψ would learn nothing


def _versions(lookahead: Lookahead) -> tuple[int, ...]:
    """Tells whether a parameter was written to since."""
    return tuple(p._version for p in lookahead.parameters)
