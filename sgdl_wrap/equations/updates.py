"""How θ, ψ and φ move (Eq. 7, 8 and 9).

θ are the parameters of the model, ψ those of the weighting function, φ those of the scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def assumed_parameters(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], step: float
) -> list[Tensor]:
    """θ̂ = θ - (η1/B) Σ_k w_k ∇L_k(θ), without graph   (Eq. 7).

    Plain SGD, whatever the user's optimizer is (deviation 10).

    Args:
        parameters: θ, one tensor each.
        gradients: Σ_k w_k ∇L_k(θ), of the same shapes; sparse ones too.
        step: η1/B.

    Source: Eq. 7.

    >>> assumed_parameters([torch.tensor([1.0, 2.0])], [torch.tensor([4.0, -4.0])], 0.25)
    [tensor([0., 3.])]
    """
    with torch.no_grad():
        if any(g.is_sparse for g in gradients):  # of nn.Embedding(sparse=True)
            pairs = zip(parameters, gradients, strict=True)
            return [torch.add(p, g, alpha=-step) for p, g in pairs]
        if not gradients:
            return []
        return list(torch._foreach_add(list(parameters), list(gradients), alpha=-step))


def chain_rule(
    outputs: Tensor, parameters: Sequence[Tensor], gradient: Tensor
) -> list[Tensor]:
    """df/dψ = Σ_k (df/dg_k) dg_k/dψ, what the step of Eq. 8 takes: ψ ← ψ - η2 df/dψ.

    The same for φ, whose outputs are the logits o. The step itself is Adam's.

    Args:
        outputs: g of the samples, (B,), with a graph to the parameters.
        parameters: ψ, one tensor each; the gradient is 0 if nothing depends on it.
        gradient: df/dg, (B,).

    Source: Eq. 8.

    >>> psi = torch.tensor([2.0], requires_grad=True)
    >>> chain_rule(psi * torch.tensor([1.0, 3.0]), [psi], torch.tensor([0.5, 1.0]))
    [tensor([3.5000])]
    """
    found = torch.autograd.grad(
        outputs, list(parameters), gradient, allow_unused=True, materialize_grads=True
    )
    return list(found)


def weighted_loss(losses: Tensor, weights: Tensor) -> Tensor:
    """(1/B) Σ_k w_k L_k(θ), which the user's own optimizer takes: the actual update of Eq. 9.

    Args:
        losses: L(θ), (B,), with their graph.
        weights: w, (B,), of any precision.

    Returns:
        (), with a graph to the losses.

    Source: Eq. 9.

    >>> weighted_loss(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.0])).item()
    0.5
    """
    return (weights.to(losses.dtype) * losses).mean()
