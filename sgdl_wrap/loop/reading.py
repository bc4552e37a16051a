"""How batches are read: the pairs of each, and a close look at the first."""

from __future__ import annotations

from typing import Any

from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.batches.marks import refuse_or_doubt_marks, tells_of_marks
from sgdl_wrap.batches.pairs import PairFn, PairReader, Pairs
from sgdl_wrap.batches.samples import Samples, doubt_unknown, identified, refuse_unknown
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.errors import NonFiniteError
from sgdl_wrap.guiding.guidance import check_guidance_fits
from sgdl_wrap.model.calls import UserCode
from sgdl_wrap.model.trees import doubt_storable, shallow_copy
from sgdl_wrap.model.twin import Lookahead
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
        # of the first batches, until they mark enough pairs unobserved; None when they did
        self._marked: list[Samples] | None = []

    def pairs(self, batch: Any) -> Pairs:
        """The pairs of a batch, by the user's function without a trace.

        Raises:
            BatchError: they cannot be read.
        """
        if not self.reader.is_users:
            return self.reader(batch)
        with self._user_code.streams.own(self._user_code.device, advance=False):
            return self.reader(shallow_copy(batch))

    def looked(
        self, batch: Any, pairs: Pairs, where: str, *, example: bool = False
    ) -> Lookahead | None:
        """The lookahead; the first batch is looked at closely, and the loss is tried on it.

        None with `audit_only`, which has no lookahead, and asks nothing of the loss for one. A
        batch with NaN or Inf tells nothing: its step will name it, and the next one is tried.

        Args:
            pairs: of the batch.
            where: names it in messages.
            example: whether it was handed over to be tried.

        Raises:
            BatchError, InteractionsError, LossError, UnsupportedModelError: as
                :meth:`SelfGuidedDenoiser.before_step` at the first batch.
            NonFiniteError: an `example` whose losses or gradients are NaN or Inf.
        """
        first, audits = not self.looked_at, self._config.audit_only
        unsure = self._user_code.sliceable is None and not audits
        if first or unsure or self._marked is not None:
            self._check_pairs(pairs, where, first=first)
        if audits:
            if first:
                self._try_for_an_audit(batch, len(pairs), example=example)
            return None
        if first and self._config.variants.denoising_learning:
            doubt_storable(batch)
        lookahead = self._user_code.prepare(batch, len(pairs), example=example)
        self.looked_at = True
        check_guidance_fits(
            len(pairs), sliceable=self._user_code.sliceable, config=self._config, where=where
        )
        return lookahead

    def _check_pairs(self, pairs: Pairs, where: str, *, first: bool) -> None:
        samples = identified(pairs, self._interactions, where)
        if self._marked is not None:
            self._check_marks(samples, where)
        refuse_unknown(samples, where)
        check_own_pairs(self._ranks, samples, where)
        if first:
            doubt_unknown(samples, where)

    def _check_marks(self, samples: Samples, where: str) -> None:
        together = Samples.joined([*(self._marked or []), samples])
        doubted = refuse_or_doubt_marks(together, self._interactions, where)
        self._marked = None if doubted or tells_of_marks(together) else [together]

    def _try_for_an_audit(self, batch: Any, size: int, *, example: bool) -> None:
        try:
            self._user_code.losses_aside(batch, size)
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
