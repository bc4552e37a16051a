"""What would be silently wrong is refused before training: once at construction, once per loss.

Each check names its remedy. Nothing of the user's is changed: parameters are swapped back
exactly, buffers and attributes restored, random streams untouched.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sgdl_wrap.batches.trees import has_rows, take_rows
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.errors import (
    DenoiserError,
    LossError,
    NoiseRateError,
    OptimizerError,
    ScoreError,
    UnsupportedModelError,
)
from sgdl_wrap.memorization.ranking import checked_scores
from sgdl_wrap.random_streams import RandomStreams, foreign_fingerprint
from sgdl_wrap.self_guided.lookahead import (
    Lookahead,
    LossFn,
    gradient_products,
    vector_jacobian,
)

_ATTEMPTED = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError)


# ------------------------------------------------------------------ the model and the optimizer


def check_model(model: object) -> None:
    """Refuses what can have no functional twin.

    Raises:
        UnsupportedModelError: no module, a wrapper, a ScriptModule, a forward with `params`.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(
            f"Expected an nn.Module, got {type(model).__name__}. Pass the recommender itself."
        )
    if hasattr(model, "_orig_mod"):
        raise UnsupportedModelError(
            "Expected an uncompiled model, got the wrapper of torch.compile, whose graphs have no "
            "second derivative. Pass the model that you compiled (model._orig_mod)."
        )
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    if isinstance(model, wrappers):
        raise UnsupportedModelError(
            f"Expected a bare model, got {type(model).__name__}. Pass model.module."
        )
    for name, module in model.named_modules():
        where = f"submodule {name!r}" if name else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedModelError(
                f"Expected eager modules, got a ScriptModule as {where}. "
                "Pass the model before torch.jit.script."
            )
        if getattr(module, "_compiled_call_impl", None) is not None:
            raise UnsupportedModelError(
                f"Expected an uncompiled model, got module.compile() on {where}: its functional "
                "twin would call the original. Set module._compiled_call_impl = None."
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


def check_optimizers(modules: Sequence[nn.Module], optimizers: Sequence[object]) -> None:
    """Refuses optimizers that would leave trainable parameters behind.

    Raises:
        OptimizerError: no optimizer, one that needs a closure, parameters that none holds.
    """
    held: set[int] = set()
    for optimizer in optimizers:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise OptimizerError(
                f"Expected a torch.optim.Optimizer, got {type(optimizer).__name__}. "
                "Pass the optimizer of your training loop, or a sequence of them."
            )
        if isinstance(optimizer, torch.optim.LBFGS):
            raise OptimizerError(
                "Expected an optimizer that steps without a closure, got LBFGS. "
                "Use a first-order one such as Adam."
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


def check_scores(score: Callable[[Tensor, Tensor], Tensor], users: Tensor, items: Tensor) -> None:
    """Tries `score_fn` on a few observed pairs.

    Raises:
        ScoreError: it fails, or returns something else than one finite score a pair.
    """
    try:
        scores = score(users, items)
    except _ATTEMPTED as error:
        raise ScoreError(
            f"Expected scores of {len(users)} pairs, got {type(error).__name__}: {error}. "
            "Pass score_fn(model, users, items), which returns one score per pair."
        ) from error
    checked_scores(scores, len(users))


def check_kinds(loss_fn: object, score_fn: object, pair_fn: object, config: object) -> None:
    """Refuses arguments of the wrong kind.

    Raises:
        DenoiserError: functions that cannot be called, a config of another type.
    """
    for name, function in (("loss_fn", loss_fn), ("score_fn", score_fn), ("pair_fn", pair_fn)):
        if not callable(function) and (function is not None or name == "loss_fn"):
            raise DenoiserError(
                f"Expected {name} to be a function, got {type(function).__name__}. "
                "Pass what can be called."
            )
    if not isinstance(config, DenoiserConfig):
        raise DenoiserError(
            f"Expected a DenoiserConfig, got {type(config).__name__}. "
            "Pass config=DenoiserConfig(...)."
        )


def check_evidence(counts: Tensor, config: DenoiserConfig) -> None:
    """Refuses data from which no noise rate can ever be estimated.

    Args:
        counts: interactions of each user.

    Raises:
        NoiseRateError: per-user scaling of losses where every user has a single interaction.
    """
    if config.noise_rate is None and config.loss_normalization == "user" and counts.max() < 2:
        raise NoiseRateError(
            "Expected users with two or more interactions, got one each: per-user scaling maps "
            "every loss to 0. Set loss_normalization='global' in the config, or noise_rate."
        )


# ------------------------------------------------------------------ the loss


def check_penalty(penalty: object) -> Tensor:
    """The user's regulariser as a 0-dim tensor.

    Raises:
        LossError: no scalar tensor, or not finite.
    """
    if not isinstance(penalty, Tensor) or penalty.numel() != 1:
        raise LossError(
            f"Expected penalty to be a scalar tensor, got {type(penalty).__name__}. "
            "Sum or average it."
        )
    if not bool(torch.isfinite(penalty.detach()).all()):
        raise LossError(
            f"Expected a finite penalty, got {penalty.item()}. "
            "Lower its coefficient or the learning rate."
        )
    return penalty.reshape(())


def check_losses(losses: object, size: int | None, where: str) -> Tensor:
    """Per-sample losses as they must be; returns their detached CPU copy.

    Args:
        losses: what `loss_fn` returned.
        size: B, or None where it is not known.
        where: names the batch in messages.

    Raises:
        LossError: no tensor, a scalar, a wrong length, no graph, NaN or Inf.
    """
    expected = "(B,)" if size is None else f"({size},)"
    if not isinstance(losses, Tensor):
        raise LossError(
            f"Expected loss_fn to return a tensor of shape {expected}, got "
            f"{type(losses).__name__} in {where}. Return unreduced per-sample losses."
        )
    if losses.ndim == 0:
        raise LossError(
            f"Expected per-sample losses of shape {expected}, got a scalar in {where}. "
            "Return unreduced losses (reduction='none') from loss_fn."
        )
    if losses.ndim != 1 or (size is not None and len(losses) != size):
        raise LossError(
            f"Expected per-sample losses of shape {expected}, got {tuple(losses.shape)} in "
            f"{where}. Return one loss per sample from loss_fn."
        )
    if not losses.dtype.is_floating_point or (torch.is_grad_enabled() and not losses.requires_grad):
        raise LossError(
            f"Expected losses with a gradient, got {losses.dtype} without one in {where}. "
            "Compute them from the model that loss_fn is given, outside torch.no_grad()."
        )
    values = losses.detach().cpu()
    extremes = torch.aminmax(values) if len(values) else ()  # NaN goes through to both
    if not all(math.isfinite(value.item()) for value in extremes):
        bad = int((~torch.isfinite(values)).sum())
        raise LossError(
            f"Expected finite losses, got {bad} NaN or Inf among {len(values)} in {where}. "
            "Skip the batch, lower the learning rate, or look for log(0) in loss_fn."
        )
    return values


@dataclass(frozen=True)
class LossFindings:
    """What the preflight learned of a loss.

    Attributes:
        sliceable: rows of a batch can be taken without changing their losses; None where the
            batch has too few to tell.
        draws_foreign: the loss draws from numpy's or Python's global stream.
    """

    sliceable: bool | None
    draws_foreign: bool


def check_lookahead(
    modules: Sequence[nn.Module],
    model: nn.Module,
    loss_fn: LossFn,
    lookahead: Lookahead,
    batch: Any,
    size: int,
    streams: RandomStreams,
) -> LossFindings:
    """Compares the functional model with the model itself, both at perturbed parameters.

    The reference is the user's own module with its parameters swapped for a moment, so that
    hooks, closures and lists of modules all count. Values, gradients and the second derivative
    must agree.

    Args:
        modules: what the loss consists of: the model, and the loss itself where it is a module.

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
        reference = loss_fn(model, batch)
        draws_foreign = foreign_fingerprint() != before
        check_losses(reference, size, "the first batch")
        ones = torch.ones_like(reference)
        expected = vector_jacobian(reference, theta, ones, differentiable=False)
        reference = reference.detach()
    with undisturbed(modules), swapped(theta, virtual), streams.own(device, advance=False):
        again = loss_fn(model, batch).detach()
    tolerance = _tolerance([reference, *theta])
    if not _close(again, reference, tolerance):
        raise UnsupportedModelError(
            f"Expected loss_fn to repeat itself under the same random state, got losses that "
            f"differ by {_gap(again, reference):.2g}. Draw random numbers from torch's global "
            "state, or in the data loader."
        )
    try:
        with streams.own(device, advance=False):
            losses = lookahead.losses(virtual, batch)
    except _ATTEMPTED as error:
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
    except _ATTEMPTED as error:
        raise UnsupportedModelError(
            f"Expected a loss that can be differentiated twice, got {type(error).__name__}: "
            f"{error}. Replace EmbeddingBag by Embedding and a sum, and run attention under "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)."
        ) from error
    finally:
        lookahead.release()
    for name, here, there in zip(lookahead.names, found, expected, strict=True):
        if not _close(here.detach(), there, tolerance):
            raise UnsupportedModelError(
                f"Expected the functional twin of {type(model).__name__} to give the model's "
                f"gradients, got a difference of {_gap(here.detach(), there):.2g} in {name!r}. "
                "Use the parameter through the model that loss_fn is given."
            )
    pairs = zip(found, direction, strict=True)
    total = torch.stack([(_dense(g.detach()) * d).sum() for g, d in pairs])
    if not _close(products.sum(), total.sum(), tolerance, scale=total.abs().sum()):
        raise UnsupportedModelError(
            "Expected a loss that can be differentiated twice, got a second derivative that is "
            "wrong. Write custom autograd functions so that their backward is differentiable."
        )
    return LossFindings(
        is_sliceable(modules, model, loss_fn, batch, size, streams), draws_foreign
    )


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
    with undisturbed(modules), evaluating(modules), streams.own(device, advance=False):
        whole = loss_fn(model, batch).detach()
    with undisturbed(modules), evaluating(modules), streams.own(device, advance=False):
        try:
            part = loss_fn(model, take_rows(batch, rows)).detach()
        except _ATTEMPTED:
            return False
    chosen = whole[rows.to(whole.device)]
    return part.shape == chosen.shape and _close(part, chosen, _tolerance([whole]))


# ------------------------------------------------------------------ leaving no trace


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Every submodule in evaluation mode inside, each as it was after.

    Flags are set one by one: a user's own `train()` or `eval()` may do more than that.
    """
    flags = [(module, module.training) for root in modules for module in root.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def undisturbed(modules: Sequence[nn.Module], *, buffers: bool = True) -> Iterator[None]:
    """Buffers and plain attributes of modules are as before after a run in between.

    Args:
        buffers: False where nothing writes to them, as in evaluation mode.
    """
    kept = []
    for module in (module for root in modules for module in root.modules()):
        copies = {
            name: (buffer, buffer.detach().clone())
            for name, buffer in module._buffers.items()
            if buffers and buffer is not None and buffer.layout == torch.strided
        }
        kept.append((module, dict(vars(module)), dict(module._buffers), copies))
    try:
        yield
    finally:
        for module, attributes, all_buffers, copies in kept:
            for name in set(vars(module)) - set(attributes):
                del module.__dict__[name]
            module.__dict__.update(attributes)
            module._buffers.update(all_buffers)
            with torch.no_grad():
                for buffer, copy in copies.values():
                    buffer.copy_(copy)


@contextmanager
def swapped(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """The parameters hold other values inside, and the very same storage after."""
    originals = [p.data for p in parameters]
    try:
        for p, value in zip(parameters, values, strict=True):
            p.data = value.detach()
        yield
    finally:
        for p, original in zip(parameters, originals, strict=True):
            p.data = original


def _perturbed(parameter: Tensor, generator: torch.Generator) -> Tensor:
    step = 0.01 * _direction(parameter, generator)
    return parameter.detach() * (1 + step) + 0.1 * step


def _direction(parameter: Tensor, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(parameter.shape, generator=generator, dtype=torch.float32)
    return (2 * uniform - 1).to(parameter)


def _tolerance(values: Sequence[Tensor]) -> float:
    """What rounding may do at the lowest precision in use, autocast included."""
    types = {v.dtype for v in values if v.dtype.is_floating_point}
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            types.add(torch.get_autocast_dtype(device))
    return max(1e-4, 16 * max(torch.finfo(kind).eps for kind in types))


def _close(
    found: Tensor, expected: Tensor, tolerance: float, scale: Tensor | None = None
) -> bool:
    """Equal up to rounding, measured against `scale` or else the largest value expected."""
    found, expected = _dense(found), _dense(expected)
    if not expected.numel():
        return True
    size = expected.abs().max() if scale is None else scale.double()
    return bool((found - expected).abs().max() <= tolerance * size + 1e-12)


def _gap(found: Tensor, expected: Tensor) -> float:
    found, expected = _dense(found), _dense(expected)
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def _dense(values: Tensor) -> Tensor:
    """float64, and dense where nn.Embedding(sparse=True) gave a sparse gradient."""
    return (values.to_dense() if values.is_sparse else values).double()
