"""Which observed pairs the samples of a batch are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.batches.columns import ids_of, is_column, names_of_columns, numbers_of
from sgdl_wrap.errors import BatchError

PairFn = Callable[[Any], tuple[Any, ...]]

LAYOUTS = (
    "(users, items), (users, positives, negatives) with integer third, "
    "(users, items, labels) with float or bool third, or a mapping with the keys user, item "
    "and optionally label (user_id, item_id, positive and the like are known too)"
)
_USER_KEYS = ("user", "users", "user_id", "user_ids")
_ITEM_KEYS = ("item", "items", "item_id", "item_ids", "positive", "positives", "pos_item")
_LABEL_KEYS = ("label", "labels")
_PLAIN = (torch.int64, torch.int32, torch.float32, torch.float64, torch.bool)  # as they are
_IN_ORDER = (("users", "integers"), ("items", "integers"), ("third column", "numbers"))


@dataclass(frozen=True)
class Pairs:
    """The pairs of a batch's samples, where the batch is: nothing waits for a GPU.

    Attributes:
        users, items: (B,) integers; they may share the batch's memory.
        observed: (B,) bool, False where the sample is a sampled negative; None if all are observed.
    """

    users: Tensor
    items: Tensor
    observed: Tensor | None

    def __len__(self) -> int:
        return len(self.users)

    def kept(self) -> Pairs:
        """A copy that the batch's later changes do not reach."""
        observed = None if self.observed is None else self.observed.clone()
        if self.users.dtype == self.items.dtype and self.users.device == self.items.device:
            users, items = torch.stack([self.users, self.items])  # one copy is made sooner than two
            return Pairs(users, items, observed)
        return Pairs(self.users.clone(), self.items.clone(), observed)

    @classmethod
    def joined(cls, parts: Sequence[Pairs]) -> Pairs:
        """One after the other."""
        observed = None
        if any(part.observed is not None for part in parts):
            flags = [torch.ones_like(p.users).bool() if p.observed is None else p.observed
                     for p in parts]
            observed = torch.cat(flags)
        return cls(
            torch.cat([part.users for part in parts]),
            torch.cat([part.items for part in parts]),
            observed,
        )

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """users and items, (B,) int64, and observed, (B,) bool."""
        users, items = (
            ids.to(device="cpu", dtype=torch.int64).numpy() for ids in (self.users, self.items)
        )
        if self.observed is None:
            return users, items, np.ones(len(users), dtype=bool)
        return users, items, self.observed.cpu().numpy()


class PairReader:
    """Reads the pairs of each batch, by the user's `pair_fn` or by the common layouts.

    Args:
        pair_fn: returns ``(users, items)`` or ``(users, items, observed)``, each (B,).

    Attributes:
        told_apart: whether a third column of integers has shown that it holds negatives.

    Raises:
        BatchError: a layout that is not understood; the message names `pair_fn`.
    """

    def __init__(self, pair_fn: PairFn | None = None) -> None:
        self._pair_fn = pair_fn
        self.told_apart = False

    @property
    def is_users(self) -> bool:
        """Whether the user's own function reads."""
        return self._pair_fn is not None

    def __call__(self, batch: Any) -> Pairs:
        if self._pair_fn is not None:
            found = self._pair_fn(batch)
            if not isinstance(found, (tuple, list)) or len(found) not in (2, 3):
                raise BatchError(
                    "Expected pair_fn to return (users, items) or (users, items, observed), got "
                    f"{describe(found)}. Return tensors of shape (B,)."
                )
            return _pairs(*found)
        columns = _columns(batch)
        if columns is None:
            raise BatchError(
                f"Expected a batch like {LAYOUTS}, got {describe(batch)}. "
                "Pass pair_fn=..., which returns (users, items[, observed]) of a batch."
            )
        users, items, third = columns
        if third is None:
            return _pairs(users, items)
        if third.dtype == torch.bool or third.dtype.is_floating_point:
            return _pairs(users, items, third > 0)
        if not self.told_apart:
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
        self.told_apart = not binary  # a single 0 or 1 tells nothing yet


def _columns(batch: Any) -> tuple[Any, Any, Tensor | None] | None:
    """users, items and the third column of a common layout, or None."""
    if isinstance(batch, (tuple, list)):
        if len(batch) not in (2, 3):
            return None
        columns = list(batch)
        if any(not isinstance(c, Tensor) or c.dtype not in _PLAIN for c in batch):
            if not all(map(is_column, batch)):
                return None
            columns = [
                numbers_of(column, f"the {name} of a batch", BatchError, expected=expected)
                for column, (name, expected) in zip(batch, _IN_ORDER, strict=False)
            ]
        ids, third = columns[:2], columns[2] if len(columns) == 3 else None
        size = ids[0].shape
        fitting = len(size) == 1 and ids[1].shape == size
        if not fitting or any(column.dtype.is_floating_point for column in ids):
            return None
        return (ids[0], ids[1], third) if third is None or third.shape[:1] == size else None
    if isinstance(batch, Mapping) or (
        # RecBole's Interaction, or a data frame: columns by name, not a Mapping
        hasattr(batch, "columns") and hasattr(batch, "__getitem__") and not is_column(batch)
    ):
        names = list(batch.keys()) if isinstance(batch, Mapping) else names_of_columns(batch)
        user = next((name for name in _USER_KEYS if name in names), None)
        item = next((name for name in _ITEM_KEYS if name in names), None)
        label = next((name for name in _LABEL_KEYS if name in names), None)
        if user is None or item is None:
            return None
        labels = _labels(batch[label]) if label is not None else None
        if labels is not None and not labels.dtype.is_floating_point:
            labels = labels > 0  # a key named label is no list of negatives
        return batch[user], batch[item], labels
    return None


def _pairs(users: Any, items: Any, observed: Any | None = None) -> Pairs:
    """Checked columns."""
    columns = Pairs(
        _ids(users, "users"),
        _ids(items, "items"),
        None if observed is None else _labels(observed).detach() > 0,
    )
    size = columns.users.shape
    flags = size if columns.observed is None else columns.observed.shape
    if columns.items.shape != size or flags != size:
        raise BatchError(
            f"Expected users, items and labels of one length, got {size[0]}, "
            f"{columns.items.shape[0]} and {tuple(flags)}. Mend pair_fn or the batch."
        )
    if size[0] == 0:
        raise BatchError("Expected samples in a batch, got none. Leave empty batches out.")
    return columns


def _ids(values: Any, name: str) -> Tensor:
    if isinstance(values, Tensor) and values.ndim == 1 and values.dtype == torch.int64:
        return values  # as it is, which most batches are
    if isinstance(values, (Tensor, np.ndarray)) and values.ndim == 2 and values.shape[-1] > 1:
        raise BatchError(
            f"Expected the {name} of a batch to be 1-D, got shape {tuple(values.shape)}. Return "
            "one pair for each loss, and neither of them for padding: with real = items > 0, "
            "losses[real] and items[real]."
        )
    return ids_of(values, f"the {name} of a batch", BatchError)


def _labels(values: Any) -> Tensor:
    return numbers_of(values, "the labels of a batch", BatchError)


def describe(batch: Any) -> str:
    """The layout of a batch in words: `tuple of (int64 (8,), float32 (8, 4))`."""
    if isinstance(batch, (Tensor, np.ndarray)):
        return f"{batch.dtype} {tuple(batch.shape)}".replace("torch.", "")
    if isinstance(batch, Mapping):
        return f"{type(batch).__name__} with keys {sorted(map(str, batch))}"
    if isinstance(batch, (tuple, list)):
        more = f", and {len(batch) - 8} more" if len(batch) > 8 else ""
        return f"{type(batch).__name__} of ({', '.join(map(describe, batch[:8]))}{more})"
    return type(batch).__name__
