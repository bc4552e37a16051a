"""One step of Phase II: assumed update, guidance, ψ and φ (Sec. 3.2, Eq. 7, 8, 10 to 12)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from sgdl_wrap.batches.pairs import describe
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.equations.updates import chain_rule
from sgdl_wrap.errors import THIS_BATCH, DenoiserError, StateError, batch_named
from sgdl_wrap.guiding.guidance import Guidance
from sgdl_wrap.guiding.loss_scale import input_units
from sgdl_wrap.guiding.optimizers import adam, moment, step
from sgdl_wrap.guiding.selector import GuidanceSelector
from sgdl_wrap.guiding.weighting import Objective, WeightingFunction, mean_weight
from sgdl_wrap.model.gradients import (
    ascent_direction,
    assumed_update,
    gradient_at,
    gradient_cosines,
    gradient_products,
)
from sgdl_wrap.model.numbers import check_finite
from sgdl_wrap.model.refusals import check_shape
from sgdl_wrap.model.tables import Lookup, RowUpdate
from sgdl_wrap.model.twin import Elsewhere, Lookahead
from sgdl_wrap.ranks.ranks import ALONE, Gathered, Ranks

# what a loss raises that is given a batch of another layout
_MISREAD = (TypeError, ValueError, IndexError, KeyError, AttributeError)
_REMEDY = (
    "Lower assumed_lr, meta_lr or the learning rate, or look for sqrt(0), log(0) and 0/0 in "
    "loss_fn: its value may be finite where its gradient is not."
)


@dataclass(frozen=True)
class MetaStep:
    """What one step of ψ and φ saw; gradients are those that their optimizers took.

    Attributes:
        guidance_loss: Σ_m c_m L_m(θ̂), of this rank's samples.
        shares: c, (n,).
        alignments: <ḡ, ∇L_k(θ)> of the training samples of all ranks (Eq. 16).
        weighting_gradients: d(guidance loss + entropy term)/dψ.
    """

    guidance_loss: Tensor
    shares: Tensor
    alignments: Gathered
    weighting_gradients: list[Tensor]


class SelfGuidedLearner:
    """ψ, the selector that holds φ, and the optimizer of both: all that Phase II learns.

    Args:
        memorized: M, sorted interaction ids, (|M|,) int64.
        config: the variants.
        device, dtype: of the losses.
        ranks: those that learn together, each from its own part of the batch and the guidance.
        loss_scale: what g divides losses by.
    """

    def __init__(
        self, memorized: np.ndarray, config: DenoiserConfig, *, device: torch.device,
        dtype: torch.dtype, ranks: Ranks = ALONE, loss_scale: float = 1.0,
    ) -> None:
        self.config = config
        self._ranks = ranks
        self._divides = config.variants.weight_normalization == "mean"
        self._entropy = cast(float, config.variants.weighting_entropy)  # settled
        self.generator = torch.Generator().manual_seed(config.seed + 1)
        kind = {"generator": self.generator, "device": device, "dtype": dtype}
        self.weighting = WeightingFunction(
            len(config.inputs), config.variants.weight_hidden,
            believes=config.evidence_weights,
            input_units=input_units(config.inputs, loss_scale),
            **kind,  # type: ignore[arg-type]
        )
        self.selector = GuidanceSelector(
            memorized, config, generator=self.generator, device=device, dtype=dtype, ranks=ranks
        )
        meta_lr = cast(float, config.meta_lr)  # settled
        learned: list[tuple[nn.Module, float]] = [(self.weighting, meta_lr)]
        if self.selector.network is not None:
            learned.append((self.selector.network, config.variants.denoising_scheduler_lr))
        self.optimizer = adam(*learned)

    def following(self, memorized: np.ndarray) -> SelfGuidedLearner:
        """That of another M, sorted interaction ids; ψ, φ and their optimizer are the same."""
        after = copy.copy(self)
        after.selector = self.selector.following(memorized)
        return after

    def moment(self) -> Callable[[], None]:
        """What takes back a step of ψ and φ that is taken from now on."""
        learned, drawn = moment(self.optimizer), self.generator.get_state()
        factors = self.selector.factors
        recorded = None if factors is None else factors.moment()

        def put_back() -> None:
            learned()
            self.generator.set_state(drawn)
            if recorded is not None:
                recorded()

        return put_back

    def weights(self, features: Tensor, ranks: Ranks = ALONE) -> Tensor:
        """g(x; ψ), normalised as configured over the batches of the ranks, (B,), without graph."""
        with torch.no_grad():
            weights: Tensor = self.weighting(features)
        return weights / mean_weight(weights, ranks) if self._divides else weights

    def learn(
        self,
        losses: Tensor,
        features: Tensor,
        guidance: Guidance | None,
        elsewhere: Elsewhere,
        *,
        assumed_lr: float,
        lookups: dict[int, list[Lookup]] | None = None,
    ) -> MetaStep:
        """Updates ψ and φ once by the guidance loss at the assumed parameters.

        Args:
            losses: L(θ) of the training batch, (B,), with its graph, which is kept.
            features: what g reads of the samples, (B, F), without graph.
            guidance: the memorized samples that judge; None where other ranks alone have some.
            elsewhere: how losses at θ̂ are taken.
            assumed_lr: η1.
            lookups: how the losses look up large tables, if that is known.

        Raises:
            NonFiniteError: NaN or Inf on the way; ψ and φ are as they were.

        Source: Eq. 7, 8, 10, 11, 12, 16; deviation 22.
        """
        theta = elsewhere.lookahead.parameters
        raw = self.weighting(features)
        mean = mean_weight(raw, self._ranks)
        relative = raw.detach() / mean
        weights = relative if self._divides else raw.detach()
        vector = weights.to(losses.dtype, copy=True).requires_grad_()
        cosines = self.config.variants.similarity == "paper" and self.selector.factors is not None
        if cosines or lookups is None or self._ranks.several:  # which need all of θ̂
            lookups = {}
        ascent = ascent_direction(losses, theta, lookups, vector)
        # of several ranks the mean, as the actual update will be
        scale = assumed_lr / (len(losses) * self._ranks.size)
        virtual = assumed_update(theta, *self._ranks.summed(ascent, scale))  # Eq. 7
        pieces: list[Guidance] = []
        if guidance is not None:
            pieces = guidance.pieces(self.config.max_guidance_batch)
        ids = np.concatenate([np.empty(0, np.int64), *(piece.ids for piece in pieces)])
        if cosines:
            dense = [value for value in virtual if isinstance(value, Tensor)]
            self._record_cosines(ids, pieces, dense, elsewhere)
        selection = self.selector.select(ids)
        shares = selection.shares
        guidance_losses, direction = self._judged(virtual, pieces, shares, elsewhere)
        self._ranks.sum_(direction)
        products = gradient_products(ascent, vector, direction)
        alignments = self._ranks.gather(products)
        objective = Objective(scale, self._entropy, divides=self._divides)
        belief = features[:, -1] if self.weighting.believes else None
        pull = objective.gradient(relative, mean, alignments, self._ranks, belief=belief)
        gradients = chain_rule(raw, list(self.weighting.parameters()), pull)
        selector_gradients = self.selector.gradients(selection, guidance_losses.detach())
        self._ranks.sum_([*gradients, *(selector_gradients or [])])
        check_finite(
            {
                "losses of the guidance samples": [guidance_losses],
                "alignments of the samples with the guidance": [products],
                "gradients of the weighting function ψ": gradients,
                "gradients of the denoising scheduler φ": selector_gradients or [],
            },
            _REMEDY,
        )
        step(self.optimizer, [gradients, selector_gradients][: len(self.optimizer.param_groups)])
        guidance_loss = (shares.to(guidance_losses.dtype) * guidance_losses).sum()
        return MetaStep(guidance_loss, shares, alignments, gradients)

    def _judged(
        self,
        virtual: Sequence[Tensor | RowUpdate],
        pieces: Sequence[Guidance],
        shares: Tensor,
        elsewhere: Elsewhere,
    ) -> tuple[Tensor, list[Tensor]]:
        """L_m(θ̂) of the guidance samples, (n,), and ḡ, the gradient of Σ_m c_m L_m(θ̂)."""
        evaluated: list[Tensor] = []
        direction: list[Tensor] = []
        first = 0
        for piece in _or_none(pieces):  # one after the other, as the graph of each takes memory
            with elsewhere.aside():
                here = _losses_at(virtual, piece, elsewhere.lookahead)
            part = (shares[first : first + len(here)].to(here.dtype) * here).sum()
            found = gradient_at(part, virtual)
            # not in place: one gradient may stand for two parameters
            direction = list(map(torch.add, direction, found)) if direction else found
            evaluated.append(here.detach())
            first += len(here)
        return torch.cat(evaluated), direction

    def _record_cosines(
        self,
        ids: np.ndarray,
        pieces: Sequence[Guidance],
        virtual: list[Tensor],
        elsewhere: Elsewhere,
    ) -> None:
        """(L_m(θ), cos(∇L_m(θ̂), ∇L_m(θ))) of the guidance samples, as Eq. 10 prints it."""
        lookahead, aside = elsewhere.lookahead, elsewhere.aside
        theta = [p.detach().clone().requires_grad_() for p in lookahead.parameters]
        factors = []
        for piece in _or_none(pieces):
            # rewound, as both points must see the same dropout masks
            with aside(advance=False):
                there = _losses_at(virtual, piece, lookahead)
            with aside():
                here = _losses_at(theta, piece, lookahead)
            factors.append((here.detach(), gradient_cosines(here, theta, there, virtual)))
        losses, cosines = (torch.cat(column) for column in zip(*factors, strict=True))
        known = ids >= 0
        on_device = torch.from_numpy(known).to(losses.device)
        self.selector.record(ids[known], losses[on_device], cosines[on_device])

    def state_dict(self) -> dict[str, Any]:
        """ψ, φ, their optimizers, the factor history and the generator, as copies."""
        return copy.deepcopy(
            {
                "weighting": self.weighting.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "selector": self.selector.state_dict(),
                "generator": self.generator.get_state(),
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave, for the same M and config."""
        self.weighting.load_state_dict(state["weighting"])
        # Adam keeps the tensors that it is given
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.selector.load_state_dict(state["selector"])
        self.generator.set_state(state["generator"].cpu())


def _or_none(pieces: Sequence[Guidance]) -> Sequence[Guidance | None]:
    """One round without guidance if other ranks alone have some."""
    return pieces or [None]


def _losses_at(
    virtual: Sequence[Tensor | RowUpdate], guidance: Guidance | None, lookahead: Lookahead
) -> Tensor:
    """The guidance losses at other parameters, (n,), with their graph; (0,) without guidance.

    Raises:
        LossError: losses of another shape.
        StateError: guidance out of a state that the loss does not understand.
    """
    if guidance is None:
        return virtual[0].flatten()[:0] if isinstance(virtual[0], Tensor) else torch.zeros(0)
    try:
        losses = lookahead.losses(virtual, guidance.batch)
    except _MISREAD as error:
        if not guidance.restored or isinstance(error, DenoiserError):
            raise
        raise StateError(
            "Expected loss_fn to take the guidance that the state holds, "
            f"{describe(guidance.batch)}, got {type(error).__name__}: {error}. Resume with the "
            "same data loader and loss."
        ) from error
    with batch_named(f"the guidance of {THIS_BATCH}"):
        check_shape(losses, None if guidance.rows is not None else len(guidance.ids))
    return guidance.select(losses)
