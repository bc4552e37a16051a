"""What is refused at once: wrong kinds of arguments, models, optimizers, losses and scores.

Each message names its remedy; nothing of the user's has changed by then.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from sgdl_wrap.errors import (
    LossError,
    NonFiniteError,
    OptimizerError,
    UnsupportedModelError,
)
from sgdl_wrap.model.compiled import check_compiled
from sgdl_wrap.model.engine import bare, check_engine
from sgdl_wrap.notices import warn

_TASKS = (
    "Of several tasks, return the sum for each sample. What is no loss of a sample, hand to "
    "step(batch, penalty=...)."
)
# what a user's function may raise when it does not understand what it is given
ATTEMPTED = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError)


def check_model(model: object) -> None:
    """Refuses what can have no functional twin.

    Raises:
        UnsupportedModelError: no module, a wrapper other than DistributedDataParallel, a
            ScriptModule, a forward with `params`, a bare nn.Module, parameters that are complex
            or have no shape yet.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(
            f"Expected an nn.Module, got {type(model).__name__}. Pass the recommender itself."
        )
    check_engine(model)
    model = bare(model)
    check_compiled(model)
    if isinstance(model, nn.DataParallel):
        raise UnsupportedModelError(
            "Expected a bare model or DistributedDataParallel, got DataParallel. Pass "
            "model.module, or run one process for each GPU."
        )
    for name, module in model.named_modules():
        where = f"submodule {name!r}" if name else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedModelError(
                f"Expected eager modules, got a ScriptModule as {where}. "
                "Pass the model before torch.jit.script."
            )
        if type(module) is nn.Module:
            raise UnsupportedModelError(
                f"Expected modules with a class of their own, got a bare nn.Module as {where}. "
                "Use nn.ModuleDict, or a subclass."
            )
        if "params" in inspect.signature(type(module).forward).parameters:
            raise UnsupportedModelError(
                f"Expected no argument named 'params' in forward, got one in {where}. "
                "Rename it: the functional model takes its parameters by that name."
            )
        if type(type(module)) is not type:
            raise UnsupportedModelError(
                f"Expected ordinary classes of modules, got the metaclass "
                f"{type(type(module)).__name__} in {where}. Use a class without it; drop ABC from "
                "the bases, if it is that."
            )
        if getattr(module, "max_norm", None) is not None:
            raise UnsupportedModelError(
                f"Expected modules that only read their parameters, got max_norm in {where}, "
                "which writes to them at every evaluation. Renormalise the weights in your loop, "
                "after the optimizer's step."
            )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise UnsupportedModelError(
                f"Expected parameters with a shape, got {name!r} of a lazy module. Call the model "
                "once before the optimizer is built, so that your random state makes them."
            )
        if parameter.is_complex():
            raise UnsupportedModelError(
                f"Expected real parameters, got {parameter.dtype} in {name!r}. Keep the real and "
                "the imaginary parts, and torch.view_as_complex them in forward."
            )


def check_device(device: torch.device) -> None:
    """Refuses devices without float64, in which sums over many losses and gradients are taken.

    Raises:
        UnsupportedModelError: Apple's mps.
    """
    if device.type == "mps":
        raise UnsupportedModelError(
            "Expected a model on a device that has float64, got one on mps. "
            'Use model.to("cpu") before the optimizer is built.'
        )


def check_optimizers(modules: Sequence[nn.Module], optimizers: Sequence[object]) -> None:
    """Refuses optimizers that would leave trainable parameters behind.

    Raises:
        OptimizerError: no optimizer, one that needs a closure, parameters that none holds.

    Warns:
        DenoiserWarning: parameters of no module here.
    """
    held: set[int] = set()
    for optimizer in optimizers:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise OptimizerError(
                f"Expected a torch.optim.Optimizer, got {type(optimizer).__name__}. "
                "Pass the optimizer of your training loop, or a sequence of them."
            )
        if isinstance(optimizer, torch.optim.LBFGS) or _needs_closure(optimizer):
            raise OptimizerError(
                "Expected an optimizer that steps without a closure, got "
                f"{type(optimizer).__name__}. Use a first-order one such as Adam."
            )
        held.update(id(p) for group in optimizer.param_groups for p in group["params"])
    if not optimizers:
        raise OptimizerError("Expected an optimizer, got none. Pass that of your training loop.")
    trainable = [
        (name, p) for module in modules for name, p in module.named_parameters() if p.requires_grad
    ]
    if not trainable:
        raise OptimizerError(
            "Expected trainable parameters, got a model with none. Unfreeze what is to be learned."
        )
    missing = [name for name, p in trainable if id(p) not in held]
    if missing:
        raise OptimizerError(
            f"Expected every trainable parameter in the optimizer, got {len(missing)} outside it: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}. "
            "Add them to the optimizer, or call requires_grad_(False) on them."
        )
    known = {id(p) for module in modules for p in module.parameters()}
    if held - known:
        warn(
            f"Expected an optimizer of the model's parameters, got {len(held - known)} that belong "
            "neither to it nor to a loss that is a module. They are trained as ever, but virtual "
            "updates leave them as they are, and modules that hold them keep their training mode "
            "where pairs are scored. Put all that is trained into one module, such as "
            "nn.ModuleDict, and pass that."
        )


def _needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    parameters = list(inspect.signature(type(optimizer).step).parameters.values())[1:]
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(p.default is p.empty and p.kind not in optional for p in parameters)


def check_losses(losses: object, size: int | None) -> Tensor:
    """Refuses what per-sample losses must not be; returns their mean, with its graph.

    Args:
        losses: what `loss_fn` returned.
        size: B, or None where it is not known.

    Raises:
        LossError: no tensor, a scalar, a wrong length, no graph.
        NonFiniteError: NaN or Inf.
    """
    losses = check_shape(losses, size)
    mean = losses.mean()
    if not math.isfinite(mean.item()):  # one number tells, and waits for a GPU once
        bad = int((~torch.isfinite(losses.detach())).sum())
        if bad:  # else the sum alone was too large
            raise NonFiniteError(
                f"Expected finite losses, got {bad} NaN or Inf among {len(losses)} in this batch. "
                "Skip the batch, lower the learning rate, or look for log(0) in loss_fn."
            )
    return mean


def check_shape(losses: object, size: int | None) -> Tensor:
    """Per-sample losses, (B,), with their graph.

    Args:
        losses, size: as of :func:`check_losses`.

    Raises:
        LossError: no tensor, a scalar, a wrong length, no graph.
    """
    expected = "(B,)" if size is None else f"({size},)"
    if not isinstance(losses, Tensor):
        parts = losses.values() if isinstance(losses, Mapping) else losses
        tasks = isinstance(parts, Iterable) and any(isinstance(part, Tensor) for part in parts)
        raise LossError(
            f"Expected loss_fn to return a tensor of shape {expected}, got "
            f"{type(losses).__name__} in this batch. "
            + (_TASKS if tasks else "Return unreduced per-sample losses.")
        )
    if losses.ndim == 0:
        raise LossError(
            f"Expected per-sample losses of shape {expected}, got a scalar in this batch. "
            "Return unreduced losses (reduction='none') from loss_fn."
        )
    if losses.ndim != 1 or (size is not None and len(losses) != size):
        tasks = losses.ndim == 2 and losses.shape[1] > 1 and size in (None, len(losses))
        raise LossError(
            f"Expected per-sample losses of shape {expected}, got {tuple(losses.shape)} in "
            "this batch. " + (_TASKS if tasks else "Return one loss per sample from loss_fn.")
        )
    if not losses.dtype.is_floating_point or (torch.is_grad_enabled() and not losses.requires_grad):
        raise LossError(
            f"Expected losses with a gradient, got {losses.dtype} without one in this batch. "
            "Compute them from the model that loss_fn is given, outside torch.no_grad()."
        )
    return losses


def check_penalty(penalty: object) -> Tensor:
    """The user's regulariser as a 0-dim tensor.

    Raises:
        LossError: no scalar tensor.
        NonFiniteError: NaN or Inf.
    """
    if not isinstance(penalty, Tensor) or penalty.numel() != 1 or penalty.is_complex():
        kind = f"{penalty.dtype} of shape {tuple(penalty.shape)}"\
            if isinstance(penalty, Tensor) else type(penalty).__name__
        raise LossError(
            f"Expected penalty to be a scalar tensor, got {kind}. "
            "Sum or average it, as a real number."
        )
    if not bool(torch.isfinite(penalty.detach()).all()):
        raise NonFiniteError(
            f"Expected a finite penalty, got {penalty.item()}. "
            "Lower its coefficient or the learning rate."
        )
    return penalty.reshape(())
