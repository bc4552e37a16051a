"""One step of Phase II: assumed update, guidance, ψ and φ (Sec. 3.2, Eq. 7, 8, 10 to 12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.random_streams import RandomStreams
from sgdl_wrap.self_guided.denoising_scheduler import LSTMScheduler, MLPScheduler, top_f
from sgdl_wrap.self_guided.factors import FactorHistory
from sgdl_wrap.self_guided.guidance import Guidance
from sgdl_wrap.self_guided.lookahead import (
    Lookahead,
    assumed_update,
    gradient_products,
    vector_jacobian,
)
from sgdl_wrap.self_guided.selection import guidance_shares, gumbel_noise
from sgdl_wrap.self_guided.similarity import gradient_cosines
from sgdl_wrap.self_guided.weighting import WeightingFunction, normalized


@dataclass(frozen=True)
class MetaStep:
    """What one step of ψ and φ saw; gradients are those that their optimizers took.

    Attributes:
        guidance_loss: Σ_m c_m L_m(θ̂).
        shares: c, (n,).
        products: <ḡ, ∇L_k(θ)> of the training samples, (B,) (Eq. 16).
        weighting_gradients: d(guidance loss)/dψ.
    """

    guidance_loss: Tensor
    shares: Tensor
    products: Tensor
    weighting_gradients: list[Tensor]


class SelfGuidedLearner:
    """ψ, φ, their optimizers, and the factor history: all that Phase II learns.

    Args:
        memorized: M, sorted interaction ids, (|M|,) int64 on the CPU.
        config: the variants.
        device, dtype: of the losses.
    """

    def __init__(
        self, memorized: Tensor, config: DenoiserConfig, *, device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.config = config
        self.generator = torch.Generator().manual_seed(config.seed + 1)
        kind = {"generator": self.generator, "device": device, "dtype": dtype}
        self.weighting = WeightingFunction(
            len(config.weight_inputs), config.weight_hidden, **kind  # type: ignore[arg-type]
        )
        self.weighting_optimizer = _adam(self.weighting, config.meta_lr)
        self.denoising_scheduler: nn.Module | None = None
        self.scheduler_optimizer: torch.optim.Optimizer | None = None
        if config.denoising_scheduler in ("lstm", "mlp"):
            make = LSTMScheduler if config.denoising_scheduler == "lstm" else MLPScheduler
            self.denoising_scheduler = make(
                config.denoising_scheduler_hidden, **kind  # type: ignore[arg-type]
            )
            self.scheduler_optimizer = _adam(
                self.denoising_scheduler, config.denoising_scheduler_lr
            )
        self.factors: FactorHistory | None = None
        if config.denoising_scheduler != "none":
            self.factors = FactorHistory(
                memorized, config.factor_history, device=device, dtype=dtype
            )

    def weights(self, features: Tensor) -> Tensor:
        """g(x; ψ) with its graph, normalised as configured, (B,)."""
        return normalized(self.weighting(features), self.config.weight_normalization)

    def learn(
        self,
        losses: Tensor,
        features: Tensor,
        guidance: Guidance,
        lookahead: Lookahead,
        streams: RandomStreams,
        *,
        assumed_lr: float,
    ) -> MetaStep:
        """Updates ψ and φ once by the guidance loss at the assumed parameters.

        Args:
            losses: L(θ) of the training batch, (B,), with its graph, which is kept.
            features: what g reads of the samples, (B, F), without graph.
            guidance: the memorized samples that judge.
            assumed_lr: η1.

        Source: Eq. 7, 8, 10, 11, 12, 16.
        """
        theta = lookahead.parameters
        weights = self.weights(features)
        vector = weights.detach().to(losses.dtype).requires_grad_()
        step = vector_jacobian(losses, theta, vector, differentiable=True)
        scale = assumed_lr / len(losses)
        virtual = assumed_update(theta, step, scale)  # Eq. 7

        cosines = self.config.similarity == "paper" and self.factors is not None
        with streams.own(advance=not cosines):  # both points see the same dropout masks
            guidance_losses = guidance.select(lookahead.losses(virtual, guidance.batch))
        if cosines:
            self._record_paper_factors(guidance, guidance_losses, virtual, lookahead, streams)
        shares = self._shares(guidance, guidance_losses.detach())
        guidance_loss = (shares.detach().to(guidance_losses.dtype) * guidance_losses).sum()
        found = torch.autograd.grad(guidance_loss, virtual, allow_unused=True)
        direction = [
            torch.zeros_like(p) if g is None else g for g, p in zip(found, virtual, strict=True)
        ]

        products = gradient_products(step, vector, direction)
        # Eq. 16: d(guidance loss)/dw_k = -(η1/B) <ḡ, ∇L_k(θ)>
        gradients = list(
            torch.autograd.grad(
                weights, list(self.weighting.parameters()), (-scale * products).to(weights.dtype)
            )
        )
        self._update_scheduler(shares, guidance_losses.detach())
        _apply(self.weighting_optimizer, self.weighting, gradients)
        return MetaStep(guidance_loss.detach(), shares.detach(), products, gradients)

    def record_visits(self, ids: Tensor, losses: Tensor, products: Tensor) -> None:
        """Notes (L_k(θ), alignment) of the memorized samples of a training batch.

        Args:
            ids: memorized interactions among the batch, (m,) int64 on the CPU.
            losses: theirs, (m,).
            products: their standardised <ḡ, ∇L_k(θ)>, (m,).
        """
        if self.factors is not None and len(ids):
            factors = torch.stack([losses.detach(), products], dim=1)
            self.factors.record(self.factors.slots(ids), factors)

    def _record_paper_factors(
        self,
        guidance: Guidance,
        assumed_losses: Tensor,
        virtual: list[Tensor],
        lookahead: Lookahead,
        streams: RandomStreams,
    ) -> None:
        """(L_m(θ), cos(∇L_m(θ̂), ∇L_m(θ))) of the guidance samples, as Eq. 10 prints it."""
        theta = [p.detach().clone().requires_grad_() for p in lookahead.parameters]
        with streams.own():
            losses = guidance.select(lookahead.losses(theta, guidance.batch))
        cosines = gradient_cosines(losses, theta, assumed_losses, virtual)
        known = guidance.ids >= 0
        on_device = known.to(losses.device)
        self.record_visits(guidance.ids[known], losses.detach()[on_device], cosines[on_device])

    def _shares(self, guidance: Guidance, losses: Tensor) -> Tensor:
        """c_m of the guidance samples, (n,), with a graph to φ where it is learned."""
        n = len(losses)
        known = guidance.ids >= 0
        if self.factors is None or not bool(known.any()):
            return torch.full((n,), 1.0 / n, device=losses.device, dtype=self.factor_dtype)
        if bool(known.all()):
            return self._scheduled(guidance.ids)
        # Memorized negatives are drawn anew each epoch and have no history: they share equally,
        # and the scheduler divides what is left among the memorized interactions.
        on_device = known.to(losses.device)
        shares = torch.full((n,), 1.0 / n, device=losses.device, dtype=self.factor_dtype)
        part = int(known.sum()) / n
        return shares.masked_scatter(on_device, self._scheduled(guidance.ids[known]) * part)

    def _scheduled(self, ids: Tensor) -> Tensor:
        assert self.factors is not None  # noqa: S101  (for the type checker)
        factors, visits = self.factors.sequences(self.factors.slots(ids))
        if self.denoising_scheduler is None:
            latest = factors[visits - 1, torch.arange(len(ids), device=factors.device)]
            return top_f(latest)
        logits = self.denoising_scheduler(factors, visits)
        noise = gumbel_noise(
            (self.config.gumbel_draws, len(ids)), self.generator,
            dtype=logits.dtype, device=logits.device,
        )
        return guidance_shares(logits, noise, self.config.gumbel_tau)

    def _update_scheduler(self, shares: Tensor, guidance_losses: Tensor) -> None:
        """d(guidance loss)/dφ = Σ_m L_m(θ̂) dc_m/dφ (Eq. 8 for φ)."""
        if self.scheduler_optimizer is None or not shares.requires_grad:
            return
        assert self.denoising_scheduler is not None  # noqa: S101
        gradients = torch.autograd.grad(
            shares, list(self.denoising_scheduler.parameters()), guidance_losses.to(shares.dtype)
        )
        _apply(self.scheduler_optimizer, self.denoising_scheduler, list(gradients))

    @property
    def factor_dtype(self) -> torch.dtype:
        """The precision in which ψ and φ compute."""
        return next(self.weighting.parameters()).dtype

    def state_dict(self) -> dict[str, Any]:
        """ψ, φ, their optimizers, the factor history and the generator."""
        state: dict[str, Any] = {
            "weighting": self.weighting.state_dict(),
            "weighting_optimizer": self.weighting_optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }
        if self.denoising_scheduler is not None and self.scheduler_optimizer is not None:
            state["denoising_scheduler"] = self.denoising_scheduler.state_dict()
            state["scheduler_optimizer"] = self.scheduler_optimizer.state_dict()
        if self.factors is not None:
            state["factor_ring"] = self.factors.ring.clone()
            state["factor_visits"] = self.factors.visits.clone()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave, for the same M and config."""
        self.weighting.load_state_dict(state["weighting"])
        self.weighting_optimizer.load_state_dict(state["weighting_optimizer"])
        self.generator.set_state(state["generator"].cpu())
        if self.denoising_scheduler is not None and self.scheduler_optimizer is not None:
            self.denoising_scheduler.load_state_dict(state["denoising_scheduler"])
            self.scheduler_optimizer.load_state_dict(state["scheduler_optimizer"])
        if self.factors is not None:
            self.factors.ring.copy_(state["factor_ring"])
            self.factors.visits.copy_(state["factor_visits"])


def _adam(module: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=lr, fused=True)  # one kernel a step


def _apply(
    optimizer: torch.optim.Optimizer, module: nn.Module, gradients: list[Tensor]
) -> None:
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()
