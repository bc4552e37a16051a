"""Training steps: each batch is read, guided, weighted, and its gradients are looked at."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from sgdl_wrap.batches.batch import BatchInHand, StepRecord
from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.equations.updates import weighted_loss
from sgdl_wrap.errors import NonFiniteError, OrderError, batch_named, named
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
from sgdl_wrap.watching.ranking import RankingLists

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
        hand: the batch between before_step and step.
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
        self.hand: BatchInHand | None = None

    def settle(self) -> None:
        """Ends what an interrupt or an error has left: a step that was all but done, or failed."""
        hand = self.hand
        if hand is None:
            return
        if hand.gradients is not None and len(hand.stepped) == len(self._optimizers):
            self._finish(hand)
        elif hand.failed:
            self.hand = None

    def begin(self, batch: Any) -> None:
        """Reads a batch; in Phase II also guides it.

        Raises:
            BatchError, InteractionsError, LossError, NonFiniteError: as
                :meth:`SelfGuidedDenoiser.before_step`.
        """
        hand = self._reading.taken(batch, self._epochs.where())
        self_guided = self._epochs.self_guided
        with batch_named(hand.where):
            if self_guided is None:
                self._reading.looked(hand)
                self.hand = hand
            else:
                self._begin_in_phase_two(hand, self_guided)

    def _begin_in_phase_two(self, hand: BatchInHand, self_guided: SelfGuidedPhase) -> None:
        users, learned = self._user_code.moment(), self_guided.moment()
        try:
            with all_or_nothing(self._user_code.streams):
                self._begin_guided(hand, self_guided)
            self.hand = hand
        except NonFiniteError:  # which has dropped the guidance, for good
            raise
        except BaseException:
            users()
            learned()
            raise

    def _begin_guided(self, hand: BatchInHand, self_guided: SelfGuidedPhase) -> None:
        try:
            lookahead = self._look(hand)
            if lookahead is not None:
                self._guide(hand, self_guided, lookahead)
        except NonFiniteError as error:
            if self._config.on_nonfinite == "raise":
                raise
            hand.error = error

    def weights_now(self, batch: Any) -> Tensor:
        """Weights of a batch's samples in evaluation mode, (B,), without graph; 1 in Phase I."""
        if self._epochs.self_guided is None:
            return torch.ones_like(self._user_code.losses_aside(batch, None))
        aside = self._reading.taken(batch)
        losses = self._user_code.losses_aside(batch, aside.size)
        aside.features = self._features(self._epochs.self_guided, aside, losses)
        weights = self._epochs.self_guided.weights(aside, alone=True)
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
        hand = self._claimed(batch)
        try:
            with batch_named(hand.where):
                trains = self._has_gradients(hand, penalty)
            if not trains:
                return torch.full((), torch.nan, device=self._user_code.device)
            with self._user_code.added.shared():
                for optimizer in self._optimizers[len(hand.stepped) :]:
                    hand.stepped.append(optimizer.step())
        except BaseException:
            hand.failed = True
            raise
        return self._finish(hand)

    def weighted_loss(self, batch: Any) -> Tensor:
        """As :meth:`SelfGuidedDenoiser.weighted_loss`."""
        return self.plain_and_weighted_loss(batch)[1]

    def plain_and_weighted_loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        """As :meth:`SelfGuidedDenoiser.plain_and_weighted_loss`."""
        if not self._enabled:
            plain = self._user_code.losses(batch, None)[1]
            return plain, plain
        hand = self._claimed(batch)
        # in Phase II before_step has made the forward
        users = self._user_code.moment() if hand.losses is None else None
        try:
            with batch_named(hand.where):
                objective, record = self._objective(hand)
                if record.weights is not None:
                    check_finite({"weights by ψ": [record.weights]}, _GRADIENT_REMEDY)
            both = objective, objective
            if hand.losses is not None:
                both = hand.losses.mean(), objective
            hand.record = record
            self._finish(hand)
        except NonFiniteError as error:
            self._leave_out(hand, error)
            none = torch.zeros((), device=self._user_code.device, requires_grad=True)
            return none, none
        except BaseException:
            hand.failed = True
            if users is not None:
                users()
            raise
        return both

    # ------------------------------------------------------------------ of a step

    def _train_plainly(self, batch: Any, penalty: Tensor | None) -> Tensor:
        objective = self._user_code.losses(batch, None)[1]
        if penalty is not None:
            objective = objective + check_penalty(penalty)
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        for optimizer in self._optimizers:
            optimizer.step()
        return objective.detach()

    def _claimed(self, batch: Any) -> BatchInHand:
        """The batch that before_step was called with.

        Raises:
            OrderError: none, or another.
        """
        hand = self.hand
        if hand is None:
            raise OrderError(
                "Expected before_step(batch) before step(batch), got step alone. "
                "Call before_step on each batch first."
            )
        if hand.batch is not batch:
            raise OrderError(
                "Expected step on the batch that before_step was called with, got another. "
                "Pass the same object to both."
            )
        return hand

    def _has_gradients(self, hand: BatchInHand, penalty: Tensor | None) -> bool:
        """Takes the gradients of the weighted loss, and looks at them; False: it is left out.

        Raises:
            OrderError, LossError, NonFiniteError: as :meth:`SelfGuidedDenoiser.step`.
        """
        try:
            if hand.gradients is None:
                self._differentiate(hand, penalty)
            else:  # an interrupt came after the backward
                for p, gradient in zip(self._held(), hand.gradients, strict=True):
                    p.grad = gradient
            weights = {"weights by ψ": [cast(StepRecord, hand.record).weights]}
            check_gradients(self._optimizers, _GRADIENT_REMEDY, weights)
        except NonFiniteError as error:
            hand.gradients = None
            self._leave_out(hand, error)
            return False
        return True

    def _differentiate(self, hand: BatchInHand, penalty: Tensor | None) -> None:
        # in Phase II before_step has made the forward
        users = self._user_code.moment() if hand.losses is None else None
        try:
            if penalty is not None:
                penalty = check_penalty(penalty)
            objective, hand.record = self._objective(hand)
            if penalty is not None:
                objective = objective + penalty
            hand.objective = objective.detach()
            with self._user_code.added.shared():
                for optimizer in self._optimizers:
                    optimizer.zero_grad()
                held = self._held()
                # kept, as an interrupt may come before its gradients are at hand
                guided = hand.losses is not None
                keep = guided and not self._user_code.is_compiled
                backward = partial(objective.backward, retain_graph=keep)
                hand.gradients = [backward(), *map(_GRADIENT, held)][1:]
        except NonFiniteError:  # the forward was the user's own, as in plain training
            raise
        except BaseException:
            if users is not None and hand.gradients is None:
                users()
            raise

    def _held(self) -> list[Tensor]:
        """The parameters that the optimizers hold."""
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        return [p for group in groups for p in group["params"]]

    def _objective(self, hand: BatchInHand) -> tuple[Tensor, StepRecord]:
        """The weighted loss with its graph, and what is to be noted if all goes well.

        Raises:
            OrderError, LossError, NonFiniteError: as :meth:`SelfGuidedDenoiser.step`.
        """
        if hand.error is not None:
            raise hand.error
        losses, weights = hand.losses, hand.weights
        if losses is None or weights is None:  # Phase I
            losses, objective = self._user_code.losses(hand.batch, hand.size)
        else:
            lookahead = self._user_code.lookahead
            if lookahead is not None and _versions(lookahead) != hand.versions:
                raise OrderError(
                    "Expected unchanged parameters between before_step and step, got them "
                    "changed. Call before_step right before step."
                )
            objective = weighted_loss(losses, weights)
        return objective, hand.recorded(losses)

    def _finish(self, hand: BatchInHand) -> Tensor:
        """Keeps what the step has shown, and waits for the next batch: both or, raised, neither."""
        backlog = self._epochs.backlog.plus(cast(StepRecord, hand.record))
        self.hand, self._epochs.backlog = None, backlog
        return cast(Tensor, hand.objective)

    def _leave_out(self, hand: BatchInHand, error: NonFiniteError) -> None:
        """Counts a batch that is not to be trained on, or stops, as the config says."""
        if self._config.on_nonfinite == "raise":
            hand.failed = True
            raise error
        running = self._epochs.running
        self.hand, running.skipped = None, running.skipped + 1
        logger.warning("Batch left out. %s", named(str(error), hand.where))

    def _look(self, hand: BatchInHand) -> Lookahead | None:
        """The lookahead of Phase II; anew if parameters were exchanged."""
        lookahead = self._reading.looked(hand)
        if lookahead is None or lookahead.is_current():
            return lookahead
        check_optimizers(self._user_code.modules, self._optimizers)
        return self._user_code.renewed(hand.batch, hand.size)

    def _guide(
        self, hand: BatchInHand, self_guided: SelfGuidedPhase, lookahead: Lookahead
    ) -> None:
        """Phase II before the step: losses, ψ and φ, the weights, the next guidance."""
        kept = hand.kept = shallow_copy(hand.batch)  # the loss may take from the user's
        unwritten = versions(kept)
        watching: AbstractContextManager[dict[int, list[Lookup]]] = nullcontext({})
        learns = self_guided.learns_next
        if learns:
            lookahead.follow()
            watching = lookahead.watching()
        with torch.enable_grad():
            with watching as hand.lookups:
                losses, _ = self._user_code.losses(hand.batch, hand.size, twice=learns)
            if versions(kept) != unwritten:
                raise batch_written("a tensor")
            hand.losses = losses
            hand.features = self._features(self_guided, hand, losses)
            self_guided.guide(
                hand, self._user_code, self._ranking_lists(), assumed_lr=self._assumed_lr()
            )
        hand.weights = self_guided.weights(hand)
        hand.kept, hand.lookups, hand.features = None, {}, None  # the step needs their memory
        hand.versions = _versions(lookahead)

    def _features(
        self, self_guided: SelfGuidedPhase, hand: BatchInHand, losses: Tensor
    ) -> Tensor | None:
        """What g reads of a batch's samples, (B, F); None without g."""
        if self_guided.learner is None:
            return None
        inputs = self_guided.config.features
        if inputs == ("loss",):
            return losses.detach()[:, None].to(self_guided.dtype)
        if "smoothed_loss" in inputs:
            self._epochs.write_down()  # what g reads of the past is all of it
        found = self._epochs.tracker.features(hand.samples.ids, losses, inputs)
        return found.to(self_guided.dtype)

    def _ranking_lists(self) -> RankingLists:
        most = self._config.ranking_chunk
        if self._config.max_guidance_batch is not None:
            most = min(most, self._config.max_guidance_batch)
        return RankingLists(
            self._interactions, self._epochs.tracker.cut, self._user_code.score, most
        )

    def _assumed_lr(self) -> float:
        if self._config.variants.assumed_lr is not None:
            return self._config.variants.assumed_lr
        rates = (float(g["lr"]) for optimizer in self._optimizers for g in optimizer.param_groups)
        return next((rate for rate in rates if rate), 0.0)  # of 0, ψ would learn nothing


def _versions(lookahead: Lookahead) -> tuple[int, ...]:
    """Tells whether a parameter was written to since."""
    return tuple(p._version for p in lookahead.parameters)
