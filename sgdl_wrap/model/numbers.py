"""NaN and Inf, found with one number for many tensors, and named before they spread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from sgdl_wrap.errors import NonFiniteError


@torch.no_grad()
def total(tensors: Iterable[Tensor | None]) -> Tensor | None:
    """The sum of all elements, 0-dim on the first tensor's device: NaN or Inf where one is.

    Of large finite values it may be Inf too. Reads each tensor once and waits for no device.
    Sparse tensors count by their values.
    """
    found: list[Tensor] = []
    for tensor in tensors:
        if tensor is None:
            continue
        values = tensor if tensor.layout == torch.strided else tensor.detach().coalesce().values()
        # half precision soon overflows; for the rest this runs at every step, and does no more
        if values.numel():
            half = values.itemsize < 4
            found.append(values.sum(dtype=torch.float32) if half else values.sum())
    if not found:
        return None
    first = found[0]
    if any(one.dtype != first.dtype or one.device != first.device for one in found[1:]):
        found = [one.to(first.device).float() for one in found]
    return torch.stack(found).sum()


def check_finite(parts: Mapping[str, Iterable[Tensor | None]], remedy: str) -> None:
    """Refuses NaN and Inf in any of some tensors, at the cost of waiting for a device once.

    Args:
        parts: tensors by the name that a message gives them, causes before what they cause.
        remedy: what the message says to try.

    Raises:
        NonFiniteError: names the first part that holds NaN or Inf, and how many.
    """
    listed = {name: [t for t in tensors if t is not None] for name, tensors in parts.items()}
    everything = total(tensor for tensors in listed.values() for tensor in tensors)
    if everything is None or math.isfinite(everything.item()):
        return
    for name, tensors in listed.items():
        bad = sum(_count(tensor) for tensor in tensors)
        if bad:
            size = sum(tensor.numel() for tensor in tensors)
            raise NonFiniteError(
                f"Expected finite {name}, got {bad} NaN or Inf among {size} in this batch. {remedy}"
            )


def check_gradients(
    optimizers: Sequence[Optimizer],
    remedy: str,
    causes: Mapping[str, Iterable[Tensor | None]] | None = None,
) -> None:
    """Refuses NaN and Inf in the gradients that optimizers would take, and drops them then.

    Args:
        remedy: as of :func:`check_finite`.
        causes: what is looked at with them, and named first.

    Raises:
        NonFiniteError: as :func:`check_finite`; the optimizers hold no gradients after.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    gradients = [p.grad for group in groups for p in group["params"]]
    try:
        check_finite({**(causes or {}), "gradients of the model": gradients}, remedy)
    except NonFiniteError:
        for optimizer in optimizers:
            optimizer.zero_grad()
        raise


def _count(tensor: Tensor) -> int:
    values = tensor.detach()
    values = values if values.layout == torch.strided else values.coalesce().values()
    return int((~torch.isfinite(values)).sum())
