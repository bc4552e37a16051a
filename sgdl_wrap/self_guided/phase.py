"""Phase II as a whole: M, what is learned of it, and the guidance handed from step to step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sgdl_wrap.batches.trees import pack, unpack
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.random_streams import RandomStreams
from sgdl_wrap.self_guided.guidance import Guidance, ScoresBelowCut, choose_guidance
from sgdl_wrap.self_guided.learner import SelfGuidedLearner
from sgdl_wrap.self_guided.lookahead import Lookahead
from sgdl_wrap.self_guided.similarity import standardized


class SelfGuidedPhase:
    """Everything that lives from the memorization point on.

    Args:
        memorized: M, sorted interaction ids, (|M|,) int64 on the CPU, frozen.
        n_interactions: N.
        config: the variants; without `denoising_learning` nothing is learned and M alone is
            trained on (Table 3, w/o DLS).
        device, dtype: of ψ and φ.
    """

    def __init__(
        self,
        memorized: Tensor,
        n_interactions: int,
        config: DenoiserConfig,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.memorized = memorized
        self.config = config
        self.dtype = dtype
        self._mask = torch.zeros(n_interactions, dtype=torch.bool)
        self._mask[memorized] = True
        self.learner: SelfGuidedLearner | None = None
        if config.denoising_learning:
            self.learner = SelfGuidedLearner(memorized, config, device=device, dtype=dtype)
        self._guidance: Guidance | None = None
        self._stored_guidance: dict[str, Any] | None = None  # loaded, waits for a live batch
        self._steps = 0

    def is_memorized(self, ids: Tensor) -> Tensor:
        """Which ids are in M, (B,) bool on the CPU; -1 is not."""
        return self._mask[ids.clamp(min=0)] & (ids >= 0)

    def weights(self, features: Tensor, ids: Tensor, observed: Tensor) -> Tensor:
        """w_k by the ψ of now, detached, (B,).

        Args:
            features: what g reads of the samples, (B, F).
            ids: their interactions, (B,) int64 on the CPU.
            observed: which are observed pairs, (B,) bool on the CPU.
        """
        if self.learner is None:  # negatives keep their weight
            kept = self.is_memorized(ids) | ~observed
            return kept.to(device=features.device, dtype=self.dtype)
        with torch.no_grad():
            return self.learner.weights(features.to(self.dtype))

    def guide(
        self,
        batch: Any,
        losses: Tensor,
        features: Tensor,
        ids: Tensor,
        users: Tensor,
        items: Tensor,
        *,
        lookahead: Lookahead,
        streams: RandomStreams,
        assumed_lr: float,
        outside_list: ScoresBelowCut,
        sliceable: bool,
    ) -> None:
        """Learns ψ and φ from the batch, and keeps its memorized samples for the next step.

        Args:
            batch: what the user's loader gave.
            losses: L(θ), (B,), with its graph, which is kept.
            features: what g reads of the samples, (B, F).
            ids, users, items: of the samples, (B,) int64 on the CPU.
            lookahead, streams: how losses at θ̂ are taken.
            assumed_lr: η1.
            outside_list: which unobserved pairs are outside their user's ranking list.
            sliceable: whether rows of a batch can be taken.
        """
        if self.learner is None:
            return
        due = self._steps % self.config.guidance_interval == 0
        self._steps += 1
        next_is_due = self._steps % self.config.guidance_interval == 0
        if not due and not next_is_due:
            return
        memorized = self.is_memorized(ids)
        guidance = self._guidance_for(batch)
        if due and guidance is not None:
            learned = self.learner.learn(
                losses, features.to(self.dtype), guidance, lookahead, streams,
                assumed_lr=assumed_lr,
            )
            if self.config.similarity == "alignment":
                products = standardized(learned.products)
                places = memorized.to(products.device)
                self.learner.selector.record(ids[memorized], losses[places], products[places])
        if next_is_due:
            self._guidance = choose_guidance(
                batch, ids, memorized, users, items,
                size=self.config.guidance_size,
                with_negatives=self.config.guidance_labels == "both",
                outside_list=outside_list,
                sliceable=sliceable,
                generator=self.learner.generator,
            )

    def _guidance_for(self, batch: Any) -> Guidance | None:
        """The guidance waiting, rebuilt after loading with the help of a live batch."""
        if self._stored_guidance is not None:
            stored = self._stored_guidance
            self._guidance = Guidance(
                unpack(stored["batch"], batch), stored["rows"], stored["ids"].cpu()
            )
            self._stored_guidance = None
        return self._guidance

    def state_dict(self) -> dict[str, Any]:
        """M, ψ, φ, their optimizers, the waiting guidance, in tensors and plain values."""
        guidance = self._stored_guidance
        if self._guidance is not None:
            guidance = {
                "batch": pack(self._guidance.batch),
                "rows": self._guidance.rows,
                "ids": self._guidance.ids,
            }
        return {
            "memorized": self.memorized.clone(),
            "learner": None if self.learner is None else self.learner.state_dict(),
            "guidance": guidance,
            "steps": self._steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave; M was handed over at construction."""
        if self.learner is not None:
            self.learner.load_state_dict(state["learner"])
        self._guidance, self._stored_guidance = None, state["guidance"]
        self._steps = state["steps"]
