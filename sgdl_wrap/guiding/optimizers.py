"""How ψ and φ step: one Adam, as long-lived as the denoiser (Eq. 8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def moment(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """What puts parameters and the optimizer's own state back to what they are now."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    known = set(optimizer.state)
    kept = [value for state in optimizer.state.values() for value in state.values()]
    copies = [(t, t.detach().clone()) for t in (*parameters, *kept) if isinstance(t, Tensor)]

    def put_back() -> None:
        with torch.no_grad():
            for tensor, copy in copies:
                tensor.copy_(copy)
        for p in parameters:
            p.grad = None
            if p not in known:
                optimizer.state.pop(p, None)

    return put_back
