"""SelfGuidedDenoiser: the door. Two calls in the user's own loop."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sgdl_wrap.batches.backlog import Backlog, Step
from sgdl_wrap.batches.pairs import PairFn, PairReader, Pairs
from sgdl_wrap.batches.samples import Samples, identified, identified_some
from sgdl_wrap.checks import (
    check_evidence,
    check_guidance_fits,
    check_kinds,
    check_model,
    check_optimizers,
    check_penalty,
    check_scores,
)
from sgdl_wrap.compiled import say_where_compiled
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.distributed.engine import ranks_of, refuse_join
from sgdl_wrap.distributed.layout import check_own_pairs, settle
from sgdl_wrap.distributed.ranks import ALONE
from sgdl_wrap.distributed.resharding import rank_header, state_of_rank
from sgdl_wrap.errors import (
    DenoiserWarning,
    InteractionsError,
    NonFiniteError,
    OrderError,
    StateError,
    SwitchError,
)
from sgdl_wrap.finite import check_finite
from sgdl_wrap.interactions import Interactions
from sgdl_wrap.memorization.tracker import MemorizationTracker
from sgdl_wrap.memorization.transition import Phase, TransitionDetector, Verdict
from sgdl_wrap.progress import ProgressLog
from sgdl_wrap.random_streams import foreign_streams_kept
from sgdl_wrap.records import EpochProgress, EpochRecord
from sgdl_wrap.report.audit import Audit, audit
from sgdl_wrap.self_guided.lookahead import Lookahead, LossFn
from sgdl_wrap.self_guided.phase import SelfGuidedPhase
from sgdl_wrap.self_guided.tables import Lookup
from sgdl_wrap.state import broken_state_refused, check_header, header
from sgdl_wrap.user_code import ScoreFn, UserCode

logger = logging.getLogger("sgdl_wrap")
_GRADIENT_REMEDY = (
    "Lower the learning rate, clip gradients (weighted_loss), or look for sqrt(0), log(0) and 0/0 "
    "in loss_fn."
)


@dataclass
class _Pending:
    """A batch between before_step and step."""

    batch: Any
    pairs: Pairs
    losses: Tensor | None = None  # with graph; Phase II computes them in before_step
    weights: Tensor | None = None
    versions: tuple[int, ...] = ()
    error: NonFiniteError | None = None  # to be left out at step


class SelfGuidedDenoiser:
    """Trains any recommender so that noise is not memorized (SGDL, SIGIR 2022).

    The user keeps model, loss, loader and optimizer, and adds three lines::

        denoiser = SelfGuidedDenoiser(model, optimizer, loss_fn, interactions=(users, items))
        for batch in loader:
            denoiser.before_step(batch)
            loss = denoiser.step(batch)  # instead of zero_grad, backward, optimizer.step

    Phase I trains exactly as the plain loop does and watches. When the memorized interactions
    are as many as the clean ones are estimated to be, Phase II learns a weight for every sample,
    judged by the memorized ones.

    Args:
        model: the recommender; trained on several processes, in DistributedDataParallel, on all
            of which the calls below are made alike (docs/distributed.md).
        optimizer: the user's own, or a sequence of several.
        loss_fn: ``loss_fn(model, batch)`` returns unreduced per-sample losses, (B,).
        interactions: the observed training pairs (users, items), 1-D integers of one length.
        n_items: size of the catalogue; None takes the largest observed item id + 1.
        score_fn: ``score_fn(model, users, items)`` returns a score per pair, (K,); the default
            is ``model(users, items)``. Users and items come as int64 on the model's device, up to
            `config.ranking_chunk` pairs at once, users in order.
        pair_fn: ``pair_fn(batch)`` returns the pairs of the batch's samples as (users, items) or
            (users, items, observed), (B,) each; the common layouts need none.
        config: every choice of the method.
        enabled: False is plain training, with nothing watched.
        example_batch: a batch to try the loss on at once; else the first one is tried.

    Raises:
        InteractionsError, OptimizerError, ScoreError, UnsupportedModelError, LossError: at
            construction or at the first batch, before anything of the user's changes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        loss_fn: LossFn,
        *,
        interactions: tuple[Any, Any],
        n_items: int | None = None,
        score_fn: ScoreFn | None = None,
        pair_fn: PairFn | None = None,
        config: DenoiserConfig | None = None,
        enabled: bool = True,
        example_batch: Any = None,
    ) -> None:
        self.model = model
        self.config = config if config is not None else DenoiserConfig()
        self.enabled = enabled
        self._optimizers = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
        check_kinds(loss_fn, score_fn, pair_fn, self.config)
        self._user = UserCode(model, loss_fn, score_fn, seed=self.config.seed)
        if enabled:
            check_model(model)
            check_optimizers(self._user.modules, self._optimizers)
            say_where_compiled(model, loss_fn)
        if not isinstance(interactions, (tuple, list)) or len(interactions) != 2:
            raise InteractionsError(
                f"Expected interactions=(users, items), got {type(interactions).__name__}. "
                "Pass two 1-D integer arrays or tensors."
            )
        users, items = interactions
        self.interactions = Interactions(users, items, n_items=n_items)
        self._ranks = ranks_of(model) if enabled else ALONE
        settle(self._ranks, self.interactions, self.config.as_dict())
        self._total = self._ranks.total(len(self.interactions))
        self._read_pairs = PairReader(pair_fn)
        self._backlog = Backlog()
        self._tracker = MemorizationTracker(self.interactions, self.config, self._ranks)
        self._detector = TransitionDetector(
            self.config.noise_rate_shift, self.config.switch_timeout
        )

        self._history: list[EpochRecord] = []
        self._self_guided: SelfGuidedPhase | None = None  # from the memorization point on
        self._epoch = self._new_epoch()
        self._explicit_epochs = False
        self._pending: _Pending | None = None
        if enabled:
            check_evidence(self.interactions.counts, self.config)
            sample = slice(0, min(8, len(self.interactions)))
            check_scores(
                self._user.score, self.interactions.users[sample], self.interactions.items[sample]
            )
            if example_batch is not None:
                self._prepare(example_batch, self._read_pairs(example_batch))

    # ------------------------------------------------------------------ what a person reads

    @property
    def phase(self) -> Phase:
        """Phase.MEMORIZATION, then Phase.SELF_GUIDED."""
        return Phase.MEMORIZATION if self._self_guided is None else Phase.SELF_GUIDED

    @property
    def memorization_point(self) -> int | None:
        """t_m: the epoch, counted from 1, at whose end Phase II began; None before."""
        if self._self_guided is None:
            return None
        return sum(record.phase is Phase.MEMORIZATION for record in self._history)

    @property
    def noise_rate(self) -> float | None:
        """σ̂ of the last epoch of Phase I; None before the first estimate."""
        if self.config.noise_rate is not None:
            return self.config.noise_rate
        return None if self._tracker.mixture is None else self._tracker.mixture.value

    @property
    def history(self) -> list[EpochRecord]:
        """One record an epoch."""
        return list(self._history)

    def report(self) -> Audit:
        """Every interaction and what is known of it, most suspicious first.

        On several ranks, of the interactions that this one knows.

        Raises:
            OrderError: no batch was watched yet, or the denoiser is disabled.
            BatchError, InteractionsError: as :meth:`end_epoch`.
        """
        self._write_down()
        return audit(self._tracker, self._self_guided)

    # ------------------------------------------------------------------ the loop

    def before_step(self, batch: Any) -> None:
        """Reads the batch; in Phase II also learns ψ and φ by a virtual update (Eq. 7, 8).

        Raises:
            BatchError: pairs that cannot be read, none of them known, or a batch too large to
                guide as a whole (`max_guidance_batch`).
            InteractionsError: ids out of range.
            LossError: losses of another shape than (B,).
            NonFiniteError: NaN or Inf in the losses, or on the way to ψ and φ.
            OrderError: the batch before was not stepped on.

        Pairs are looked up for many steps together: except for the first batch, one whose pairs
        are unknown may be named by a later call, when it was trained on; nothing is noted of it.
        """
        if not self.enabled:
            return
        if self._pending is not None:
            raise OrderError(
                "Expected step(batch) after before_step(batch), got a second before_step. "
                "Call step or weighted_loss once for each batch, or skip_batch() to leave one out."
            )
        refuse_join(self.model)
        self._end_epoch_if_full()
        if self._backlog.full:
            self._write_down()
        self._epoch.begin()
        pending = _Pending(batch, self._read_pairs(batch))
        try:
            lookahead = self._prepare(batch, pending.pairs)
            if self._self_guided is not None:
                self._guide(pending, self._self_guided, lookahead)
        except NonFiniteError as error:
            if self.config.on_nonfinite == "raise":
                raise
            pending.error = error
        self._pending = pending

    def step(self, batch: Any, penalty: Tensor | None = None) -> Tensor:
        """One training step: zero_grad, backward and step of the user's optimizer (Eq. 9).

        Args:
            batch: the batch that before_step was called with.
            penalty: the user's own regulariser, a scalar tensor, added unweighted.

        Returns:
            The detached loss, (1/B) Σ_k w_k L_k(θ) + penalty; in Phase I every w_k is 1. NaN
            where the batch was left out, as the config may say: then no optimizer was stepped.

        Raises:
            OrderError: no before_step, or another batch.
            LossError: losses of another shape than (B,); nothing was changed.
            NonFiniteError: NaN or Inf in losses, penalty, weights or gradients; no parameter and
                no optimizer was changed.
            NoiseRateError, ScoreError, SwitchError: the step is done, but the epoch that ended
                with it tells nothing; see :meth:`end_epoch`.
            BatchError, InteractionsError: the step is done, but the batch named is left out; see
                :meth:`before_step`.
        """
        try:
            if penalty is not None:
                penalty = check_penalty(penalty)
            objective, step = self._objective(batch)
            if penalty is not None:
                objective = objective + penalty
            self._zero_grad()
            objective.backward()  # type: ignore[no-untyped-call]
            self._check_step(step, [g["params"] for o in self._optimizers for g in o.param_groups])
        except NonFiniteError as error:
            self._leave_out(error)
            return torch.full((), torch.nan, device=self._user.device)
        self._note(step)
        for optimizer in self._optimizers:
            optimizer.step()
        self._end_epoch_if_full()
        return objective.detach()

    def weighted_loss(self, batch: Any) -> Tensor:
        """(1/B) Σ_k w_k L_k(θ) with its graph, for those who own backward and step.

        Takes the place of :meth:`step`: call before_step, this, backward, optimizer.step. Where
        the batch is left out, a zero of which no parameter gets a gradient.

        Raises:
            OrderError, LossError: as :meth:`step`; the gradients are the caller's to look at.
        """
        try:
            objective, step = self._objective(batch)
            if step is not None and step.weights is not None:
                self._check_step(step, [])
        except NonFiniteError as error:
            self._leave_out(error)
            return torch.zeros((), device=self._user.device, requires_grad=True)
        self._note(step)
        return objective

    def skip_batch(self) -> None:
        """Leaves out the batch that before_step was last called with: no step follows it."""
        self._pending = None

    def sample_weights(self, batch: Any) -> Tensor:
        """The weights that the batch's samples would have now, (B,), detached.

        All ones in Phase I. The losses are taken in evaluation mode; nothing is recorded.
        """
        if self._self_guided is None:
            return torch.ones_like(self._user.losses_aside(batch, None))
        pairs = self._read_pairs(batch)
        losses = self._user.losses_aside(batch, len(pairs))
        weights = self._weights(self._self_guided, pairs, losses, "this batch", alone=True)
        return weights.to(losses.dtype)

    def end_epoch(self) -> EpochRecord | None:
        """Ends the epoch: ranking, noise rate, and the decision to switch (Eq. 1 to 4).

        Without a call, an epoch ends when as many observed samples have passed as pairs were
        handed over. From the first call on, epochs end by calls alone. A call right after an
        epoch ended by itself confirms it and does nothing more.

        Returns:
            The epoch's record; None when disabled.

        Raises:
            NoiseRateError, ScoreError: the epoch is not ended and can be ended again.
            SwitchError: the epoch has ended, but Phase II cannot begin by time-out.
            OrderError: between before_step and step, or before any batch.
            BatchError, InteractionsError: as :meth:`before_step`; the batches named are left out,
                and the epoch can be ended again.

        On several ranks all call it, and what fails on one of them fails on all.
        """
        if not self.enabled:
            return None
        if self._pending is not None:
            raise OrderError(
                "Expected end_epoch after step, got it between before_step and step. "
                "Call it after the loop over the loader."
            )
        self._explicit_epochs = True
        with self._ranks.together():
            self._write_down()
        if not self._ranks.any(self._epoch.samples > 0):
            if self._history:
                return self._history[-1]
            raise OrderError(
                "Expected end_epoch after some batches, got none. "
                "Call before_step and step on each batch of the loader."
            )
        return self._end_epoch()

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Everything the denoiser knows, in tensors and plain values.

        ``torch.load(..., weights_only=True)`` reads it back. Model, optimizer and the global
        random state are the user's to save.

        Raises:
            OrderError: between before_step and step.
            BatchError, InteractionsError: as :meth:`before_step`; the batches named are left out,
                and the state can be taken again.
        """
        if self._pending is not None:
            raise OrderError(
                "Expected state_dict between steps, got it between before_step and step. "
                "Save after step."
            )
        self._write_down()
        return {
            **header(self.interactions, self.config, self._user.model, enabled=self.enabled),
            **rank_header(self._ranks, self.interactions),
            "history": [record.as_dict() for record in self._history],
            "tracker": self._tracker.state_dict(),
            "self_guided": None if self._self_guided is None else self._self_guided.state_dict(),
            "user": self._user.state_dict(),
            "epoch": self._epoch.state_dict(),
            "explicit_epochs": self._explicit_epochs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken, bit for bit.

        Raises:
            StateError: another data set, config, model or version; nothing was changed.
        """
        state = state_of_rank(state, self._ranks, self.interactions)
        check_header(state, self.interactions, self.config, self._user.model, enabled=self.enabled)
        with broken_state_refused():  # all is built before any of it is taken
            tracker = MemorizationTracker(self.interactions, self.config, self._ranks)
            tracker.load_state_dict(state["tracker"])
            self_guided = None
            if state["self_guided"] is not None:
                guided = state["self_guided"]
                self_guided = self._new_self_guided(
                    guided["memorized"].cpu().numpy(),
                    self.config.but(**guided["settled"]),
                )
                self_guided.load_state_dict(state["self_guided"])
            history = [EpochRecord.from_dict(values) for values in state["history"]]
            epoch = EpochProgress.from_state(state["epoch"])
            explicit_epochs = bool(state["explicit_epochs"])
            self._user.load_state_dict(state["user"])
        self._tracker, self._self_guided, self._history = tracker, self_guided, history
        self._epoch, self._explicit_epochs = epoch, explicit_epochs
        self._backlog, self._pending = Backlog(), None

    def __getstate__(self) -> Any:
        """Refuses copies and pickles, which would share or lose what is the user's.

        Raises:
            StateError: always.
        """
        raise StateError(
            "Expected state_dict() to be saved, got a copy or pickle of the denoiser, which holds "
            "your model, optimizer and loss. Build another one and load_state_dict() into it."
        )

    # ------------------------------------------------------------------ one batch

    def _prepare(self, batch: Any, pairs: Pairs) -> Lookahead:
        """What is tried at the first batch, and again when the model has changed."""
        lookahead = self._user.lookahead
        if lookahead is None or self._user.sliceable is None:
            samples = identified_some(pairs, self.interactions, self._where())
            check_own_pairs(self._ranks, samples, self._where())
            lookahead = self._user.prepare(batch, len(pairs))
        check_guidance_fits(
            len(pairs), sliceable=self._user.sliceable, config=self.config, where=self._where()
        )
        if self._self_guided is not None and not lookahead.is_current():
            check_optimizers(self._user.modules, self._optimizers)
            return self._user.renew(batch, len(pairs))
        return lookahead

    def _guide(
        self, pending: _Pending, self_guided: SelfGuidedPhase, lookahead: Lookahead
    ) -> None:
        """Phase II before the step: losses, ψ and φ, the weights, the next guidance."""
        pairs, where = pending.pairs, self._where()
        watching: AbstractContextManager[dict[int, list[Lookup]]] = nullcontext({})
        if self_guided.learns_next:
            lookahead.follow()
            watching = lookahead.watching()
        with torch.enable_grad():
            with watching as lookups:
                losses, _ = self._user.losses(
                    pending.batch, len(pairs), where, twice=self_guided.learns_next
                )
            self_guided.guide(
                pending.batch, losses, lookups,
                features=lambda: self._features(self_guided, pairs, losses),
                samples=lambda: identified_some(pairs, self.interactions, where),
                lookahead=lookahead,
                streams=self._user.streams,
                assumed_lr=self._assumed_lr(),
                outside_list=self._outside_list,
                sliceable=bool(self._user.sliceable),
                where=where,
            )
        pending.losses = losses
        pending.weights = self._weights(self_guided, pairs, losses, where)
        pending.versions = _versions(lookahead)

    def _features(
        self, self_guided: SelfGuidedPhase, pairs: Pairs, losses: Tensor
    ) -> Tensor:
        """What g reads of a batch's samples, (B, F)."""
        inputs = self_guided.config.weight_inputs
        if inputs == ("loss",):
            return losses.detach()[:, None]
        self._write_down()  # what g reads of the past is all of it
        return self._tracker.features(self._samples(pairs, "this batch").ids, losses, inputs)

    def _weights(
        self,
        self_guided: SelfGuidedPhase,
        pairs: Pairs,
        losses: Tensor,
        where: str,
        *,
        alone: bool = False,
    ) -> Tensor:
        """The samples' weights by the ψ of now, (B,), without graph."""
        return self_guided.weights(
            features=lambda: self._features(self_guided, pairs, losses),
            samples=lambda: self._samples(pairs, where),
            alone=alone,
        )

    def _samples(self, pairs: Pairs, where: str) -> Samples:
        return identified(pairs, self.interactions, where)

    def _write_down(self) -> None:
        self._backlog.write_down(self.interactions, self._tracker, self._epoch)

    def _objective(self, batch: Any) -> tuple[Tensor, Step | None]:
        """The weighted loss with its graph, and what is to be noted if all goes well."""
        if not self.enabled:
            return self._user.losses(batch, None, "this batch")[1], None
        pending = self._pending
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
        self._pending = None  # an error below leaves no half-done batch behind
        if pending.error is not None:
            raise pending.error
        where = self._where()
        losses, weights = pending.losses, pending.weights
        if losses is None or weights is None:  # Phase I
            losses, objective = self._user.losses(batch, len(pending.pairs), where)
        else:
            lookahead = self._user.lookahead
            if lookahead is not None and _versions(lookahead) != pending.versions:
                raise OrderError(
                    "Expected unchanged parameters between before_step and step, got them "
                    "changed. Call before_step right before step."
                )
            objective = (weights.to(losses.dtype) * losses).mean()
        # copies, as losses may be a view of something large
        kept = losses.detach().clone()
        return objective, Step(where, pending.pairs.kept(), kept, weights)

    def _note(self, step: Step | None) -> None:
        if step is not None:
            self._backlog.add(step)
            self._epoch.batches += 1

    def _zero_grad(self) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad()

    def _check_step(self, step: Step | None, parameters: Sequence[Sequence[Tensor]]) -> None:
        """Looks at the weights and at the gradients, which are dropped if they are not finite."""
        if step is None:
            return
        gradients = [p.grad for group in parameters for p in group]
        try:
            check_finite(
                {"weights by ψ": [step.weights], "gradients of the model": gradients},
                step.where, _GRADIENT_REMEDY,
            )
        except NonFiniteError:
            self._zero_grad()
            raise

    def _leave_out(self, error: NonFiniteError) -> None:
        """Counts a batch that is not to be trained on, or stops, as the config says."""
        if self.config.on_nonfinite == "raise":
            raise error
        self._pending = None
        self._epoch.skipped += 1
        logger.warning("Batch left out. %s", error)

    def _outside_list(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Which unobserved pairs the model scores below their user's ranking list, (n,) bool."""
        cut = self._tracker.cut.numpy()
        cuts = np.where(users < len(cut), cut.take(users, mode="clip"), np.nan)
        most = min(self.config.ranking_chunk, self.config.max_guidance_batch or len(users))
        chunks = (torch.split(torch.from_numpy(ids), most) for ids in (users, items))
        scores = torch.cat([self._user.score(*pairs) for pairs in zip(*chunks, strict=True)])
        below: np.ndarray = scores.cpu().float().numpy() < cuts  # never, where there is no cut
        return below

    def _assumed_lr(self) -> float:
        if self.config.assumed_lr is not None:
            return self.config.assumed_lr
        return float(self._optimizers[0].param_groups[0]["lr"])

    def _where(self) -> str:
        batch = self._epoch.batches + self._epoch.skipped + 1
        return f"batch {batch} of epoch {len(self._history) + 1}"

    # ------------------------------------------------------------------ one epoch

    def _end_epoch_if_full(self) -> None:
        # the backlog may hold negatives too, but no more observed samples than this
        most = self._epoch.observed + self._backlog.samples
        if self._explicit_epochs or most < self._epoch.ends_at:
            return
        self._write_down()
        if self._epoch.observed < self._epoch.ends_at:
            return
        self._ranks.refuse_own_epoch_end()
        # should the end fail, its error comes once, and the next try an epoch later
        self._epoch.ends_at += self.interactions.rows
        self._end_epoch()

    def _end_epoch(self) -> EpochRecord:
        phase = self.phase
        with foreign_streams_kept():  # scikit-learn draws from them when it is first imported
            findings = self._tracker.examine(
                self._user.score,
                with_noise_rate=phase is Phase.MEMORIZATION,
                progress=ProgressLog("ranked", "interactions"),
            )
        memorized = self._tracker.commit(findings)
        noise_rate = self.noise_rate
        epoch = self._epoch
        samples, observed, loss_sum, weight_sum = self._ranks.sums(
            epoch.samples, epoch.observed, epoch.loss_sum, epoch.weight_sum
        )
        record = EpochRecord(
            epoch=len(self._history) + 1,
            phase=phase,
            memorized_ratio=memorized / self._total,
            clean_ratio=None if noise_rate is None else self._detector.clean_ratio(noise_rate),
            noise_rate=noise_rate,
            loss=loss_sum / samples,
            mean_weight=weight_sum / samples,
            seconds=epoch.seconds(),
            skipped=epoch.skipped,
        )
        self._history.append(record)
        self._epoch = self._new_epoch()
        logger.info("%s", record)
        if (
            self._self_guided is not None
            and self._self_guided.config.memorized_data == "current"
        ):
            self._self_guided.follow(self._tracker.memorized_ids())
        if phase is Phase.MEMORIZATION and noise_rate is not None and not self.config.audit_only:
            self._decide(record, memorized, noise_rate, pointwise=observed < samples)
        return record

    def _decide(
        self, record: EpochRecord, memorized: int, noise_rate: float, *, pointwise: bool
    ) -> None:
        """Begins Phase II where Eq. 3 holds, or the time is out."""
        verdict = self._detector.decide(
            epoch=record.epoch,
            memorized=memorized,
            total=self._total,
            noise_rate=noise_rate,
        )
        if verdict is Verdict.STAY:
            return
        if verdict is Verdict.TIMED_OUT:
            if memorized == 0:
                raise SwitchError(
                    f"Expected memorized interactions at the forced switch after epoch "
                    f"{record.epoch}, got none. Raise switch_timeout above history_length / 2 = "
                    f"{self.config.history_length / 2:g} epochs, or train at a higher rate."
                )
            warnings.warn(
                f"Expected the memorized ratio to reach the clean ratio within "
                f"{self.config.switch_timeout} epochs, got {record.memorized_ratio:.3f} of "
                f"{record.clean_ratio:.3f}. Phase II begins by time-out.",
                DenoiserWarning,
                stacklevel=4,
            )
        self._self_guided = self._new_self_guided(
            self._tracker.memorized_ids(), self.config.settled(pointwise=pointwise)
        )
        self._tracker.begin_smoothing()
        logger.info("Phase II begins after epoch %d: %d memorized", record.epoch, memorized)

    def _new_self_guided(
        self, memorized: np.ndarray, config: DenoiserConfig
    ) -> SelfGuidedPhase:
        return SelfGuidedPhase(
            memorized,
            len(self.interactions),
            config,
            device=self._user.device,
            dtype=torch.promote_types(next(self.model.parameters()).dtype, torch.float32),
            ranks=self._ranks,
        )

    def _new_epoch(self) -> EpochProgress:
        # several ranks end epochs by calls alone, and wait two passes for one
        return EpochProgress(self.interactions.rows * (2 if self._ranks.several else 1))


def _versions(lookahead: Lookahead) -> tuple[int, ...]:
    """Tells whether a parameter was written to since."""
    return tuple(p._version for p in lookahead.parameters)
