"""The scheduler's gradient factor: the paper's cosine, and one that informs (Eq. 10).

The paper's cosine between a sample's gradient before and after the assumed update is 1 to within
1e-12 in practice (deviation 5). The default is the alignment of a sample's gradient with the
guidance gradient, the product of Eq. 16, which the step computes anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cosine(here: Sequence[Tensor | None], there: Sequence[Tensor | None]) -> Tensor:
    """cos(∇L_m(θ), ∇L_m(θ̂)) of one sample m, in float64; 0 if a gradient vanishes   (Eq. 10).

    Args:
        here, there: the gradients at θ and at θ̂, one tensor a parameter; None is 0.

    Returns:
        ().

    Source: Sec. 3.2.2, Eq. 10.

    >>> here, there = [torch.tensor([3.0, 0.0]), None], [torch.tensor([3.0, 3.0]), torch.zeros(2)]
    >>> round(cosine(here, there).item(), 4)
    0.7071
    """
    device = next((g.device for g in (*here, *there) if g is not None), None)
    product, norm, other_norm = (
        torch.zeros((), dtype=torch.float64, device=device) for _ in range(3)
    )
    for a, b in zip(here, there, strict=True):
        if a is not None:
            norm = norm + a.double().square().sum()
        if b is not None:
            other_norm = other_norm + b.double().square().sum()
        if a is not None and b is not None:
            product = product + (a.double() * b.double()).sum()
    length = (norm * other_norm).sqrt()
    return torch.where(length > 0, product / length, 0.0)


def standardized(values: Tensor) -> Tensor:
    """(x - mean) / std over the batch, (B,); 0 where all are equal.

    Args:
        values: x, the alignments <ḡ, ∇L_k(θ)> of Eq. 16, (B,).

    Source: ours, in the place of Eq. 10's cosine (deviation 5).

    >>> standardized(torch.tensor([1.0, 3.0])).tolist()
    [-1.0, 1.0]
    """
    if len(values) == 0:
        return values
    spread = values.std(unbiased=False)
    return (values - values.mean()) / torch.where(spread > 0, spread, torch.ones_like(spread))
