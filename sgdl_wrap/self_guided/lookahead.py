"""Losses at virtual parameters, and the products of per-sample gradients that guide (Eq. 7, 16).

The only importer of `higher`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # an invalid escape in higher's source
    import higher

LossFn = Callable[[nn.Module, Any], Tensor]
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
_ALWAYS_COPIED = 65_536  # elements
# what a patched module must not take from the original at each use
_OWN_ATTRIBUTES = {"_parameters", "_buffers", "_modules", *_HOOKS}


class _LossModule(nn.Module):
    """`loss_fn(model, batch)` as one forward, so that every way into the model is functional.

    A loss that calls submodules by hand, or a method other than forward, would silently read the
    original parameters on a functional model that is called any other way.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        super().__init__()
        self.model = model
        self.loss_fn = loss_fn

    def forward(self, batch: Any) -> Tensor:
        return self.loss_fn(self.model, batch)


class Lookahead:
    """`loss_fn` at other parameters than the model's own, through `higher`'s functional model.

    The functional model is built once and reused: its parameters are replaced at each use, its
    buffers, flags and plain attributes follow the original's, and the original's buffers never
    change by what happens here.

    Args:
        model: the user's model.
        loss_fn: per-sample losses, ``loss_fn(model, batch) -> (B,)``.

    Attributes:
        names: of the trainable parameters θ, each once however often it is shared.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        wrapped = _LossModule(model, loss_fn)
        # the flags of a fresh wrapper are not the user's to have changed
        wrapped.training = model.training
        self._model = model
        self._functional: Any = higher.monkeypatch(
            wrapped, copy_initial_weights=False, track_higher_grads=True
        )
        self._functional.track_higher_grads = False  # with it, every use would be kept
        self._all = list(wrapped.parameters())
        self._trainable = [i for i, p in enumerate(self._all) if p.requires_grad]
        self.names = [
            name.removeprefix("model.")
            for name, p in wrapped.named_parameters()
            if p.requires_grad
        ]
        self._twins = list(_twins(model, self._functional.model))
        self._buffer_versions: dict[tuple[int, str], tuple[int, int, int]] = {}
        self.release()

    @property
    def parameters(self) -> list[Tensor]:
        """θ: the model's trainable parameters."""
        return [self._all[i] for i in self._trainable]

    def losses(self, virtual: Sequence[Tensor], batch: Any) -> Tensor:
        """L(θ̂): per-sample losses, (B,), with a graph to the virtual parameters.

        Args:
            virtual: one tensor for each of :attr:`parameters`.
            batch: what the user's loader gives.
        """
        parameters: list[Tensor] = [p.detach() for p in self._all]
        for place, tensor in zip(self._trainable, virtual, strict=True):
            parameters[place] = tensor
        self._follow_original()
        self._functional.update_params(parameters)
        losses: Tensor = self._functional(batch)
        return losses

    def release(self) -> None:
        """Lets go of the last virtual parameters and their graph."""
        self._functional.update_params([p.detach() for p in self._all])

    def _follow_original(self) -> None:
        for number, (original, twin) in enumerate(self._twins):
            for name, value in vars(original).items():
                if name not in _OWN_ATTRIBUTES and twin.__dict__.get(name) is not value:
                    twin.__dict__[name] = value
            for hooks in _HOOKS:
                twin.__dict__[hooks] = original.__dict__[hooks]
            for name, buffer in original._buffers.items():
                self._follow_buffer((number, name), buffer, twin)

    def _follow_buffer(self, key: tuple[int, str], buffer: Tensor | None, twin: nn.Module) -> None:
        name = key[1]
        if buffer is None or buffer.layout != torch.strided:
            twin._buffers[name] = buffer  # a sparse matrix is shared, not copied
            return
        copy = twin._buffers.get(name)
        seen = (id(buffer), buffer._version, -1 if copy is None else copy._version)
        # batch_norm writes its running statistics without counting a version: small buffers are
        # copied always, large ones when their version tells of a change
        if buffer.numel() > _ALWAYS_COPIED and self._buffer_versions.get(key) == seen:
            return
        if copy is None or copy.shape != buffer.shape or copy.dtype != buffer.dtype:
            copy = buffer.detach().clone()
            twin._buffers[name] = copy
        else:
            with torch.no_grad():
                copy.copy_(buffer)
        self._buffer_versions[key] = (id(buffer), buffer._version, copy._version)


def _twins(original: nn.Module, twin: nn.Module) -> Any:
    """Each submodule beside its functional counterpart; a shared one as often as it is used."""
    yield original, twin
    for name, child in original._modules.items():
        if child is not None:
            yield from _twins(child, twin._modules[name])  # type: ignore[arg-type]


def vector_jacobian(
    losses: Tensor, parameters: Sequence[Tensor], vector: Tensor, *, differentiable: bool
) -> list[Tensor]:
    """J^T v = Σ_k v_k ∇L_k(θ), one tensor a parameter (zeros where the loss ignores it).

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


def gradient_products(
    jacobian_vector: Sequence[Tensor], vector: Tensor, direction: Sequence[Tensor]
) -> Tensor:
    """<d, ∇L_k(θ)> for every sample k: all B products of Eq. 16 from one graph, exactly.

    J^T v is linear in v, so differentiating <J^T v, d> by v gives J d, whatever v is; no second
    forward and no per-sample gradient is ever formed.

    Args:
        jacobian_vector: J^T v from :func:`vector_jacobian` with `differentiable=True`.
        vector: the v it was taken with, (B,), requiring a gradient.
        direction: d, shaped like the parameters.

    Returns:
        (B,)
    """
    pairs = zip(jacobian_vector, direction, strict=True)
    terms = [(a * d).sum() for a, d in pairs if a.requires_grad]
    if not terms:
        return torch.zeros_like(vector)
    (products,) = torch.autograd.grad(torch.stack(terms).sum(), vector, allow_unused=True)
    return torch.zeros_like(vector) if products is None else products


def assumed_update(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], lr: float
) -> list[Tensor]:
    """θ̂ = θ - η1 g, plain SGD whatever the user's optimizer is (Eq. 7); leaves with gradient."""
    with torch.no_grad():
        moved = [torch.sub(p, g, alpha=lr) for p, g in zip(parameters, gradients, strict=True)]
    return [tensor.requires_grad_() for tensor in moved]
