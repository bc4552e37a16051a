"""A differentiable draw of guidance samples: straight-through Gumbel-softmax (Eq. 11, 12)."""

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


def guidance_shares(logits: Tensor, noise: Tensor, tau: float) -> Tensor:
    """c_m: how much of the guidance each sample gives, the mean of straight-through draws.

    π = softmax(o)  (Eq. 11);  y = softmax((log π + ε) / τ)  (Eq. 12, the Gumbel noise inside the
    bracket: the printed bracket is a slip). Forward, a draw is one-hot at the largest y; backward
    it is y.

    Args:
        logits: o, (n,).
        noise: ε, (draws, n), Gumbel.
        tau: τ.

    Returns:
        c, (n,), summing to 1.
    """
    soft = torch.softmax((torch.log_softmax(logits, dim=0) + noise) / tau, dim=1)
    hard = torch.zeros_like(soft).scatter_(1, soft.argmax(dim=1, keepdim=True), 1.0)
    return (hard - soft.detach() + soft).mean(dim=0)
