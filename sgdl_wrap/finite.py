"""NaN and Inf, found with one number for many tensors, and named before they spread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sgdl_wrap.errors import NonFiniteError


def total(tensors: Iterable[Tensor | None]) -> Tensor | None:
    """The sum of all elements, 0-dim on the first tensor's device: NaN or Inf where one is.

    Of large finite values it may be Inf too. Reads each tensor once and waits for no device.
    Sparse tensors count by their values.
    """
    found: list[Tensor] = []
    for tensor in tensors:
        if tensor is None:
            continue
        values = tensor.detach()
        if values.layout != torch.strided:
            values = values.coalesce().values()
        if values.numel():
            here = values.sum(dtype=torch.promote_types(values.dtype, torch.float32)).float()
            found.append(here if not found else here.to(found[0].device))
    return torch.stack(found).sum() if found else None


def check_finite(parts: Mapping[str, Iterable[Tensor | None]], where: str, remedy: str) -> None:
    """Refuses NaN and Inf in any of some tensors, at the cost of waiting for a device once.

    Args:
        parts: tensors by the name that a message gives them, causes before what they cause.
        where: names the batch in messages.
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
                f"Expected finite {name}, got {bad} NaN or Inf among {size} in {where}. {remedy}"
            )


def _count(tensor: Tensor) -> int:
    values = tensor.detach()
    values = values if values.layout == torch.strided else values.coalesce().values()
    return int((~torch.isfinite(values)).sum())
