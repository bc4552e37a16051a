"""Drawing guidance samples, and its gradient: straight-through Gumbel-softmax (Eq. 11, 12)."""

from __future__ import annotations

import torch
from torch import Tensor


def gumbel_noise(
    shape: tuple[int, ...], generator: torch.Generator, *, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """ε = -log(-log u), u uniform; drawn on the CPU, so that devices agree."""
    drawn = torch.rand(shape, generator=generator, dtype=torch.float32)
    drawn.clamp_min_(torch.finfo(torch.float32).tiny)  # u may be 0
    return drawn.log_().neg_().log_().neg_().to(device=device, dtype=dtype)


def soft_draws(logits: Tensor, noise: Tensor, tau: float) -> Tensor:
    """y = softmax((log π + ε) / τ), π = softmax(o), (draws, n)   (Eq. 11, 12).

    The Gumbel noise stands inside the bracket: the printed bracket is a slip. Without graph.

    Args:
        logits: o, (n,).
        noise: ε, (draws, n), Gumbel.
        tau: τ.
    """
    with torch.no_grad():
        return torch.softmax((torch.log_softmax(logits, dim=0) + noise) / tau, dim=1)


def guidance_shares(soft: Tensor) -> Tensor:
    """c_m: how much of the guidance each sample gives, (n,), summing to 1.

    The mean of the draws, each of them one-hot at the largest y; :func:`shares_gradient` takes
    them for y (straight-through).
    """
    draws, n = soft.shape
    wins = torch.bincount(soft.argmax(dim=1), minlength=n)
    return wins.to(soft.dtype) / draws


def expected_draw(logits: Tensor) -> Tensor:
    """π = softmax(o), (1, n), without graph: the share that each sample has in the mean of all
    one-hot draws, as that of the largest log π_m + ε_m is m with probability π_m (Eq. 11, 12).

    It is its own soft draw, of τ = 1: :func:`shares_gradient` then gives d(Σ_m π_m L_m)/do.
    """
    return torch.softmax(logits.detach(), dim=0)[None]


def shares_gradient(soft: Tensor, losses: Tensor, tau: float) -> Tensor:
    """d(Σ_m c_m L_m)/do = (1/D) Σ_d y_d (L - <y_d, L>) / τ, (n,); D draws.

    From dy_dm/dlog π_j = y_dm (δ_mj - y_dj) / τ; as these add up to 0, the gradient in log π is the
    gradient in o.

    Args:
        soft: y, (D, n).
        losses: L, (n,).
    """
    centred = losses - losses.mean()  # changes nothing but the rounding
    gradient: Tensor = (soft * (centred - (soft @ centred)[:, None])).mean(dim=0) / tau
    return gradient


def negative_entropy_gradient(logits: Tensor) -> Tensor:
    """d(Σ_m π_m log π_m)/do = π (log π + H), (n,); H the entropy of π = softmax(o)."""
    log_probabilities = torch.log_softmax(logits, dim=0)
    terms = log_probabilities.exp() * log_probabilities
    gradient: Tensor = terms - log_probabilities.exp() * terms.sum()
    return gradient
