"""SelfGuidedDenoiser: the door. Two calls in the user's own loop."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sgdl_wrap.batches.pairs import PairFn, PairReader, Pairs
from sgdl_wrap.checks import (
    check_evidence,
    check_kinds,
    check_losses,
    check_model,
    check_optimizers,
    check_penalty,
    check_scores,
)
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.errors import (
    BatchError,
    DenoiserWarning,
    InteractionsError,
    OrderError,
    SwitchError,
)
from sgdl_wrap.interactions import Interactions
from sgdl_wrap.memorization.tracker import MemorizationTracker
from sgdl_wrap.memorization.transition import Phase, TransitionDetector, Verdict
from sgdl_wrap.preflight import check_lookahead, is_sliceable
from sgdl_wrap.random_streams import RandomStreams, foreign_streams_kept
from sgdl_wrap.records import EpochProgress, EpochRecord
from sgdl_wrap.self_guided.lookahead import Lookahead, LossFn
from sgdl_wrap.self_guided.phase import SelfGuidedPhase
from sgdl_wrap.state import broken_state_refused, check_header, header
from sgdl_wrap.without_trace import evaluating, undisturbed

logger = logging.getLogger("sgdl_wrap")

ScoreFn = Any  # (model, users, items) -> (K,) scores


@dataclass
class _Pending:
    """A batch between before_step and step."""

    batch: Any
    pairs: Pairs
    ids: Tensor  # (B,) int64, -1 where unobserved or unknown
    losses: Tensor | None = None  # with graph; Phase II computes them in before_step
    weights: Tensor | None = None
    versions: tuple[int, ...] = ()


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
        model: the recommender.
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
        self._loss_fn = loss_fn
        self._score_fn = score_fn
        # what training consists of: the model, and the loss where that is a module too
        self._modules = [m for m in (model, loss_fn) if isinstance(m, nn.Module)]
        check_kinds(loss_fn, score_fn, pair_fn, self.config)
        if enabled:
            check_model(model)
            check_optimizers(self._modules, self._optimizers)
        if not isinstance(interactions, (tuple, list)) or len(interactions) != 2:
            raise InteractionsError(
                f"Expected interactions=(users, items), got {type(interactions).__name__}. "
                "Pass two 1-D integer arrays or tensors."
            )
        users, items = interactions
        self.interactions = Interactions(users, items, n_items=n_items)
        self._read_pairs = PairReader(pair_fn)
        self._streams = RandomStreams(self.config.seed)
        self._tracker = MemorizationTracker(self.interactions, self.config)
        self._detector = TransitionDetector(
            self.config.noise_rate_shift, self.config.switch_timeout
        )
        self._lookahead: Lookahead | None = None  # built and tried at the first batch
        self._sliceable: bool | None = None  # undecided until a batch of two rows or more

        self._history: list[EpochRecord] = []
        self._self_guided: SelfGuidedPhase | None = None  # from the memorization point on
        self._epoch = EpochProgress(self.interactions.rows)
        self._explicit_epochs = False
        self._pending: _Pending | None = None
        if enabled:
            check_evidence(self.interactions.counts, self.config)
            sample = slice(0, min(8, len(self.interactions)))
            check_scores(
                self._score, self.interactions.users[sample], self.interactions.items[sample]
            )
            if example_batch is not None:
                pairs, _ = self._pairs(example_batch)
                self._lookahead = self._try_loss(example_batch, len(pairs.users))

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

    # ------------------------------------------------------------------ the loop

    def before_step(self, batch: Any) -> None:
        """Reads the batch; in Phase II also learns ψ and φ by a virtual update (Eq. 7, 8).

        Raises:
            BatchError: pairs that cannot be read, or none of them known.
            LossError: losses of another shape than (B,), or not finite.
            OrderError: the batch before was not stepped on.
        """
        if not self.enabled:
            return
        if self._pending is not None:
            raise OrderError(
                "Expected step(batch) after before_step(batch), got a second before_step. "
                "Call step or weighted_loss once for each batch, or skip_batch() to leave one out."
            )
        self._end_epoch_if_full()
        self._epoch.begin()
        pairs, ids = self._pairs(batch)
        if self._lookahead is None:
            self._lookahead = self._try_loss(batch, len(ids))
        elif self._self_guided is not None and not self._lookahead.is_current():
            check_optimizers(self._modules, self._optimizers)
            self._lookahead = self._try_loss(batch, len(ids))
        if self._sliceable is None:
            self._sliceable = is_sliceable(
                self._modules, self.model, self._loss_fn, batch, len(ids), self._streams
            )
        pending = _Pending(batch, pairs, ids)
        if self._self_guided is not None:
            self._guide(pending, self._self_guided, self._lookahead)
        self._pending = pending

    def step(self, batch: Any, penalty: Tensor | None = None) -> Tensor:
        """One training step: zero_grad, backward and step of the user's optimizer (Eq. 9).

        Args:
            batch: the batch that before_step was called with.
            penalty: the user's own regulariser, a scalar tensor, added unweighted.

        Returns:
            The detached loss, (1/B) Σ_k w_k L_k(θ) + penalty; in Phase I every w_k is 1.

        Raises:
            OrderError: no before_step, or another batch.
            LossError: losses of another shape than (B,), losses or a penalty that are not finite;
                nothing was changed.
            NoiseRateError, ScoreError, SwitchError: the step is done, but the epoch that ended
                with it tells nothing; see :meth:`end_epoch`.
        """
        if penalty is not None:
            penalty = check_penalty(penalty)
        objective = self._objective(batch)
        if penalty is not None:
            objective = objective + penalty
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        for optimizer in self._optimizers:
            optimizer.step()
        self._end_epoch_if_full()
        return objective.detach()

    def weighted_loss(self, batch: Any) -> Tensor:
        """(1/B) Σ_k w_k L_k(θ) with its graph, for those who own backward and step.

        Takes the place of :meth:`step`: call before_step, this, backward, optimizer.step.

        Raises:
            OrderError, LossError: as :meth:`step`.
        """
        return self._objective(batch)

    def skip_batch(self) -> None:
        """Leaves out the batch that before_step was last called with: no step follows it."""
        self._pending = None

    def sample_weights(self, batch: Any) -> Tensor:
        """The weights that the batch's samples would have now, (B,), detached.

        All ones in Phase I. The losses are taken in evaluation mode; nothing is recorded.
        """
        self_guided = self._self_guided
        pairs = None if self_guided is None else self._read_pairs(batch)
        with self._aside(advance=False):
            losses = self._loss_fn(self.model, batch)
            check_losses(losses, None if pairs is None else len(pairs.users), "this batch")
        if self_guided is None or pairs is None:
            return torch.ones_like(losses)
        ids = self._find(pairs)
        features = self._tracker.features(ids, losses)
        return self_guided.weights(features, ids, pairs.observed).to(losses.dtype)

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
        """
        if not self.enabled:
            return None
        if self._pending is not None:
            raise OrderError(
                "Expected end_epoch after step, got it between before_step and step. "
                "Call it after the loop over the loader."
            )
        self._explicit_epochs = True
        if self._epoch.samples == 0:
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
        """
        if self._pending is not None:
            raise OrderError(
                "Expected state_dict between steps, got it between before_step and step. "
                "Save after step."
            )
        return {
            **header(self.interactions, self.config, self.model, enabled=self.enabled),
            "history": [record.as_dict() for record in self._history],
            "tracker": self._tracker.state_dict(),
            "self_guided": None if self._self_guided is None else self._self_guided.state_dict(),
            "streams": self._streams.state(),
            "loss": {
                "sliceable": self._sliceable,
                "draws_foreign": self._streams.guard_foreign,
            },
            "epoch": self._epoch.state_dict(),
            "explicit_epochs": self._explicit_epochs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken, bit for bit.

        Raises:
            StateError: another data set, config, model or version; nothing was changed.
        """
        check_header(state, self.interactions, self.config, self.model, enabled=self.enabled)
        with broken_state_refused():  # all is built before any of it is taken
            tracker = MemorizationTracker(self.interactions, self.config)
            tracker.load_state_dict(state["tracker"])
            self_guided = None
            if state["self_guided"] is not None:
                self_guided = self._new_self_guided(state["self_guided"]["memorized"].cpu())
                self_guided.load_state_dict(state["self_guided"])
            history = [EpochRecord.from_dict(values) for values in state["history"]]
            epoch = EpochProgress.from_state(state["epoch"])
            streams = RandomStreams(self.config.seed)
            streams.restore(state["streams"])
            streams.guard_foreign = bool(state["loss"]["draws_foreign"])
            sliceable = state["loss"]["sliceable"]
        self._tracker, self._self_guided, self._history = tracker, self_guided, history
        self._epoch, self._streams, self._sliceable = epoch, streams, sliceable
        self._explicit_epochs = state["explicit_epochs"]
        self._pending = None

    # ------------------------------------------------------------------ one batch

    def _pairs(self, batch: Any) -> tuple[Pairs, Tensor]:
        pairs = self._read_pairs(batch)
        ids = self._find(pairs)
        if len(ids) == 0 or int(ids.max()) < 0:
            raise BatchError(
                f"Expected observed pairs in {self._where()}, got none of its {len(ids)} samples "
                "among the interactions. Pass the training interactions at construction, and "
                "pair_fn=... if the batch's ids are numbered otherwise."
            )
        return pairs, ids

    def _find(self, pairs: Pairs) -> Tensor:
        """Ids of the samples' interactions, (B,) int64; -1 where unobserved or unknown."""
        if bool(pairs.observed.all()):
            return self.interactions.find(pairs.users, pairs.items)
        # sampled negatives, most of a pointwise batch, need no look-up
        rows = pairs.observed.nonzero().squeeze(1)
        found = self.interactions.find(pairs.users[rows], pairs.items[rows])
        return torch.full_like(pairs.users, -1).index_copy_(0, rows, found)

    def _try_loss(self, batch: Any, size: int) -> Lookahead:
        """The preflight of the loss; nothing of the user's changes."""
        lookahead = Lookahead(self.model, self._loss_fn)
        self._streams.guard_foreign = check_lookahead(
            self._modules, self.model, self._loss_fn, lookahead, batch, size, self._streams
        )
        return lookahead

    def _losses(self, pending: _Pending) -> Tensor:
        """L(θ) of the batch with its graph, checked and written down."""
        losses = self._loss_fn(self.model, pending.batch)
        values = check_losses(losses, len(pending.ids), self._where())
        known = pending.ids >= 0
        if bool(known.all()):
            self._tracker.record(pending.ids, values)
            observed = len(values)
        else:
            self._tracker.record(pending.ids[known], values[known])
            observed = int(known.sum())
        self._epoch.add(observed, values)
        return losses

    def _guide(
        self, pending: _Pending, self_guided: SelfGuidedPhase, lookahead: Lookahead
    ) -> None:
        """Phase II before the step: losses, ψ and φ, the weights, the next guidance."""
        lookahead.follow()
        with torch.enable_grad():
            losses = self._losses(pending)
            features = self._tracker.features(pending.ids, losses)
            self_guided.guide(
                pending.batch, losses, features,
                pending.ids, pending.pairs.users, pending.pairs.items,
                lookahead=lookahead,
                streams=self._streams,
                assumed_lr=self._assumed_lr(),
                outside_list=self._outside_list,
                sliceable=bool(self._sliceable),
            )
        pending.losses = losses
        pending.weights = self_guided.weights(features, pending.ids, pending.pairs.observed)
        pending.versions = _versions(lookahead)

    def _objective(self, batch: Any) -> Tensor:
        if not self.enabled:
            losses = self._loss_fn(self.model, batch)
            check_losses(losses, None, "this batch")
            return losses.mean()
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
        if pending.losses is None or pending.weights is None:  # Phase I
            losses = self._losses(pending)
            self._epoch.weight_sum += len(losses)
            return losses.mean()
        if self._lookahead is not None and _versions(self._lookahead) != pending.versions:
            raise OrderError(
                "Expected unchanged parameters between before_step and step, got them changed. "
                "Call before_step right before step."
            )
        self._epoch.weight_sum += float(pending.weights.sum(dtype=torch.float64))
        return (pending.weights.to(pending.losses.dtype) * pending.losses).mean()

    def _outside_list(self, users: Tensor, items: Tensor) -> Tensor:
        """Which unobserved pairs the model scores below their user's ranking list, (n,) bool."""
        cut = self._tracker.cut
        known = users < len(cut)
        cuts = torch.where(known, cut[users.clamp(max=len(cut) - 1)], torch.nan)
        return self._score(users, items).cpu().float() < cuts  # never, where there is no cut

    def _score(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of pairs in evaluation mode, without graph; leaves no trace."""
        with self._aside():
            users, items = users.to(self._device), items.to(self._device)
            if self._score_fn is None:
                scores: Tensor = self.model(users, items)
            else:
                scores = self._score_fn(self.model, users, items)
        return scores

    @contextmanager
    def _aside(self, *, advance: bool = True) -> Iterator[None]:
        """An evaluation that the plain loop would not make, and that leaves no trace."""
        with (
            undisturbed(self._modules, buffers=False),
            evaluating(self._modules),
            self._streams.own(self._device, advance=advance),
            torch.no_grad(),
        ):
            yield

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _assumed_lr(self) -> float:
        if self.config.assumed_lr is not None:
            return self.config.assumed_lr
        return float(self._optimizers[0].param_groups[0]["lr"])

    def _where(self) -> str:
        return f"batch {self._epoch.batches + 1} of epoch {len(self._history) + 1}"

    # ------------------------------------------------------------------ one epoch

    def _end_epoch_if_full(self) -> None:
        if self._explicit_epochs or self._epoch.observed < self._epoch.ends_at:
            return
        # should the end fail, its error comes once, and the next try an epoch later
        self._epoch.ends_at += self.interactions.rows
        self._end_epoch()

    def _end_epoch(self) -> EpochRecord:
        phase = self.phase
        with foreign_streams_kept():  # scikit-learn draws from them when it is first imported
            findings = self._tracker.examine(
                self._score,
                with_noise_rate=phase is Phase.MEMORIZATION,
                progress=lambda done, total: logger.debug("ranked %d of %d", done, total),
            )
        memorized = self._tracker.commit(findings)
        noise_rate = self.noise_rate
        record = EpochRecord(
            epoch=len(self._history) + 1,
            phase=phase,
            memorized_ratio=memorized / len(self.interactions),
            clean_ratio=None if noise_rate is None else self._detector.clean_ratio(noise_rate),
            noise_rate=noise_rate,
            loss=self._epoch.loss_sum / self._epoch.samples,
            mean_weight=self._epoch.weight_sum / self._epoch.samples,
            seconds=self._epoch.seconds(),
        )
        self._history.append(record)
        self._epoch = EpochProgress(self.interactions.rows)
        logger.info("%s", record)
        if phase is Phase.MEMORIZATION and noise_rate is not None:
            self._decide(record, memorized, noise_rate)
        return record

    def _decide(self, record: EpochRecord, memorized: int, noise_rate: float) -> None:
        """Begins Phase II where Eq. 3 holds, or the time is out."""
        verdict = self._detector.decide(
            epoch=record.epoch,
            memorized=memorized,
            total=len(self.interactions),
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
        self._self_guided = self._new_self_guided(self._tracker.memorized_ids())
        logger.info("Phase II begins after epoch %d: %d memorized", record.epoch, memorized)

    def _new_self_guided(self, memorized: Tensor) -> SelfGuidedPhase:
        return SelfGuidedPhase(
            memorized,
            len(self.interactions),
            self.config,
            device=self._device,
            dtype=torch.promote_types(next(self.model.parameters()).dtype, torch.float32),
        )


def _versions(lookahead: Lookahead) -> tuple[int, ...]:
    """Tells whether a parameter was written to since."""
    return tuple(p._version for p in lookahead.parameters)
