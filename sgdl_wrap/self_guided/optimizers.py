"""How ψ and φ step: Adam, one each, as long-lived as the denoiser (Eq. 8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def adam(module: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Adam over a small module, in one kernel a step."""
    return torch.optim.Adam(module.parameters(), lr=lr, fused=True)


def step(
    optimizer: torch.optim.Optimizer, module: nn.Module, gradients: Sequence[Tensor]
) -> None:
    """One step with gradients that are already at hand."""
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()
