"""Per-sample losses of a RecBole model, which itself returns one number a batch.

RecBole's models let a loss module (BPRLoss, BCEWithLogitsLoss) take the mean of their samples'
losses, and add their regulariser to it. While a loss is being taken, a forward hook on that module
keeps the vector before the mean; the model, its class and the module are not changed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.loss import BPRLoss
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from sgdl_wrap.errors import LossError, OrderError, UnsupportedModelError
from sgdl_wrap.model.streams import RandomStreams
from sgdl_wrap.model.untouched import undisturbed

Columns = dict[str, Tensor]  # of a RecBole Interaction
Unreduced = Callable[..., Tensor]
_Heard = tuple[Tensor, Tensor]  # what a loss module returned, and its samples' losses

_TOLERANCE = 1e-4  # of float32 sums taken in another order


class RecBoleLosses:
    """L(θ) of a RecBole model, (B,), and the rest of what its `calculate_loss` returns.

    With L̄ the mean that the loss module returns, `calculate_loss` is L̄ + R, R the regulariser.
    An instance is the `loss_fn` of a denoiser: it takes an Interaction or its columns, calls the
    class's own `calculate_loss` on the model that it is given, θ or θ̂, and returns L.

    Args:
        model: the RecBole model.

    Attributes:
        keep_mean: whether `calculate_loss` gets L̄ from the loss module, so that its value is the
            model's own, or 0, so that its value is R.

    Raises:
        UnsupportedModelError: no loss module in the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kinds = dict(_loss_modules(model))
        self.keep_mean = True
        self._rest: Tensor | None = None
        if not self._kinds:
            raise UnsupportedModelError(
                "Expected a model whose losses are averaged by a module (RecBole's BPRLoss, or one "
                f"of torch.nn), got {_name(model)}, which reduces them inline, so that no loss of "
                "a single sample is to be seen. Choose another model, or let such a module take "
                "the mean in calculate_loss."
            )

    def __call__(self, model: nn.Module, columns: Columns) -> Tensor:
        """L(θ) of the model's parameters, (B,), with its graph."""
        with self._listening(model) as heard:
            total = _calculate_loss(model, columns)
        if model is self._model:  # and not its functional twin
            self._rest = total
        return _only(heard, model)[1]

    def take_rest(self) -> Tensor:
        """What `calculate_loss` returned when L was last taken of the model itself.

        With `keep_mean` the model's own loss L̄ + R, else R; of the model's own shape, () or (1,).
        """
        rest, self._rest = self._rest, None
        if rest is None:
            raise OrderError(
                "Expected take_rest after a loss of the model itself, got none. Take one first."
            )
        return rest

    def check(self, columns: Columns) -> None:
        """Tries a batch: L must be (B,), its mean L̄, and `calculate_loss` must be L̄ + R.

        Parameters, buffers, attributes and the user's random streams are as before.

        Raises:
            LossError, UnsupportedModelError: weights on L would not be weights of samples.
        """
        model, name = self._model, _name(self._model)
        total, heard = self._tried(columns, keep_mean=True)
        mean, losses = _only(heard, model)
        if not isinstance(total, Tensor) or total.numel() != 1:
            raise LossError(
                f"Expected calculate_loss to return one number, got {_describe(total)} from "
                f"{name}. Add its terms up."
            )
        size = len(next(iter(columns.values())))
        if losses.shape != (size,):
            raise LossError(
                f"Expected one loss for each of the {size} samples of a batch, got "
                f"{tuple(losses.shape)} from {name}. Choose another model."
            )
        average = float(losses.detach().mean())
        if not math.isclose(average, mean.item(), rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
            raise LossError(
                f"Expected the loss module to return the mean of its samples' losses, got "
                f"{mean.item():.6g} instead of {average:.6g} from {name}. "
                "Use reduction='mean', without class weights."
            )
        (share,) = torch.autograd.grad(total.sum(), mean, allow_unused=True)
        counts = 0.0 if share is None else share.item()
        rest, _ = self._tried(columns, keep_mean=False)
        gap = abs(total.item() - rest.item() - mean.item())
        if counts != 1 or gap > _TOLERANCE * max(1.0, abs(total.item())):
            raise UnsupportedModelError(
                f"Expected calculate_loss to add its other terms to the mean of the samples' "
                f"losses, got {name}, where that mean counts {counts:.4g} times and {gap:.2g} is "
                "unexplained. Return the mean plus the regulariser."
            )

    def _tried(self, columns: Columns, *, keep_mean: bool) -> tuple[Any, list[_Heard]]:
        """One loss of which nothing remains; random draws are the same each time."""
        model, streams = self._model, RandomStreams(0)
        device = next(model.parameters()).device
        with (
            undisturbed([model]), streams.own(device), torch.enable_grad(),
            self._listening(model, keep_mean=keep_mean) as heard,
        ):  # fmt: skip
            total = _calculate_loss(model, columns)
        return total, heard

    @contextmanager
    def _listening(
        self, model: nn.Module, *, keep_mean: bool | None = None
    ) -> Iterator[list[_Heard]]:
        """Gives a list that is filled with (L̄, L) of each call of a loss module inside."""
        keep_mean = self.keep_mean if keep_mean is None else keep_mean
        heard: list[_Heard] = []

        def hook_for(unreduced: Unreduced) -> Callable[..., Any]:
            def hook(_: nn.Module, args: Any, kwargs: Any, mean: Tensor) -> Tensor | None:
                heard.append((mean, unreduced(*args, **kwargs)))
                return None if keep_mean else torch.zeros_like(mean, requires_grad=False)

            return hook

        handles = [
            model.get_submodule(name).register_forward_hook(hook_for(unreduced), with_kwargs=True)
            for name, unreduced in self._kinds.items()
        ]
        try:
            yield heard
        finally:
            for handle in handles:
                handle.remove()


def _calculate_loss(model: Any, batch: Any) -> Any:
    interaction = batch if isinstance(batch, Interaction) else Interaction(batch)
    return type(model).calculate_loss(model, interaction)


def _loss_modules(model: nn.Module) -> Iterator[tuple[str, Unreduced]]:
    """The modules that take a mean of samples' losses, and the function before the mean."""
    for name, module in model.named_modules():
        if isinstance(module, BPRLoss):
            yield name, _bpr(module.gamma)
        elif isinstance(module, _Loss) and module.reduction == "mean":
            silent = copy.copy(module)
            silent.reduction = "none"
            yield name, silent.forward


def _bpr(gamma: float) -> Unreduced:
    """-log(γ + σ(s⁺ - s⁻)), as recbole.model.loss.BPRLoss before its mean."""

    def losses(pos_score: Tensor, neg_score: Tensor) -> Tensor:
        return -torch.log(gamma + torch.sigmoid(pos_score - neg_score))

    return losses


def _only(heard: list[_Heard], model: nn.Module) -> _Heard:
    if len(heard) != 1:
        raise UnsupportedModelError(
            f"Expected calculate_loss to call one loss module once, got {len(heard)} calls from "
            f"{_name(model)}. Choose a model with one loss a sample."
        )
    return heard[0]


def _name(model: nn.Module) -> str:
    return type(model).__name__


def _describe(value: object) -> str:
    if isinstance(value, tuple):
        return f"{len(value)} terms"
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
