"""Which observed pairs the samples of a batch are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.errors import BatchError

PairFn = Callable[[Any], tuple[Any, ...]]

LAYOUTS = (
    "(users, items), (users, positives, negatives) with integer third, "
    "(users, items, labels) with float or bool third, or a mapping with user, item "
    "and optionally label keys"
)
_USER_KEYS = ("user", "users", "user_id", "user_ids")
_ITEM_KEYS = ("item", "items", "item_id", "item_ids", "positive", "positives", "pos_item")
_LABEL_KEYS = ("label", "labels")


@dataclass(frozen=True)
class Pairs:
    """The pairs of a batch's samples, on the CPU.

    Attributes:
        users, items: (B,) int64.
        observed: (B,) bool; False where the sample is a sampled negative.
    """

    users: Tensor
    items: Tensor
    observed: Tensor


class PairReader:
    """Reads the pairs of each batch, by the user's `pair_fn` or by the common layouts.

    Args:
        pair_fn: returns ``(users, items)`` or ``(users, items, observed)``, each (B,).

    Raises:
        BatchError: a layout that is not understood; the message names `pair_fn`.
    """

    def __init__(self, pair_fn: PairFn | None = None) -> None:
        self._pair_fn = pair_fn
        self._told_apart = False  # negatives and labels, once

    def __call__(self, batch: Any) -> Pairs:
        if self._pair_fn is not None:
            found = self._pair_fn(batch)
            if not isinstance(found, (tuple, list)) or len(found) not in (2, 3):
                raise BatchError(
                    "Expected pair_fn to return (users, items) or (users, items, observed), got "
                    f"{_describe(found)}. Return tensors of shape (B,)."
                )
            return _pairs(*found)
        columns = _columns(batch)
        if columns is None:
            raise BatchError(
                f"Expected a batch like {LAYOUTS}, got {_describe(batch)}. "
                "Pass pair_fn=..., which returns (users, items[, observed]) of a batch."
            )
        users, items, third = columns
        if third is None:
            return _pairs(users, items)
        third = _tensor(third)
        if third.dtype == torch.bool or third.dtype.is_floating_point:
            return _pairs(users, items, third > 0)
        if not self._told_apart:
            self._refuse_integer_labels(third)
        return _pairs(users, items)

    def _refuse_integer_labels(self, third: Tensor) -> None:
        binary = bool(((third == 0) | (third == 1)).all())
        if third.ndim == 1 and third.numel() > 1 and binary:
            raise BatchError(
                "Expected a third column of item ids (negatives) or of float or bool labels, got "
                "integers that are all 0 or 1. Convert labels to float, or pass pair_fn=..., "
                "which returns (users, items[, observed]) of a batch."
            )
        self._told_apart = not binary  # a single 0 or 1 tells nothing yet


def _columns(batch: Any) -> tuple[Any, Any, Any | None] | None:
    """users, items and the third column of a common layout, or None."""
    if isinstance(batch, Mapping) or (
        # RecBole's Interaction: columns by name, not a Mapping
        hasattr(batch, "columns") and hasattr(batch, "__getitem__") and not _is_array(batch)
    ):
        names = list(batch.keys()) if isinstance(batch, Mapping) else list(batch.columns)
        users = next((name for name in _USER_KEYS if name in names), None)
        items = next((name for name in _ITEM_KEYS if name in names), None)
        label = next((name for name in _LABEL_KEYS if name in names), None)
        if users is None or items is None:
            return None
        third = batch[label] if label is not None else None
        if third is not None and not _tensor(third).dtype.is_floating_point:
            third = _tensor(third).bool()  # a key named label is no list of negatives
        return batch[users], batch[items], third
    if isinstance(batch, (tuple, list)) and len(batch) in (2, 3) and all(map(_is_array, batch)):
        users, items = batch[0], batch[1]
        third = batch[2] if len(batch) == 3 else None
        shapes_fit = users.ndim == 1 and items.shape == users.shape
        integers = all(not _tensor(c).dtype.is_floating_point for c in (users, items))
        if shapes_fit and integers and (third is None or third.shape[:1] == users.shape):
            return users, items, third
    return None


def _pairs(users: Any, items: Any, observed: Any | None = None) -> Pairs:
    """Checked CPU columns; int64 ids, bool flags."""
    columns = {"users": _tensor(users), "items": _tensor(items)}
    for name, column in columns.items():
        if column.ndim != 1 or column.dtype.is_floating_point or column.dtype == torch.bool:
            raise BatchError(
                f"Expected the {name} of a batch as 1-D integers, got {column.dtype} of shape "
                f"{tuple(column.shape)}. Mend pair_fn or the batch."
            )
        columns[name] = column.detach().to(device="cpu", dtype=torch.int64)
    size = len(columns["users"])
    if observed is None:
        flags = torch.ones(size, dtype=torch.bool)
    else:
        flags = _tensor(observed).detach().cpu().bool()
    if len(columns["items"]) != size or flags.shape != (size,):
        raise BatchError(
            f"Expected users, items and labels of one length, got {size}, "
            f"{len(columns['items'])} and {tuple(flags.shape)}. Mend pair_fn or the batch."
        )
    return Pairs(columns["users"], columns["items"], flags)


def _is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _tensor(value: Any) -> Tensor:
    try:
        if isinstance(value, np.ndarray) and not value.flags.carray:
            value = value.copy()  # torch shares memory, and warns of what it may not write
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BatchError(
            f"Expected tensors or arrays as a batch's pairs, got {type(value).__name__}. "
            "Return tensors of shape (B,) from pair_fn."
        ) from error


def _describe(batch: Any) -> str:
    """The layout of a batch in words: `tuple of (int64 (8,), float32 (8, 4))`."""
    if _is_array(batch):
        return f"{batch.dtype} {tuple(batch.shape)}".replace("torch.", "")
    if isinstance(batch, Mapping):
        return f"{type(batch).__name__} with keys {sorted(map(str, batch))}"
    if isinstance(batch, (tuple, list)):
        return f"{type(batch).__name__} of ({', '.join(map(_describe, batch))})"
    return type(batch).__name__
