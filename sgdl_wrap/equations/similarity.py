"""The scheduler's gradient factor (Eq. 10): the paper's cosine, and one that informs.

Deviation 5 (docs/deviations.md): the paper's cosine between a sample's gradient before and after
the assumed update is 1 to within 1e-12 in practice. The default is the alignment of a sample's
gradient with the guidance gradient, the product of Eq. 16, which the step computes anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def standardized(values: Tensor) -> Tensor:
    """(x - mean) / std over the batch; 0 where all are equal."""
    if len(values) == 0:
        return values
    spread = values.std(unbiased=False)
    return (values - values.mean()) / torch.where(spread > 0, spread, torch.ones_like(spread))


def gradient_cosines(
    losses: Tensor,
    parameters: Sequence[Tensor],
    other_losses: Tensor,
    other_parameters: Sequence[Tensor],
) -> Tensor:
    """cos(∇L_m(θ), ∇L_m(θ̂)) for every sample m; 0 where a gradient vanishes (Eq. 10).

    Exact, by one backward pass a sample at each point: the price of asking for the paper's form
    (`similarity="paper"`). No more than one sample's gradients are held at a time.

    Args:
        losses: L(θ), (n,), with a graph to `parameters`; the graph is kept.
        other_losses: L(θ̂), (n,), with a graph to `other_parameters`; the graph is kept.
    """
    cosines = []
    for loss, other in zip(losses, other_losses, strict=True):
        here = torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True)
        there = torch.autograd.grad(
            other, list(other_parameters), retain_graph=True, allow_unused=True
        )
        product, norm, other_norm = (losses.new_zeros((), dtype=torch.float64) for _ in range(3))
        for a, b in zip(here, there, strict=True):
            if a is not None:
                norm = norm + a.double().square().sum()
            if b is not None:
                other_norm = other_norm + b.double().square().sum()
            if a is not None and b is not None:
                product = product + (a.double() * b.double()).sum()
        length = (norm * other_norm).sqrt()
        cosines.append(torch.where(length > 0, product / length, 0.0))
    if not cosines:
        return losses.new_zeros(0)
    return torch.stack(cosines).to(losses.dtype)
