"""A loss that would be silently wrong at virtual parameters is refused before training.

Nothing of the user's is changed: parameters are swapped back exactly, buffers and attributes
restored, random streams untouched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sgdl_wrap.batches.trees import has_rows, take_rows
from sgdl_wrap.checks import ATTEMPTED, check_losses
from sgdl_wrap.errors import UnsupportedModelError
from sgdl_wrap.random_streams import RandomStreams, foreign_fingerprint
from sgdl_wrap.self_guided.gradients import gradient_products, vector_jacobian
from sgdl_wrap.self_guided.lookahead import Lookahead, LossFn
from sgdl_wrap.without_trace import evaluating, swapped, undisturbed

_PIECE = 1 << 20  # elements compared at once


def check_lookahead(
    modules: Sequence[nn.Module],
    model: nn.Module,
    loss_fn: LossFn,
    lookahead: Lookahead,
    batch: Any,
    size: int,
    streams: RandomStreams,
) -> bool:
    """Compares the functional model with the model itself, both at perturbed parameters.

    The reference is the user's own module with its parameters swapped for a moment, so that
    hooks, closures and lists of modules all count. Values, gradients and the second derivative
    must agree.

    Args:
        modules: what the loss consists of: the model, and the loss itself where it is a module.

    Returns:
        Whether the loss draws from numpy's or Python's global stream.

    Raises:
        LossError: the losses themselves are not as they must be.
        UnsupportedModelError: the functional model or its second derivative would be wrong.
    """
    generator = torch.Generator().manual_seed(0)
    lookahead.follow()
    theta = lookahead.parameters
    device = theta[0].device
    virtual = [_perturbed(p, generator).requires_grad_() for p in theta]
    with undisturbed(modules), swapped(theta, virtual), streams.own(device, advance=False):
        before = foreign_fingerprint()
        with _Precisions() as precisions:
            reference = loss_fn(model, batch)
        draws_foreign = foreign_fingerprint() != before
        check_losses(reference, size, "the first batch")
        ones = torch.ones_like(reference)
        try:
            expected = vector_jacobian(reference, theta, ones, differentiable=False)
        except ATTEMPTED as error:
            raise UnsupportedModelError(
                f"Expected losses whose gradient torch.autograd.grad can take, got "
                f"{type(error).__name__}: {error}. Compile the model or its modules in place "
                "(module.compile()) rather than a forward alone, and checkpoint with "
                "use_reentrant=False."
            ) from error
        reference = reference.detach()
    with undisturbed(modules), swapped(theta, virtual), streams.own(device, advance=False):
        again = loss_fn(model, batch).detach()
    tolerance = precisions.tolerance([reference, *theta])
    if not _close(again, reference, tolerance):
        raise UnsupportedModelError(
            f"Expected loss_fn to repeat itself under the same random state, got losses that "
            f"differ by {_gap(again, reference):.2g}. Draw random numbers from torch's global "
            "state, or in the data loader."
        )
    try:
        with streams.own(device, advance=False):
            losses = lookahead.losses(virtual, batch)
    except ATTEMPTED as error:
        raise UnsupportedModelError(
            f"Expected loss_fn to run on the functional twin of {type(model).__name__}, got "
            f"{type(error).__name__}: {error}. Use plain modules and attributes in the model."
        ) from error
    if not _close(losses.detach(), reference, tolerance):
        raise UnsupportedModelError(
            f"Expected the functional twin of {type(model).__name__} to give the model's losses, "
            f"got a difference of {_gap(losses.detach(), reference):.2g}. Use the model that "
            "loss_fn is given, keep submodules in nn.ModuleList or nn.ModuleDict rather than a "
            "plain list or closure, and cache nothing that depends on parameters."
        )
    vector = torch.ones_like(losses).requires_grad_()
    direction = [_direction(p, generator) for p in virtual]
    try:
        found = vector_jacobian(losses, virtual, vector, differentiable=True)
        products = gradient_products(found, vector, direction)
    except ATTEMPTED as error:
        raise UnsupportedModelError(
            f"Expected a loss that can be differentiated twice, got {type(error).__name__}: "
            f"{error}. Replace EmbeddingBag by Embedding and a sum, run attention under "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH), and nn.GRU or nn.LSTM on a GPU under "
            "torch.backends.cudnn.flags(enabled=False). Functions under torch.compile have no "
            "second derivative: compile modules in place."
        ) from error
    finally:
        lookahead.release()
    for name, here, there in zip(lookahead.names, found, expected, strict=True):
        if not _close(here.detach(), there, tolerance):
            raise UnsupportedModelError(
                f"Expected the functional twin of {type(model).__name__} to give the model's "
                f"gradients, got a difference of {_gap(here.detach(), there):.2g} in {name!r}. "
                "Use the parameter through the model that loss_fn is given, and let loss_fn count "
                "nothing: advance an annealing step in the loop. A hook on a parameter that "
                "changes its gradient has no place at other parameters: clip or scale gradients "
                "between backward and step (weighted_loss)."
            )
    pairs = zip(found, direction, strict=True)
    zero = torch.zeros((), dtype=torch.float64, device=device)
    total = torch.stack([sum(((a * b).sum() for a, b in _pieces(g, d)), zero) for g, d in pairs])
    if not _close(products.sum(), total.sum(), tolerance, scale=total.abs().sum()):
        raise UnsupportedModelError(
            "Expected a loss that can be differentiated twice, got a second derivative that is "
            "wrong. Write custom autograd functions so that their backward is differentiable."
        )
    return draws_foreign


def is_sliceable(
    modules: Sequence[nn.Module],
    model: nn.Module,
    loss_fn: LossFn,
    batch: Any,
    size: int,
    streams: RandomStreams,
) -> bool | None:
    """Whether the losses of some rows are those of the rows alone (no in-batch negatives).

    None for a batch of one row, which cannot tell.
    """
    if size < 2:
        return None
    if not has_rows(batch, size):
        return False
    rows = torch.arange(0, size, 2)
    device = next(model.parameters()).device
    with (
        undisturbed(modules), evaluating(modules), streams.own(device, advance=False),
        _Precisions() as precisions,
    ):  # fmt: skip
        whole = loss_fn(model, batch).detach()
    with undisturbed(modules), evaluating(modules), streams.own(device, advance=False):
        try:
            part = loss_fn(model, take_rows(batch, rows)).detach()
        except ATTEMPTED:
            return False
    chosen = whole[rows.to(whole.device)]
    return part.shape == chosen.shape and _close(part, chosen, precisions.tolerance([whole]))


def _perturbed(parameter: Tensor, generator: torch.Generator) -> Tensor:
    step = 0.01 * _direction(parameter, generator)
    return parameter.detach() * (1 + step) + 0.1 * step


def _direction(parameter: Tensor, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(parameter.shape, generator=generator, dtype=torch.float32)
    return (2 * uniform - 1).to(parameter)


class _Precisions(TorchFunctionMode):
    """Notes the precisions that a loss computes in: autocast may begin and end inside it."""

    def __init__(self) -> None:
        super().__init__()
        self._types: set[torch.dtype] = set()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self._types.add(result.dtype)
        return result

    def tolerance(self, values: Sequence[Tensor]) -> float:
        """What rounding may do at the lowest precision seen, or of some tensors."""
        types = {t for t in self._types | {v.dtype for v in values} if t.is_floating_point}
        return max(1e-4, 16 * max(torch.finfo(kind).eps for kind in types))


def _close(
    found: Tensor, expected: Tensor, tolerance: float, scale: Tensor | None = None
) -> bool:
    """Equal up to rounding, measured against `scale` or else the largest value expected."""
    gap, size = _extent(found, expected)
    return gap <= tolerance * (size if scale is None else float(scale)) + 1e-12


def _gap(found: Tensor, expected: Tensor) -> float:
    gap, size = _extent(found, expected)
    return gap / max(size, 1e-30)


def _extent(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """The largest difference, and the largest value expected; NaN comes through."""
    gap, size = torch.zeros(()), torch.zeros(())
    for a, b in _pieces(found, expected):
        gap = torch.maximum(gap, (a - b).abs().max().cpu())
        size = torch.maximum(size, b.abs().max().cpu())
    return float(gap), float(size)


def _pieces(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """The same stretch of each, in float64: of a large table, no copy in double is held."""
    flat = [(t.to_dense() if t.is_sparse else t).detach().reshape(-1) for t in tensors]
    for first in range(0, len(flat[0]), _PIECE):
        yield [values[first : first + _PIECE].double() for values in flat]
