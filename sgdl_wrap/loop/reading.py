"""How batches are read: the pairs of each, and a close look at the first."""

from __future__ import annotations

from typing import Any, cast

from sgdl_wrap.batches.batch import BatchInHand
from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.batches.marks import doubt_of_marks, tells_of_marks
from sgdl_wrap.batches.pairs import PairFn, PairReader
from sgdl_wrap.batches.samples import Samples, doubt_of_unknown, refuse_unknown
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.errors import THIS_BATCH, NonFiniteError, named
from sgdl_wrap.guiding.guidance import check_guidance_fits
from sgdl_wrap.model.calls import UserCode
from sgdl_wrap.model.trees import doubt_storable, shallow_copy
from sgdl_wrap.model.twin import Lookahead
from sgdl_wrap.notices import warn
from sgdl_wrap.ranks.layout import check_own_pairs
from sgdl_wrap.ranks.ranks import Ranks


class Reading:
    """What is known of the loader's batches.

    Args:
        user_code: the model and the loss that the first batch is tried on.
        interactions: D.
        pair_fn: reads a batch's pairs; None knows the common layouts.
        config: the method's choices.
        ranks: the processes that train together.

    Attributes:
        reader: knows the pairs of a batch.
        looked_at: whether a first batch has come, and was looked at closely.
    """

    def __init__(
        self,
        user_code: UserCode,
        interactions: Interactions,
        pair_fn: PairFn | None,
        config: DenoiserConfig,
        ranks: Ranks,
    ) -> None:
        self._user_code = user_code
        self._interactions = interactions
        self._config = config
        self._ranks = ranks
        self.reader = PairReader(pair_fn)
        self.looked_at = False
        # whether batches have told all, and the size above which one is refused none the less
        self._knows_all, self._most = False, cast("int | None", None)
        # of the first batches, until they mark enough pairs unobserved; None when they did
        self._marked: list[Samples] | None = []

    def taken(self, batch: Any, where: str = THIS_BATCH) -> BatchInHand:
        """A batch with its pairs, by the user's function without a trace.

        Args:
            where: names it in messages.

        Raises:
            BatchError: they cannot be read.
        """
        if self.reader.is_users:
            with self._user_code.streams.own(self._user_code.device, advance=False):
                pairs = self.reader(shallow_copy(batch))
        else:
            pairs = self.reader(batch)
        return BatchInHand(batch, pairs, self._interactions, where)

    def looked(self, hand: BatchInHand, *, example: bool = False) -> Lookahead | None:
        """The lookahead; the first batch is looked at closely, and the loss is tried on it.

        None with `audit_only`, which has no lookahead, and asks nothing of the loss for one. A
        batch with NaN or Inf tells nothing: its step will name it, and the next one is tried.

        Args:
            hand: the batch in hand.
            example: whether it was handed over to be tried.

        Raises:
            BatchError, InteractionsError, LossError, UnsupportedModelError: as
                :meth:`SelfGuidedDenoiser.before_step` at the first batch.
            NonFiniteError: an `example` whose losses or gradients are NaN or Inf.
        """
        known = self._knows_all and self._user_code.is_tried
        if known and (self._most is None or hand.size <= self._most):
            return self._user_code.lookahead
        first, audits = not self.looked_at, self._config.audit_only
        unsure = self._user_code.sliceable is None and not audits
        if first or unsure or self._marked is not None:
            self._check_pairs(hand, first=first)
        if audits:
            if first:
                self._try_for_an_audit(hand, example=example)
            return None
        if first and self._config.variants.denoising_learning:
            doubt_storable(hand.batch)
        lookahead = self._user_code.prepare(hand.batch, hand.size, example=example)
        self.looked_at = True
        sliceable = self._user_code.sliceable
        check_guidance_fits(hand.size, self._config, sliceable=sliceable)
        if self._marked is None and self._user_code.is_tried:
            self._knows_all = True
            self._most = self._config.max_guidance_batch if sliceable is False else None
        return lookahead

    def _check_pairs(self, hand: BatchInHand, *, first: bool) -> None:
        samples = hand.samples
        if self._marked is not None:
            self._check_marks(hand)
        refuse_unknown(samples)
        check_own_pairs(self._ranks, samples)
        doubt = doubt_of_unknown(samples) if first else None
        if doubt is not None:
            warn(named(doubt, hand.where))

    def _check_marks(self, hand: BatchInHand) -> None:
        together = Samples.joined([*(self._marked or []), hand.samples])
        doubt = doubt_of_marks(together, self._interactions)
        if doubt is not None:
            warn(named(doubt, hand.where))
        self._marked = None if doubt is not None or tells_of_marks(together) else [together]

    def _try_for_an_audit(self, hand: BatchInHand, *, example: bool) -> None:
        try:
            self._user_code.losses_aside(hand.batch, hand.size)
        except NonFiniteError:
            if example:
                raise
            return
        self.looked_at = True

    def state_dict(self) -> dict[str, Any]:
        """What batches have told of their layout."""
        return {"looked_at": self.looked_at, "told_apart": self.reader.told_apart}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self.looked_at, self.reader.told_apart = bool(state["looked_at"]), bool(state["told_apart"])
        self._marked = None if self.looked_at else []
        self._knows_all, self._most = False, None
