"""How ψ and φ step: one Adam, as long-lived as the denoiser (Eq. 8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def adam(*modules: tuple[nn.Module, float]) -> torch.optim.Optimizer:
    """Adam over small modules, each with its learning rate, in one kernel a module and step."""
    groups = [{"params": list(module.parameters()), "lr": lr} for module, lr in modules]
    return torch.optim.Adam(groups, fused=True)


def step(optimizer: torch.optim.Optimizer, gradients: Sequence[Sequence[Tensor] | None]) -> None:
    """One step with gradients that are already at hand, a sequence a module; None moves nothing."""
    for group, found in zip(optimizer.param_groups, gradients, strict=True):
        if found is not None:
            for parameter, gradient in zip(group["params"], found, strict=True):
                parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()
