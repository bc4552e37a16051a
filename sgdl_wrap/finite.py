"""NaN and Inf, found with one number for many tensors, and named before they spread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sgdl_wrap.errors import NonFiniteError


def largest(tensors: Iterable[Tensor | None]) -> Tensor | None:
    """max |x| over all elements, 0-dim on the first tensor's device; NaN where one is NaN.

    Reads each tensor once and waits for no device. Sparse tensors count by their values.
    """
    found: list[Tensor] = []
    for tensor in tensors:
        if tensor is None:
            continue
        values = tensor.detach()
        if values.layout != torch.strided:
            values = values.coalesce().values()
        if values.numel():
            largest_here = torch.linalg.vector_norm(values, math.inf).float()
            found.append(largest_here if not found else largest_here.to(found[0].device))
    return torch.stack(found).amax() if found else None


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
    most = largest(tensor for tensors in listed.values() for tensor in tensors)
    if most is None or math.isfinite(most.item()):
        return
    for name, tensors in listed.items():
        bad = sum(_count(tensor) for tensor in tensors)
        if bad:
            total = sum(tensor.numel() for tensor in tensors)
            raise NonFiniteError(
                f"Expected finite {name}, got {bad} NaN or Inf among {total} in {where}. {remedy}"
            )


def _count(tensor: Tensor) -> int:
    values = tensor.detach()
    values = values if values.layout == torch.strided else values.coalesce().values()
    return int((~torch.isfinite(values)).sum())
