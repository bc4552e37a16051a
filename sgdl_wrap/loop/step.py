"""Training steps: each batch is read, guided, weighted, and its gradients are looked at."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from operator import attrgetter
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from sgdl_wrap.batches.batch import Pending, StepRecord
from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.batches.samples import Samples, identified, refuse_unknown
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.equations.updates import weighted_loss
from sgdl_wrap.errors import NonFiniteError, OrderError
from sgdl_wrap.guiding.guide import SelfGuidedPhase
from sgdl_wrap.loop.epoch import Epochs
from sgdl_wrap.loop.reading import Reading
from sgdl_wrap.model.calls import UserCode
from sgdl_wrap.model.numbers import check_finite, check_gradients
from sgdl_wrap.model.refusals import check_optimizers, check_penalty
from sgdl_wrap.model.tables import Lookup
from sgdl_wrap.model.trees import batch_written, shallow_copy, versions
from sgdl_wrap.model.twin import Lookahead
from sgdl_wrap.model.untouched import all_or_nothing

logger = logging.getLogger("sgdl_wrap")

_GRADIENT = attrgetter("grad")
_GRADIENT_REMEDY = (
    "Lower the learning rate, clip gradients (weighted_loss), or look for sqrt(0), log(0) and 0/0 "
    "in loss_fn."
)


class Steps:
    """Takes batches from before_step to step, one at a time.

    A call that raises, an interrupt included, leaves what it found, so that it can be made again.
    What cannot be taken back, the optimizers' steps, is remembered: the same call again goes on
    after them.

    Args:
        user_code: model, loss and scores.
        optimizers: the user's.
        enabled: False is plain training.
        interactions: D.
        config: the method's choices.
        epochs: where training stands; steps that are done go to its backlog.
        reading: knows the pairs of a batch, and looks closely at the first.

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
        config: DenoiserConfig,
        epochs: Epochs,
        reading: Reading,
    ) -> None:
        self._user_code = user_code
        self._optimizers = optimizers
        self._enabled = enabled
        self._interactions = interactions
        self._config = config
        self._epochs = epochs
        self._reading = reading
        self.pending: Pending | None = None

    def settle(self) -> None:
        """Ends what an interrupt or an error has left: a step that was all but done, or failed."""
        pending = self.pending
        if pending is None:
            return
        if pending.gradients is not None and len(pending.stepped) == len(self._optimizers):
            self._finish(pending)
        elif pending.failed:
            self.pending = None

    def begin(self, batch: Any) -> None:
        """Reads a batch; in Phase II also guides it.

        Raises:
            BatchError, InteractionsError, LossError, NonFiniteError: as
                :meth:`SelfGuidedDenoiser.before_step`.
        """
        pending = Pending(batch, self._reading.pairs(batch), self._epochs.where())
        self_guided = self._epochs.self_guided
        if self_guided is None:
            self._look(pending)
            self.pending = pending
            return
        users, learned = self._user_code.moment(), self_guided.moment()
        try:
            with all_or_nothing(self._user_code.streams):
                self._begin_guided(pending, self_guided)
            self.pending = pending
        except NonFiniteError:  # which has dropped the guidance, for good
            raise
        except BaseException:
            users()
            learned()
            raise

    def _begin_guided(self, pending: Pending, self_guided: SelfGuidedPhase) -> None:
        try:
            lookahead = self._look(pending)
            if lookahead is not None:
                self._guide(pending, self_guided, lookahead)
        except NonFiniteError as error:
            if self._config.on_nonfinite == "raise":
                raise
            pending.error = error

    def weights_now(self, batch: Any) -> Tensor:
        """Weights of a batch's samples in evaluation mode, (B,), without graph; 1 in Phase I."""
        if self._epochs.self_guided is None:
            return torch.ones_like(self._user_code.losses_aside(batch, None))
        aside = Pending(batch, self._reading.pairs(batch), "this batch")
        losses = self._user_code.losses_aside(batch, len(aside.pairs))
        weights = self._weights(self._epochs.self_guided, aside, losses, alone=True)
        return weights.to(losses.dtype)

    def train(self, batch: Any, penalty: Tensor | None) -> Tensor:
        """As :meth:`SelfGuidedDenoiser.step`, but for the end of an epoch."""
        if not torch.is_grad_enabled():
            raise OrderError(
                "Expected step with gradients, got it inside torch.no_grad() or "
                "torch.inference_mode(). Train outside of them."
            )
        if not self._enabled:
            return self._train_plainly(batch, penalty)
        pending = self._claimed(batch)
        try:
            if not self._has_gradients(pending, penalty):
                return torch.full((), torch.nan, device=self._user_code.device)
            with self._user_code.added.shared():
                for optimizer in self._optimizers[len(pending.stepped) :]:
                    pending.stepped.append(optimizer.step())
        except BaseException:
            pending.failed = True
            raise
        return self._finish(pending)

    def weighted_loss(self, batch: Any) -> Tensor:
        """As :meth:`SelfGuidedDenoiser.weighted_loss`."""
        return self.plain_and_weighted_loss(batch)[1]

    def plain_and_weighted_loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        """As :meth:`SelfGuidedDenoiser.plain_and_weighted_loss`."""
        if not self._enabled:
            plain = self._user_code.losses(batch, None, "this batch")[1]
            return plain, plain
        pending = self._claimed(batch)
        users = self._before_forward(pending)
        try:
            objective, record = self._objective(pending)
            if record.weights is not None:
                weights = {"weights by ψ": [record.weights]}
                check_finite(weights, record.where, _GRADIENT_REMEDY)
            both = objective, objective
            if pending.losses is not None:
                both = pending.losses.mean(), objective
            pending.record = record
            self._finish(pending)
        except NonFiniteError as error:
            self._leave_out(pending, error)
            none = torch.zeros((), device=self._user_code.device, requires_grad=True)
            return none, none
        except BaseException:
            pending.failed = True
            users()
            raise
        return both

    # ------------------------------------------------------------------ of a step

    def _train_plainly(self, batch: Any, penalty: Tensor | None) -> Tensor:
        objective = self._user_code.losses(batch, None, "this batch")[1]
        if penalty is not None:
            objective = objective + check_penalty(penalty)
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        for optimizer in self._optimizers:
            optimizer.step()
        return objective.detach()

    def _claimed(self, batch: Any) -> Pending:
        """The batch that before_step was called with.

        Raises:
            OrderError: none, or another.
        """
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
        return pending

    def _has_gradients(self, pending: Pending, penalty: Tensor | None) -> bool:
        """Takes the gradients of the weighted loss, and looks at them; False: it is left out.

        Raises:
            OrderError, LossError, NonFiniteError: as :meth:`SelfGuidedDenoiser.step`.
        """
        try:
            if pending.gradients is None:
                self._differentiate(pending, penalty)
            else:  # an interrupt came after the backward
                for p, gradient in zip(self._held(), pending.gradients, strict=True):
                    p.grad = gradient
            weights = {"weights by ψ": [cast(StepRecord, pending.record).weights]}
            check_gradients(self._optimizers, pending.where, _GRADIENT_REMEDY, weights)
        except NonFiniteError as error:
            pending.gradients = None
            self._leave_out(pending, error)
            return False
        return True

    def _before_forward(self, pending: Pending) -> Callable[[], None]:
        """What takes back the forward that a step makes; in Phase II before_step has made it."""
        return self._user_code.moment() if pending.losses is None else lambda: None

    def _differentiate(self, pending: Pending, penalty: Tensor | None) -> None:
        users = self._before_forward(pending)
        try:
            if penalty is not None:
                penalty = check_penalty(penalty)
            objective, pending.record = self._objective(pending)
            if penalty is not None:
                objective = objective + penalty
            pending.objective = objective.detach()
            with self._user_code.added.shared():
                for optimizer in self._optimizers:
                    optimizer.zero_grad()
                held = self._held()
                # kept, as an interrupt may come before its gradients are at hand
                guided = pending.losses is not None
                keep = guided and not self._user_code.is_compiled
                backward = partial(objective.backward, retain_graph=keep)
                pending.gradients = [backward(), *map(_GRADIENT, held)][1:]
        except NonFiniteError:  # the forward was the user's own, as in plain training
            raise
        except BaseException:
            if pending.gradients is None:
                users()
            raise

    def _held(self) -> list[Tensor]:
        """The parameters that the optimizers hold."""
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        return [p for group in groups for p in group["params"]]

    def _objective(self, pending: Pending) -> tuple[Tensor, StepRecord]:
        """The weighted loss with its graph, and what is to be noted if all goes well.

        Raises:
            OrderError, LossError, NonFiniteError: as :meth:`SelfGuidedDenoiser.step`.
        """
        if pending.error is not None:
            raise pending.error
        losses, weights = pending.losses, pending.weights
        if losses is None or weights is None:  # Phase I
            losses, objective = self._user_code.losses(
                pending.batch, len(pending.pairs), pending.where
            )
        else:
            lookahead = self._user_code.lookahead
            if lookahead is not None and _versions(lookahead) != pending.versions:
                raise OrderError(
                    "Expected unchanged parameters between before_step and step, got them "
                    "changed. Call before_step right before step."
                )
            objective = weighted_loss(losses, weights)
        # copies, as losses may be a view of something large
        kept = losses.detach().clone()
        ids = None if pending.samples is None else pending.samples.ids
        return objective, StepRecord(pending.where, pending.pairs.kept(), kept, weights, ids)

    def _finish(self, pending: Pending) -> Tensor:
        """Keeps what the step has shown, and waits for the next batch: both or, raised, neither."""
        backlog = self._epochs.backlog.plus(cast(StepRecord, pending.record))
        self.pending, self._epochs.backlog = None, backlog
        return cast(Tensor, pending.objective)

    def _leave_out(self, pending: Pending, error: NonFiniteError) -> None:
        """Counts a batch that is not to be trained on, or stops, as the config says."""
        if self._config.on_nonfinite == "raise":
            pending.failed = True
            raise error
        running = self._epochs.running
        self.pending, running.skipped = None, running.skipped + 1
        logger.warning("Batch left out. %s", error)

    def _look(self, pending: Pending) -> Lookahead | None:
        """The lookahead, once the first batch was looked at; anew if parameters were exchanged."""
        lookahead = self._reading.looked(pending.batch, pending.pairs, pending.where)
        if self._epochs.self_guided is None or lookahead is None or lookahead.is_current():
            return lookahead
        check_optimizers(self._user_code.modules, self._optimizers)
        return self._user_code.renewed(pending.batch, len(pending.pairs))

    def _guide(
        self, pending: Pending, self_guided: SelfGuidedPhase, lookahead: Lookahead
    ) -> None:
        """Phase II before the step: losses, ψ and φ, the weights, the next guidance."""
        where = pending.where
        kept = shallow_copy(pending.batch)  # the loss may take from the user's
        unwritten = versions(kept)
        watching: AbstractContextManager[dict[int, list[Lookup]]] = nullcontext({})
        if self_guided.learns_next:
            lookahead.follow()
            watching = lookahead.watching()
        with torch.enable_grad():
            with watching as lookups:
                losses, _ = self._user_code.losses(
                    pending.batch, len(pending.pairs), where, twice=self_guided.learns_next
                )
            if versions(kept) != unwritten:
                raise batch_written("a tensor", where)
            self_guided.guide(
                kept, losses, lookups,
                features=lambda: self._features(self_guided, pending, losses),
                samples=lambda: self._samples(pending, some_known=True),
                lookahead=lookahead,
                aside=self._user_code.guiding,
                assumed_lr=self._assumed_lr(),
                outside_list=self._outside_list,
                sliceable=bool(self._user_code.sliceable),
                where=where,
            )
        pending.losses = losses
        pending.weights = self._weights(self_guided, pending, losses)
        pending.versions = _versions(lookahead)

    def _features(
        self, self_guided: SelfGuidedPhase, pending: Pending, losses: Tensor
    ) -> Tensor:
        """What g reads of a batch's samples, (B, F)."""
        inputs = self_guided.config.features
        if inputs == ("loss",):
            return losses.detach()[:, None]
        if "smoothed_loss" in inputs:
            self._epochs.write_down()  # what g reads of the past is all of it
        return self._epochs.tracker.features(self._samples(pending).ids, losses, inputs)

    def _weights(
        self,
        self_guided: SelfGuidedPhase,
        pending: Pending,
        losses: Tensor,
        *,
        alone: bool = False,
    ) -> Tensor:
        """The samples' weights by the ψ of now, (B,), without graph."""
        return self_guided.weights(
            features=lambda: self._features(self_guided, pending, losses),
            samples=lambda: self._samples(pending),
            alone=alone,
        )

    def _samples(self, pending: Pending, *, some_known: bool = False) -> Samples:
        """Which pairs a batch's samples are, looked up once; with `some_known`, one at least.

        Raises:
            BatchError, InteractionsError: as :func:`refuse_unknown` and :func:`identified`.
        """
        if pending.samples is None:
            pending.samples = identified(pending.pairs, self._interactions, pending.where)
        if some_known:
            refuse_unknown(pending.samples, pending.where)
        return pending.samples

    def _outside_list(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Which unobserved pairs the model scores below their user's ranking list, (n,) bool."""
        cut = self._epochs.tracker.cut.numpy()
        places = self._interactions.places_of(users)
        cuts = np.where(places >= 0, cut.take(places, mode="clip"), np.nan)
        most = min(self._config.ranking_chunk, self._config.max_guidance_batch or len(users))
        chunks = (torch.split(torch.from_numpy(ids), most) for ids in (users, items))
        scores = torch.cat([self._user_code.score(*pairs) for pairs in zip(*chunks, strict=True)])
        below: np.ndarray = scores.cpu().float().numpy() < cuts  # never, where there is no cut
        return below

    def _assumed_lr(self) -> float:
        if self._config.variants.assumed_lr is not None:
            return self._config.variants.assumed_lr
        rates = (float(g["lr"]) for optimizer in self._optimizers for g in optimizer.param_groups)
        return next((rate for rate in rates if rate), 0.0)  # of 0, ψ would learn nothing


def _versions(lookahead: Lookahead) -> tuple[int, ...]:
    """Tells whether a parameter was written to since."""
    return tuple(p._version for p in lookahead.parameters)
