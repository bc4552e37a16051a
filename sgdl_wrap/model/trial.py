"""A loss that would be silently wrong at virtual parameters is refused before training.

Nothing of the user's is changed: parameters are swapped back exactly, buffers and attributes
restored, random streams untouched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sgdl_wrap.errors import UnsupportedModelError
from sgdl_wrap.model.gradients import gradient_products, vector_jacobian
from sgdl_wrap.model.numbers import check_finite
from sgdl_wrap.model.plain_state import PlainState
from sgdl_wrap.model.refusals import ATTEMPTED, check_losses
from sgdl_wrap.model.streams import RandomStreams, foreign_fingerprint
from sgdl_wrap.model.trees import (
    arrays_of,
    detached_copy,
    has_rows,
    refuse_written,
    take_rows,
)
from sgdl_wrap.model.twin import Lookahead, LossFn
from sgdl_wrap.model.untouched import evaluating, swapped, undisturbed

_PIECE = 1 << 20  # elements compared at once
_STEEP = "Look for sqrt(0), log(0) and 0/0 in loss_fn."
_HOOKED = (
    "It has a hook that changes its gradient, which has no place at other parameters: clip or "
    "scale gradients between backward and step (weighted_loss)."
)
# what the name of an operation without a second derivative holds, and what to do about it
_NO_SECOND_DERIVATIVE = (
    (
        ("scaled_dot_product", "attention"),
        "Load the model with attn_implementation=\"eager\", or run attention under "
        "torch.nn.attention.sdpa_kernel(SDPBackend.MATH).",
    ),
    (("embedding_bag",), "Replace EmbeddingBag by Embedding and a sum."),
    (
        ("cudnn", "miopen"),
        "Run nn.GRU and nn.LSTM under torch.backends.cudnn.flags(enabled=False).",
    ),
    (
        ("torch.compile", "aot_autograd", "CompiledFunction"),
        "Compile modules in place (module.compile()) rather than functions.",
    ),
)


@dataclass(frozen=True)
class Trial:
    """Tries a loss on the first batch; nothing of the user's changes.

    Attributes:
        roots: what the loss consists of: the model, and the loss itself.
        modules: what training consists of.
        model, loss_fn: the user's.
        streams: which draws come from while it is tried.
    """

    roots: Sequence[Any]
    modules: Sequence[nn.Module]
    model: nn.Module
    loss_fn: LossFn
    streams: RandomStreams

    def check(self, lookahead: Lookahead, batch: Any, size: int) -> bool:
        """Compares the functional model with the model itself, both at perturbed parameters.

        The reference is the user's own module with its parameters swapped for a moment, so that
        hooks, closures and lists of modules all count. Values, gradients and the second derivative
        must agree.

        Returns:
            Whether the loss draws from numpy's or Python's global stream.

        Raises:
            LossError: the losses themselves are not as they must be.
            NonFiniteError: NaN or Inf in losses or gradients: this batch tells nothing.
            UnsupportedModelError: the functional model or its second derivative would be wrong.
        """
        generator = torch.Generator().manual_seed(0)
        lookahead.follow()
        virtual = [_perturbed(p, generator).requires_grad_() for p in lookahead.parameters]
        expected = self._expected(lookahead.parameters, virtual, batch, size)
        losses = self._on_the_twin(lookahead, virtual, batch)
        if not _close(losses.detach(), expected.losses, expected.tolerance):
            raise UnsupportedModelError(
                f"Expected the functional twin of {type(self.model).__name__} to give the model's "
                f"losses, got a difference of {_gap(losses.detach(), expected.losses):.2g}. Use "
                "the model that loss_fn is given, keep submodules in nn.ModuleList or "
                "nn.ModuleDict rather than a plain list or closure, and cache nothing that depends "
                "on parameters."
            )
        vector = torch.ones_like(losses).requires_grad_()
        direction = [_direction(p, generator) for p in virtual]
        try:
            found = vector_jacobian(losses, virtual, vector, differentiable=True)
            products = gradient_products(found, vector, direction)
        except ATTEMPTED as error:
            raise UnsupportedModelError(
                f"Expected a loss that can be differentiated twice, got {type(error).__name__}: "
                f"{error}. {_remedy_without_second_derivative(str(error))}"
            ) from error
        finally:
            lookahead.release()
        self._compare_gradients(lookahead, found, expected)
        _refuse_wrong_products(products, found, direction, expected.tolerance)
        return expected.draws_foreign

    def is_sliceable(self, batch: Any, size: int) -> bool | None:
        """Whether the losses of some rows are those of the rows alone (no in-batch negatives).

        None for a batch of one row, which cannot tell.

        Raises:
            LossError, NonFiniteError: losses of another shape, or such as tell nothing.
        """
        if size < 2:
            return None
        if not has_rows(batch, size):
            return False
        rows = torch.arange(0, size, 2)
        with (
            undisturbed(self.roots), evaluating(self.modules), self._own_draws(),
            _Precisions() as precisions,
        ):  # fmt: skip
            whole = self.loss_fn(self.model, detached_copy(batch))
            check_losses(whole, size)
            whole = whole.detach()
        with undisturbed(self.roots), evaluating(self.modules), self._own_draws():
            try:
                part = self.loss_fn(self.model, take_rows(batch, rows))
            except ATTEMPTED:
                return False
        if not isinstance(part, Tensor):
            return False
        part, chosen = part.detach(), whole[rows.to(whole.device)]
        return part.shape == chosen.shape and _close(part, chosen, precisions.tolerance([whole]))

    def _own_draws(self) -> AbstractContextManager[None]:
        return self.streams.own(next(self.model.parameters()).device, advance=False)

    def _expected(
        self, theta: Sequence[Tensor], virtual: Sequence[Tensor], batch: Any, size: int
    ) -> _Expected:
        """What the user's own model gives at other parameters, twice.

        Raises:
            LossError, NonFiniteError: as :meth:`check`.
            UnsupportedModelError: it writes to parameters, or does not repeat itself.
        """
        with undisturbed(self.roots) as kept, swapped(theta, virtual), self._own_draws():
            before, ours = foreign_fingerprint(), detached_copy(batch)
            copies = arrays_of(ours)
            with _Precisions() as precisions:
                reference = self.loss_fn(self.model, ours)
            draws_foreign = foreign_fingerprint() != before
            check_losses(reference, size)
            refuse_written(copies, batch)
            ones = torch.ones_like(reference)
            try:
                gradients = vector_jacobian(reference, theta, ones, differentiable=False)
            except ATTEMPTED as error:
                raise UnsupportedModelError(
                    f"Expected losses whose gradient torch.autograd.grad can take, got "
                    f"{type(error).__name__}: {error}. Compile the model or its modules in place "
                    "(module.compile()) rather than a forward alone, and checkpoint with "
                    "use_reentrant=False."
                ) from error
            reference = reference.detach()
        _refuse_written_parameters(kept)
        check_finite({"gradients of the model": gradients}, _STEEP)
        with undisturbed(self.roots), swapped(theta, virtual), self._own_draws():
            again = self.loss_fn(self.model, detached_copy(batch))
            check_losses(again, size)
            again = again.detach()
        tolerance = precisions.tolerance([reference, *theta])
        if not _close(again, reference, tolerance):
            raise UnsupportedModelError(
                "Expected loss_fn to repeat itself under the same random state, got losses that "
                f"differ by {_gap(again, reference):.2g}. It draws or counts in a place that "
                "cannot be put back: neither in the global streams of torch, numpy and random, nor "
                "in the attributes of the model and the loss. Draw from one of these streams, or "
                "in the data loader, and count in an attribute."
            )
        return _Expected(reference, gradients, tolerance, draws_foreign)

    def _on_the_twin(self, lookahead: Lookahead, virtual: Sequence[Tensor], batch: Any) -> Tensor:
        try:
            with undisturbed(self.roots), self._own_draws():
                return lookahead.losses(virtual, detached_copy(batch))
        except ATTEMPTED as error:
            raise UnsupportedModelError(
                f"Expected loss_fn to run on the functional twin of {type(self.model).__name__}, "
                f"got {type(error).__name__}: {error}. Use plain modules and attributes in the "
                "model."
            ) from error

    def _compare_gradients(
        self, lookahead: Lookahead, found: Sequence[Tensor], expected: _Expected
    ) -> None:
        """Refuses a twin whose gradients differ from the model's.

        Raises:
            UnsupportedModelError: names the first parameter.
        """
        pairs = zip(lookahead.names, found, expected.gradients, lookahead.parameters, strict=True)
        for name, here, there, p in pairs:
            if not _close(here.detach(), there, expected.tolerance):
                raise UnsupportedModelError(
                    f"Expected the functional twin of {type(self.model).__name__} to give the "
                    f"model's gradients, got a difference of {_gap(here.detach(), there):.2g} in "
                    f"{name!r}. "
                    + (_HOOKED if p._backward_hooks else
                       "Use the parameter through the model that loss_fn is given.")
                )


@dataclass(frozen=True)
class _Expected:
    """What the user's own model gives: losses, (B,), gradients of their sum, and how exactly."""

    losses: Tensor
    gradients: list[Tensor]
    tolerance: float
    draws_foreign: bool


def _refuse_wrong_products(
    products: Tensor, found: Sequence[Tensor], direction: Sequence[Tensor], tolerance: float
) -> None:
    """Refuses a second derivative that is not linear in the vector.

    Raises:
        UnsupportedModelError: it is not.
    """
    pairs = zip(found, direction, strict=True)
    zero = torch.zeros((), dtype=torch.float64, device=direction[0].device)
    total = torch.stack([sum(((a * b).sum() for a, b in _pieces(g, d)), zero) for g, d in pairs])
    if not _close(products.sum(), total.sum(), tolerance, scale=total.abs().sum()):
        raise UnsupportedModelError(
            "Expected a loss that can be differentiated twice, got a second derivative that is "
            "wrong. Write custom autograd functions so that their backward is differentiable."
        )


def _refuse_written_parameters(kept: PlainState) -> None:
    """Refuses a loss that writes to parameters: at every evaluation of ours it would do so again.

    Raises:
        UnsupportedModelError: it does, or to something else that cannot be put back.
    """
    written = sorted(
        name.removeprefix("parameter ")
        for name in kept.changed | kept.lost
        if name.startswith("parameter ")
    )
    if written:
        raise UnsupportedModelError(
            f"Expected loss_fn to read parameters, got {written[0]!r} written to"
            f"{f' and {len(written) - 1} more' if len(written) > 1 else ''}. Update a momentum "
            "target, or clip weights, in your loop, after the step."
        )
    if kept.lost:
        raise UnsupportedModelError(
            f"Expected loss_fn to change nothing that is too large to be put back, got "
            f"{min(kept.lost)!r} written to. Hold it as a buffer or an attribute of the model."
        )


def _remedy_without_second_derivative(message: str) -> str:
    """What to do, by the name of the operation that torch has no second derivative of."""
    for signs, remedy in _NO_SECOND_DERIVATIVE:
        if any(sign in message for sign in signs):
            return remedy
    return (
        "Replace the operation named by one that has a second derivative. Functions under "
        "torch.compile have none: compile modules in place."
    )


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
