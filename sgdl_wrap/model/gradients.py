"""Gradients of per-sample losses in θ: their sums, the assumed update, their products (Eq. 7, 16).

A gradient is a list with one entry a parameter: a tensor of its shape, or the gradient in the rows
of a large table.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sgdl_wrap.equations.similarity import cosine
from sgdl_wrap.equations.updates import assumed_parameters
from sgdl_wrap.model.tables import Lookup, RowGradient, RowUpdate, known_lookups


def vector_jacobian(
    losses: Tensor, parameters: Sequence[Tensor], vector: Tensor, *, differentiable: bool
) -> list[Tensor]:
    """J^T v = Σ_k v_k ∇L_k(θ), one tensor a parameter, zeros where the loss ignores it.

    Args:
        losses: (B,), with a graph to the parameters; the graph is kept.
        vector: v, (B,).
        differentiable: keep the dependence on v, for :func:`gradient_products`.
    """
    found = torch.autograd.grad(
        losses,
        list(parameters),
        grad_outputs=vector,
        create_graph=differentiable,
        retain_graph=True,
        allow_unused=True,
    )
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]


def ascent_direction(
    losses: Tensor,
    parameters: Sequence[Tensor],
    lookups: dict[int, list[Lookup]],
    vector: Tensor,
) -> list[Tensor | RowGradient]:
    """J^T v, kept differentiable in v; in the rows looked up where a table's look-ups are known.

    Args:
        losses, vector: as of :func:`vector_jacobian`.
        lookups: of some parameters, by their place; left out where the losses depend on the
            parameter by more than these.
    """
    lookups = known_lookups(losses, parameters, lookups)
    known = [lookups.get(place, []) for place in range(len(parameters))]
    variables = [
        [look.rows for look in looks] if looks else [p]
        for p, looks in zip(parameters, known, strict=True)
    ]
    found = vector_jacobian(
        losses, [v for group in variables for v in group], vector, differentiable=True
    )
    gradients: list[Tensor | RowGradient] = []
    for group, looks in zip(variables, known, strict=True):
        mine, found = found[: len(group)], found[len(group) :]
        gradients.append(RowGradient.of(looks, mine) if looks else mine[0])
    return gradients


def assumed_update(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor | RowGradient], lr: float
) -> list[Tensor | RowUpdate]:
    """θ̂ of :func:`~sgdl_wrap.equations.updates.assumed_parameters` (Eq. 7), as leaves."""
    pairs = list(zip(parameters, gradients, strict=True))
    dense = [(p, g) for p, g in pairs if isinstance(g, Tensor)]
    moved = assumed_parameters([p for p, _ in dense], [g for _, g in dense], lr)
    leaves = iter(tensor.requires_grad_() for tensor in moved)
    return [
        next(leaves) if isinstance(g, Tensor) else RowUpdate(p.detach(), g.ids, -lr * g.total())
        for p, g in pairs
    ]


def gradient_at(loss: Tensor, virtual: Sequence[Tensor | RowUpdate]) -> list[Tensor]:
    """∇ of a scalar at θ̂, dense; of a table of moved rows in those rows alone, (m, d).

    Once for each scalar: a table then forgets what was looked up in it.
    """
    leaves = [[v] if isinstance(v, Tensor) else v.leaves() for v in virtual]
    found = torch.autograd.grad(
        loss, [leaf for group in leaves for leaf in group], allow_unused=True
    )
    gradients = []
    for value, group in zip(virtual, leaves, strict=True):
        mine, found = found[: len(group)], found[len(group) :]
        if isinstance(value, RowUpdate):
            gradients.append(value.gradient(mine))
            value.forget()
        elif mine[0] is None:
            gradients.append(torch.zeros_like(value))
        else:
            gradients.append(mine[0].to_dense() if mine[0].is_sparse else mine[0])
    return gradients


def gradient_products(
    jacobian_vector: Sequence[Tensor | RowGradient], vector: Tensor, direction: Sequence[Tensor]
) -> Tensor:
    """<d, ∇L_k(θ)> for every sample k: all B products of Eq. 16 from one graph, exactly.

    J^T v is linear in v, so differentiating <J^T v, d> by v gives J d, whatever v is; no second
    forward and no per-sample gradient is ever formed.

    Args:
        jacobian_vector: J^T v, kept differentiable in v.
        vector: the v it was taken with, (B,), requiring a gradient.
        direction: d, dense, shaped like the parameters, or like a table's rows with a gradient.

    Returns:
        (B,)
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    for part, d in zip(jacobian_vector, direction, strict=True):
        pairs += part.along(d) if isinstance(part, RowGradient) else [(part, d)]
    linked = [(a, d) for a, d in pairs if a.requires_grad]
    if not linked:
        return torch.zeros_like(vector)
    (products,) = torch.autograd.grad(
        [a for a, _ in linked], vector, grad_outputs=[d for _, d in linked], allow_unused=True
    )
    return torch.zeros_like(vector) if products is None else products


def gradient_cosines(
    losses: Tensor,
    parameters: Sequence[Tensor],
    other_losses: Tensor,
    other_parameters: Sequence[Tensor],
) -> Tensor:
    """cos(∇L_m(θ), ∇L_m(θ̂)) for every sample m, (n,); 0 where a gradient vanishes (Eq. 10).

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
        cosines.append(cosine(here, there))
    if not cosines:
        return losses.new_zeros(0)
    return torch.stack(cosines).to(losses.dtype)
