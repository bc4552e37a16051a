"""SelfGuidedDenoiser: the door. Two calls in the user's own loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sgdl_wrap.arguments import check_evidence, check_kinds
from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.batches.pairs import PairFn
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.errors import InteractionsError, OrderError, StateError, batch_named
from sgdl_wrap.loop.epoch import Epochs
from sgdl_wrap.loop.reading import Reading
from sgdl_wrap.loop.step import Steps
from sgdl_wrap.model.calls import ScoreFn, UserCode
from sgdl_wrap.model.compiled import say_where_compiled
from sgdl_wrap.model.engine import refuse_join
from sgdl_wrap.model.refusals import check_device, check_model, check_optimizers
from sgdl_wrap.model.scores import check_scores
from sgdl_wrap.model.twin import LossFn
from sgdl_wrap.model.untouched import all_or_nothing, outside_inference_mode
from sgdl_wrap.ranks.layout import settle
from sgdl_wrap.ranks.ranks import ALONE, ranks_of
from sgdl_wrap.ranks.resharding import rank_header, state_of_rank
from sgdl_wrap.records import EpochRecord, Phase
from sgdl_wrap.report.audit import Audit, audit
from sgdl_wrap.report.epoch_display import EpochDisplay
from sgdl_wrap.report.snapshot import Snapshot
from sgdl_wrap.report.summary import summary
from sgdl_wrap.saving.header import broken_state_refused, check_header, check_seal, header, sealed

logger = logging.getLogger("sgdl_wrap")


class SelfGuidedDenoiser:
    """Trains any recommender so that noise is not memorized (SGDL, SIGIR 2022).

    The user keeps model, loss, loader and optimizer, and adds three lines:

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
        interactions: the observed training pairs (users, items), two columns of integers of one
            length: tensors, arrays, lists, or columns of pandas, pyarrow and polars, whose values
            count in their order and whose index does not. Strings are refused: number them with
            ``pandas.factorize`` or ``numpy.unique(..., return_inverse=True)``. Users may have any
            ids >= 0, with gaps; items have ids below `n_items`.
        n_items: size of the catalogue; None takes the largest observed item id + 1.
        score_fn: ``score_fn(model, users, items)`` returns a score per pair, (K,), higher for
            better items; the default is ``model(users, items)``. Of a distance, return
            ``-distance``. Users and items come as int64 on the model's device, up to
            `config.ranking_chunk` pairs at once, users in order. Return -inf for items that are
            never recommended, such as padding: they are ranked last. NaN and +inf are refused.
        pair_fn: ``pair_fn(batch)`` returns the pairs of the batch's samples as (users, items) or
            (users, items, observed), (B,) each; the common layouts need none.
        config: every choice of the method.
        enabled: False is plain training, with nothing watched.
        explicit_epochs: True ends epochs by calls of `end_epoch` alone, from the first one on; else
            they also end by themselves until it is called.
        example_batch: a batch to try the loss on at once; else the first one is tried.
        progress: True writes a line an epoch to standard error, and shows a bar where tqdm is
            installed and a terminal is there. The logger ``sgdl_wrap`` has the same lines, at
            level INFO, in any case.
        on_epoch: ``on_epoch(record)`` is called once for each epoch, with its `EpochRecord`, when
            the epoch has ended and all that the call does is done; on rank 0 alone. So it may
            save a checkpoint, or pass ``record.scalars()`` to a logger. If it raises, the error
            comes out of the call that ended the epoch, nothing is undone, and training can go on
            with the next batch.

    Raises:
        InteractionsError, OptimizerError, ScoreError, UnsupportedModelError, LossError: at
            construction or at the first batch, before anything of the user's changes.

    Source: Gao et al., SIGIR 2022, Sec. 3; docs/method.md leads from each equation to its file.
    """

    @outside_inference_mode
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
        explicit_epochs: bool = False,
        example_batch: Any = None,
        progress: bool = False,
        on_epoch: Callable[[EpochRecord], object] | None = None,
    ) -> None:
        self.model = model
        self.config = config if config is not None else DenoiserConfig()
        self.enabled = enabled
        self._optimizers = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
        check_kinds(loss_fn, score_fn, pair_fn, self.config, on_epoch)
        self._user_code = UserCode(
            model, loss_fn, score_fn, seed=self.config.seed, enabled=enabled
        )
        if enabled:
            check_model(model)
            check_optimizers(self._user_code.modules, self._optimizers)
            check_device(self._user_code.device)
            say_where_compiled(model, loss_fn)
        if not isinstance(interactions, (tuple, list)) or len(interactions) != 2:
            raise InteractionsError(
                f"Expected interactions=(users, items), got {type(interactions).__name__}. "
                "Pass two columns of integers; of an array of pairs, (pairs[:, 0], pairs[:, 1]), "
                "of a data frame, (frame['user'], frame['item'])."
            )
        users, items = interactions
        self.interactions = Interactions(users, items, n_items=n_items)
        self._ranks = ranks_of(model) if enabled else ALONE
        settle(self._ranks, self.interactions, self.config.as_dict())
        shown = progress and enabled and self._ranks.rank == 0
        self._epochs = Epochs(
            self.interactions, self.config, self._ranks, self._user_code,
            display=EpochDisplay(self.interactions.rows) if shown else None,
            explicit=explicit_epochs,
            on_epoch=on_epoch if self._ranks.rank == 0 else None,
        )
        self._reading = Reading(
            self._user_code, self.interactions, pair_fn, self.config, self._ranks
        )
        self._steps = Steps(
            self._user_code, self._optimizers, enabled=enabled, interactions=self.interactions,
            config=self.config, epochs=self._epochs, reading=self._reading,
        )
        if enabled:
            logger.info("No switch can come before epoch %d.", self._epochs.first_switch)
            check_evidence(self.interactions, self.config)
            self._try_scores()
            if example_batch is not None:
                hand = self._reading.taken(example_batch, self._epochs.where())
                with batch_named(hand.where):
                    self._reading.looked(hand, example=True)

    def _try_scores(self) -> None:
        pairs, some = self.interactions, slice(8)
        check_scores(
            self._user_code.score, pairs.ids_at(pairs.places(some)), pairs.items[some],
            n_items=pairs.n_items, chunk=self.config.ranking_chunk, least=int(pairs.items.min()),
        )  # fmt: skip

    # ------------------------------------------------------------------ what a person reads

    @property
    def phase(self) -> Phase:
        """Phase.MEMORIZATION, then Phase.SELF_GUIDED (Sec. 3)."""
        return self._epochs.phase

    @property
    def memorization_point(self) -> int | None:
        """t_m: the epoch, counted from 1, at whose end Phase II began; None before (Eq. 3)."""
        return self._epochs.memorization_point

    @property
    def noise_rate(self) -> float | None:
        """σ̂ in [0, 1] of the last epoch of Phase I; None before the first estimate (Eq. 4)."""
        return self._epochs.noise_rate

    @property
    def noise_share(self) -> tuple[float, float] | None:
        """Where the share of interactions that nobody chose lies: (low, high), each in [0, 1].

        None before evidence is gathered: from three epochs before the first possible switch on,
        with `audit_only` from the first.

        What is counted are interactions whose user is no more like the item's other users than a
        stranger is, less what preferences alone show of that. Noise that looks like preference is
        not seen: clicks on what a user's like would like, and what the model has memorized
        (docs/noise_share.md).

        Source: ours (deviation 23); σ̂ of the paper, which only decides the switch, is `noise_rate`.
        """
        return self._epochs.noise_share

    @property
    def history(self) -> list[EpochRecord]:
        """One `EpochRecord` an epoch, oldest first."""
        return list(self._epochs.history)

    def summary(self) -> str:
        """What came of the run so far, in a few lines of plain words; so does ``print(denoiser)``.

        The first line is a sentence: not yet switched, nothing sure found, or how far weights go.
        Then come phase, noise, weights and cost, and what to try next. The gain is not among them:
        one run cannot know it. Train once more with ``enabled=False``, and compare.

        Nothing is computed: it reads `history` and the properties above.
        """
        return summary(self._epochs.standing(enabled=self.enabled))

    def __str__(self) -> str:
        """As `summary`."""
        return self.summary()

    @outside_inference_mode
    def report(self) -> Audit:
        """Every interaction and what is known of it, most suspicious first.

        On several ranks, of the interactions that this one knows.

        Returns:
            An `Audit`, whose fields and units are listed there.

        Raises:
            OrderError: no batch was watched yet, or the denoiser is disabled.
            BatchError, InteractionsError: as `end_epoch`.
        """
        known = self._snapshot()
        if not self.enabled:
            raise OrderError(
                "Expected report of a denoiser that watches, got enabled=False. Build it with "
                "enabled=True."
            )
        self._epochs.say_if_even()
        return audit(known, self._epochs.running.what_came())

    @outside_inference_mode
    def _snapshot(self) -> Snapshot:
        """What is known by now, for reports and pictures."""
        self._steps.settle()
        return self._epochs.snapshot(enabled=self.enabled)

    # ------------------------------------------------------------------ the loop

    def before_step(self, batch: Any) -> None:
        """Reads the batch; in Phase II also learns ψ and φ by a virtual update (Eq. 7, 8).

        Args:
            batch: whatever loss_fn takes, of B samples whose pairs can be read.

        Raises:
            BatchError: pairs that cannot be read, none of them known, a first batch that marks
                interactions alone unobserved, or a batch too large to guide as a whole
                (`max_guidance_batch`).
            InteractionsError: ids out of range.
            LossError: losses of another shape than (B,).
            NonFiniteError: NaN or Inf in the losses, or on the way to ψ and φ.
            OrderError: the batch before was not stepped on.

        Pairs are looked up for many steps together: except for the first batch, one whose pairs
        are unknown may be named by a later call, when it was trained on; nothing is noted of it.
        """
        if not self.enabled:
            return
        if torch.is_inference_mode_enabled():
            raise OrderError(
                "Expected before_step where a model can be trained, got it inside "
                "torch.inference_mode(). Train outside of it."
            )
        self._steps.settle()
        if self._steps.hand is not None:
            raise OrderError(
                "Expected step(batch) after before_step(batch), got a second before_step. "
                "Call step or weighted_loss once for each batch, or skip_batch() to leave one out."
            )
        with self._user_code.added.adding():
            refuse_join(self.model)
            self._epochs.end_if_full()
            if self._epochs.backlog.full:
                self._epochs.write_down()
            self._epochs.doubt_lone_negatives()
            self._epochs.start_clocks()
            self._steps.begin(batch)

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
                with it tells nothing; see `end_epoch`.
            BatchError, InteractionsError: the step is done, but the batch named is left out; see
                `before_step`.
        """
        with self._user_code.added.adding():
            if self.enabled and self._steps.hand is None:
                self._epochs.end_if_full()  # an interrupt may have come between the two
            loss = self._steps.train(batch, penalty)
            self._epochs.end_if_full()
        return loss

    def weighted_loss(self, batch: Any) -> Tensor:
        """(1/B) Σ_k w_k L_k(θ) with its graph, for those who own backward and step.

        Takes the place of `step`: call before_step, this, backward, optimizer.step. Where
        the batch is left out, a zero of which no parameter gets a gradient.

        Args:
            batch: the batch that before_step was called with.

        Returns:
            A scalar, (); in Phase I every w_k is 1.

        Raises:
            OrderError, LossError: as `step`; the gradients are the caller's to look at.
        """
        return self._steps.weighted_loss(batch)

    def plain_and_weighted_loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        """(1/B) Σ_k L_k(θ) beside `weighted_loss`, of one graph, and in its place.

        For frameworks whose step returns a loss that is reduced already: weighted - plain, added
        to it, has it weighted. In Phase I, and where the batch is left out, both are the same.

        Args:
            batch: the batch that before_step was called with.

        Returns:
            Two scalars, () each, with their graph; the second is Eq. 9.

        Raises:
            OrderError, LossError, NonFiniteError: as `weighted_loss`.
        """
        return self._steps.plain_and_weighted_loss(batch)

    def skip_batch(self) -> None:
        """Leaves out the batch that before_step was last called with: no step follows it."""
        self._steps.hand = None

    @outside_inference_mode
    def sample_weights(self, batch: Any) -> Tensor:
        """The weights that the batch's samples would have now, (B,), detached.

        w_k = g(x_k; ψ), divided by their mean over the batch unless `weight_normalization` is
        "none" (Eq. 5). All ones in Phase I. The losses are taken in evaluation mode; nothing is
        recorded.

        Args:
            batch: as for `before_step`.

        Raises:
            BatchError, InteractionsError, LossError: as `before_step`.
        """
        self._epochs.say_if_even()
        return self._steps.weights_now(batch)

    @outside_inference_mode
    def end_epoch(self) -> EpochRecord | None:
        """Ends the epoch: ranking, noise rate, and the decision to switch (Eq. 1 to 4).

        Without a call, an epoch ends when each pair has come once, or K times if a pass over the
        loader shows each in K rows. Of samplers with replacement, and of loaders that never show
        some pairs, it ends when as many observed samples have come as pairs were handed over.
        The first epoch that ends by itself warns if it saw few of the pairs, or if K > 1.

        From the first call on, and with `explicit_epochs` at once, epochs end by calls alone. A
        call right after an epoch ended by itself confirms it and does nothing more.

        Returns:
            The epoch's record; None when disabled.

        Raises:
            NoiseRateError, ScoreError: the epoch is not ended and can be ended again.
            SwitchError: the epoch has ended, but Phase II cannot begin by time-out.
            OrderError: between before_step and step, or before any batch.
            NonFiniteError: with `on_nonfinite="skip"`, every batch of the epoch was left out.
            BatchError, InteractionsError: as `before_step`; the batches named are left out,
                and the epoch can be ended again.

        On several ranks all call it, and what fails on one of them fails on all.
        """
        if not self.enabled:
            return None
        self._steps.settle()
        if self._steps.hand is not None:
            raise OrderError(
                "Expected end_epoch after step, got it between before_step and step. "
                "Call it after the loop over the loader."
            )
        with self._user_code.added.adding():
            return self._epochs.end()

    # ------------------------------------------------------------------ state

    @outside_inference_mode
    def state_dict(self) -> dict[str, Any]:
        """Everything the denoiser knows, in tensors and plain values, sealed by a SHA-256.

        Pass it on as it is: `load_state_dict` refuses a state in which anything was changed.
        ``torch.load(..., weights_only=True)`` reads it back. Model, optimizer and the global
        random state are the user's to save.

        Raises:
            OrderError: between before_step and step.
            BatchError, InteractionsError: as `before_step`; the batches named are left out,
                and the state can be taken again.
        """
        self._steps.settle()
        if self._steps.hand is not None:
            raise OrderError(
                "Expected state_dict between steps, got it between before_step and step. "
                "Save after step."
            )
        self._epochs.write_down()
        model = self._user_code.model
        return sealed(
            {
                **header(self.interactions, self.config, model, enabled=self.enabled),
                **rank_header(self._ranks, self.interactions),
                **self._epochs.state_dict(),
                "user": {**self._user_code.state_dict(), **self._reading.state_dict()},
            }
        )

    @outside_inference_mode
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken, bit for bit.

        Args:
            state: what `state_dict` or `merge_states` returned.

        Raises:
            StateError: a state that was changed or damaged, or one of another data set, config,
                model or version; nothing was changed.
        """
        check_seal(state)
        state = state_of_rank(state, self._ranks, self.interactions)
        model = self._user_code.model
        check_header(state, self.interactions, self.config, model, enabled=self.enabled)
        code, reading = self._user_code, self._reading
        changing = self._epochs, self._steps, reading, reading.reader, code, code.streams
        with all_or_nothing(*changing):
            self._epochs.load_state_dict(state)
            with broken_state_refused():
                code.load_state_dict(state["user"])
                reading.load_state_dict(state["user"])
            self._steps.hand = None

    def __getstate__(self) -> Any:
        """Refuses copies and pickles, which would share or lose what is the user's.

        Raises:
            StateError: always.
        """
        raise StateError(
            "Expected state_dict() to be saved, got a copy or pickle of the denoiser, which holds "
            "your model, optimizer and loss. Build another one and load_state_dict() into it."
        )
