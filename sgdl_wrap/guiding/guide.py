"""Phase II as a whole: M, what is learned of it, and the guidance handed from step to step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.batches.batch import BatchInHand
from sgdl_wrap.batches.samples import refuse_unknown
from sgdl_wrap.config import BY_LOSS_KIND, DenoiserConfig
from sgdl_wrap.equations.similarity import standardized
from sgdl_wrap.errors import StateError
from sgdl_wrap.guiding.guidance import Guidance, GuidanceDraw
from sgdl_wrap.guiding.learner import SelfGuidedLearner
from sgdl_wrap.model.calls import UserCode
from sgdl_wrap.model.trees import pack, unpack
from sgdl_wrap.ranks.ranks import ALONE, Ranks
from sgdl_wrap.watching.notebook import MemorizationTracker
from sgdl_wrap.watching.ranking import RankingLists

CHUNK = 1 << 16  # interactions that are weighted at once
_SETTLED = ("loss_kind", *BY_LOSS_KIND["ranking"])  # what is found out at the switch


class SelfGuidedPhase:
    """Everything that lives from the memorization point on.

    Args:
        memorized: M as it begins, sorted interaction ids, (|M|,) int64.
        n_interactions: N.
        config: the settings, settled; without `denoising_learning` nothing is learned and M alone
            is trained on (Table 3, w/o DLS).
        device, dtype: of ψ and φ.
        ranks: those that learn ψ and φ together.
        loss_scale: what g divides losses by.
    """

    def __init__(
        self,
        memorized: np.ndarray,
        n_interactions: int,
        config: DenoiserConfig,
        *,
        device: torch.device,
        dtype: torch.dtype,
        ranks: Ranks = ALONE,
        loss_scale: float = 1.0,
    ) -> None:
        self._ranks = ranks
        self.memorized = memorized
        self.config = config
        self.dtype = dtype
        self._device = device
        self._mask = _mask(memorized, n_interactions)
        self.learner: SelfGuidedLearner | None = None
        if config.variants.denoising_learning:
            self.learner = SelfGuidedLearner(
                memorized, config, device=device, dtype=dtype, ranks=ranks, loss_scale=loss_scale
            )
        self._covered: list[Tensor] = []  # shares of samples, of the epoch's learning steps
        self._guidance: Guidance | None = None
        self._stored_guidance: dict[str, Any] | None = None  # loaded, waits for a live batch
        self._steps = 0

    @property
    def pointwise(self) -> bool:
        """Whether unobserved pairs are samples of their own, which train and guide, too."""
        return self.config.loss_kind == "pointwise"

    def following(self, memorized: np.ndarray) -> SelfGuidedPhase:
        """That of M as it is now, sorted interaction ids, (|M|,) int64; this one stays as it is."""
        after = copy.copy(self)
        after.memorized = memorized
        after._mask = _mask(memorized, len(self._mask))
        after._covered = []
        if self.learner is not None:
            after.learner = self.learner.following(memorized)
        return after

    def moment(self) -> Callable[[], None]:
        """What takes back a step that is taken from now on."""
        waiting = self._guidance, self._stored_guidance, self._steps, self._covered
        learned = self.learner.moment() if self.learner is not None and self.learns_next else None

        def put_back() -> None:
            self._guidance, self._stored_guidance, self._steps, self._covered = waiting
            if learned is not None:
                learned()

        return put_back

    def is_memorized(self, ids: np.ndarray) -> np.ndarray:
        """Which ids are in M, (B,) bool; -1 is not."""
        found: np.ndarray = self._mask[ids] & (ids >= 0)
        return found

    @property
    def learns_next(self) -> bool:
        """Whether the next step is one that learns ψ and φ; not every one does (deviation 15)."""
        return self.learner is not None and self._steps % self.config.guidance_interval == 0

    def weights(self, hand: BatchInHand, *, alone: bool = False) -> Tensor:
        """w_k by the ψ of now, detached, (B,); w/o DLS, 1 for M and a pointwise loss's negatives.

        Args:
            hand: with its features, if g is learned.
            alone: whether other ranks are not asked: their batches do not count.
        """
        if self.learner is None:
            which = hand.samples
            kept = self.is_memorized(which.ids) | (which.negative & self.pointwise)
            return torch.from_numpy(kept).to(device=self._device, dtype=self.dtype)
        return self.learner.weights(cast(Tensor, hand.features), ALONE if alone else self._ranks)

    def interaction_weights(self, notebook: MemorizationTracker, ids: np.ndarray) -> np.ndarray:
        """w of some interactions by the ψ of now, (n,), before any normalisation.

        NaN where g reads a loss and none was seen since the memorization point.
        """
        if self.learner is None:
            return self.is_memorized(ids).astype(np.float64)
        g, found = self.learner.weighting, np.empty(len(ids))
        kind, latest = g.output.weight, notebook.latest_losses()
        for start in range(0, len(ids), CHUNK):
            some = slice(start, start + CHUNK)
            losses = torch.from_numpy(latest[ids[some]])
            features = notebook.features(ids[some], losses, self.config.features)
            with torch.no_grad():
                found[some] = g(features.to(kind)).double().cpu().numpy()
        return found

    def guide(
        self, hand: BatchInHand, user_code: UserCode, lists: RankingLists, *, assumed_lr: float
    ) -> None:
        """Learns ψ and φ from the batch, and keeps its memorized samples for the next step.

        Every `guidance_interval`-th step learns, and the one before it keeps.

        Args:
            hand: with its losses, look-ups and features; the graph of the losses is kept.
            user_code: how losses at θ̂ are taken, and whether rows of a batch can be.
            lists: each user's ranking list.
            assumed_lr: η1.

        Raises:
            NonFiniteError: NaN or Inf on the way to ψ and φ, which are as they were.
        """
        if self.learner is None:
            return
        interval = self.config.guidance_interval
        due, next_is_due = self.learns_next, (self._steps + 1) % interval == 0
        guidance = self._guidance_for(hand.kept, due=due)
        if not due and not next_is_due:
            self._steps += 1
            return
        which = hand.samples
        refuse_unknown(which)  # then it was no step
        self._steps += 1
        memorized = self.is_memorized(which.ids)
        if due and self._ranks.any(guidance is not None):
            self._guidance = None  # should it fail, it does not stand in the next step's way
            losses = cast(Tensor, hand.losses)
            learned = self.learner.learn(
                losses, cast(Tensor, hand.features), guidance, user_code.elsewhere,
                assumed_lr=assumed_lr, lookups=hand.lookups,
            )
            self._guidance = guidance
            self._covered = [*self._covered, _share_touched(learned.alignments.rows)]
            if self.config.variants.similarity == "alignment":
                everywhere = learned.alignments
                products = everywhere.own(standardized(everywhere.rows))
                places = torch.from_numpy(memorized).to(products.device)
                self.learner.selector.record(
                    which.ids[memorized], losses[places], products[places]
                )
        if next_is_due:
            draw = GuidanceDraw(
                size=self._ranks.share(self.config.guidance_size),
                with_negatives=self.pointwise and self.config.variants.guidance_labels == "both",
                outside_list=lists.outside,
                sliceable=bool(user_code.sliceable),
                generator=self._ranks.generator(self.learner.generator, self._steps),
            )
            self._guidance = draw.of(hand.kept, which, memorized)

    def _guidance_for(self, batch: Any, *, due: bool) -> Guidance | None:
        """The guidance waiting, rebuilt after loading with the help of a live batch.

        Raises:
            StateError: it is needed now, and the batch is of another class.
        """
        stored = self._stored_guidance
        if stored is None:
            return self._guidance
        try:
            rebuilt = unpack(stored["batch"], batch)
        except StateError:
            if due:
                raise
            return None  # the next batch may be like it
        guidance = Guidance(rebuilt, stored["rows"], stored["ids"].cpu().numpy(), restored=True)
        self._guidance, self._stored_guidance = guidance, None
        return guidance

    def guidance_coverage(self) -> float | None:
        """Mean share of samples with anything in common with the guidance, over the steps of the
        epoch that learned; None if there was none."""
        return float(torch.stack(self._covered).mean()) if self._covered else None

    def state_dict(self) -> dict[str, Any]:
        """M, ψ, φ, their optimizers, the waiting guidance, in tensors and plain values."""
        guidance = self._stored_guidance
        if self._guidance is not None:
            guidance = {
                "batch": pack(self._guidance.batch),
                "rows": self._guidance.rows,
                "ids": torch.from_numpy(self._guidance.ids),
            }
        settled = self.config.as_dict()
        return {
            "settled": {name: settled[name] for name in _SETTLED},
            "memorized": torch.from_numpy(self.memorized.copy()),
            "learner": None if self.learner is None else self.learner.state_dict(),
            "guidance": guidance,
            "steps": self._steps,
            "covered": [float(share) for share in self._covered],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave; M was handed over at construction."""
        if self.learner is not None:
            self.learner.load_state_dict(state["learner"])
        self._guidance, self._stored_guidance = None, state["guidance"]
        self._steps = state["steps"]
        self._covered = [torch.tensor(share) for share in state["covered"]]


def _share_touched(products: Tensor) -> Tensor:
    """Share of products that are not 0 to rounding, ()."""
    sizes = products.abs()
    return (sizes > 1e-6 * sizes.max()).float().mean()


def _mask(memorized: np.ndarray, n_interactions: int) -> np.ndarray:
    found = np.zeros(n_interactions, dtype=bool)
    found[memorized] = True
    return found
