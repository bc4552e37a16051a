"""Embedding tables of many rows: watched, moved and differentiated by the rows a batch touches.

θ̂ differs from θ only in rows that the batch has looked up. A table that is used in no other way
than by `torch.nn.functional.embedding` is therefore never copied: its look-ups are noted in the
training forward, and those of the guidance forward add what the assumed update has changed. A
table that is also used whole, as tied weights are, is copied whole like any other parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

LARGE = 1 << 19  # elements; a smaller table is copied in less time than watching it takes

# what may be asked of a table without using its values
_HARMLESS: set[Any] = {
    Tensor.size, Tensor.dim, Tensor.numel, Tensor.stride, Tensor.is_contiguous,
    *(
        getattr(Tensor, name).__get__
        for name in ("shape", "device", "dtype", "layout", "ndim", "requires_grad", "is_sparse",
                     "is_cuda", "is_leaf")
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Lookup:
    """One look-up of a table in the training forward.

    Attributes:
        ids: (n,) int64, the rows taken, in the order of `rows`.
        rows: what the look-up gave, n rows of d in any shape, with its graph.
        counts: which of them pass a gradient on, (n, 1) bool; None for all. A padding row does not.
    """

    ids: Tensor
    rows: Tensor
    counts: Tensor | None


class LookupWatch(TorchFunctionMode):
    """Notes how large tables are used by what runs inside.

    Args:
        tables: parameters by their numbers.
    """

    def __init__(self, tables: dict[int, Tensor]) -> None:
        super().__init__()
        self._tables = tables
        self._numbers = {id(table): number for number, table in tables.items()}
        self._lookups: dict[int, list[Lookup]] = {number: [] for number in tables}
        self._whole: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        found: Any = func(*args, **kwargs)
        if func in _HARMLESS:
            return found
        used = {self._numbers[id(v)] for v in _values(args, kwargs) if id(v) in self._numbers}
        if not used or not torch.is_grad_enabled():
            return found
        look = _LookupCall.of(func, args, kwargs)
        if look is None or len(used) > 1 or look.by_frequency:
            self._whole |= used
            return found
        (number,) = used
        ids = look.ids.detach().reshape(-1).long()
        counts = None if look.padding is None else (ids != look.padding)[:, None]
        self._lookups[number].append(Lookup(ids, found, counts))
        return found

    def lookups(self) -> dict[int, list[Lookup]]:
        """The look-ups of each table that was used by look-ups alone."""
        return {
            number: lookups
            for number, lookups in self._lookups.items()
            # rows changed in place are no longer the table's
            if number not in self._whole and all(look.rows._version == 0 for look in lookups)
        }


@dataclass(frozen=True)
class RowGradient:
    """Σ_k v_k ∇L_k in one table, by its look-ups.

    Attributes:
        lookups: those of the table.
        gradients: in the rows of each look-up, shaped like them, with their graph to v.
        ids: the rows that have a gradient, (m,) int64, sorted, each once.
        places: where in `ids` each look-up's rows are, (n,) int64 each.
    """

    lookups: list[Lookup]
    gradients: list[Tensor]
    ids: Tensor
    places: list[Tensor]

    @classmethod
    def of(cls, lookups: list[Lookup], gradients: list[Tensor]) -> RowGradient:
        """Of at least one look-up."""
        ids, places = torch.unique(torch.cat([look.ids for look in lookups]), return_inverse=True)
        sizes = [len(look.ids) for look in lookups]
        return cls(lookups, gradients, ids, list(places.split(sizes)))

    def total(self) -> Tensor:
        """The gradient of each row of `ids`, (m, d), without graph."""
        width = self.gradients[0].shape[-1]
        total = self.gradients[0].new_zeros(len(self.ids), width)
        parts = zip(self.lookups, self.gradients, self.places, strict=True)
        for look, gradient, places in parts:
            flat = gradient.detach().reshape(-1, width)
            total.index_add_(0, places, flat if look.counts is None else flat * look.counts)
        return total

    def along(self, direction: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        """Each look-up's gradient beside the direction in its rows.

        Args:
            direction: in the rows of `ids`, (m, d).
        """
        parts = zip(self.lookups, self.gradients, self.places, strict=True)
        for look, gradient, places in parts:
            rows = direction[places]
            rows = rows if look.counts is None else rows * look.counts
            yield gradient, rows.reshape(gradient.shape)


@dataclass
class RowUpdate:
    """A table at θ̂: the table at θ, and what is added to some of its rows.

    Attributes:
        table: θ, (n, d); never written to.
        ids: the rows moved, (m,) int64, sorted.
        change: what is added to them, (m, d).
    """

    table: Tensor
    ids: Tensor
    change: Tensor
    _seen: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list, repr=False)
    _whole: Tensor | None = field(default=None, repr=False)

    def rows(self, look: _LookupCall) -> Tensor:
        """The rows asked for, at θ̂, as leaves of a graph."""
        with torch.no_grad():
            given = look.call(self.table)
            flat = look.ids.reshape(-1).long()
            places = torch.searchsorted(self.ids, flat).clamp_(max=len(self.ids) - 1)
            moved = self.ids[places] == flat
            # a padding row passes no gradient, and so was not moved
            passing = moved if look.padding is None else moved & (flat != look.padding)
            change = self.change[places] * moved[:, None]
            rows: Tensor = given + change.reshape(given.shape)
        if torch.is_grad_enabled():
            rows.requires_grad_()
            self._seen.append((rows, places, passing[:, None]))
        return rows

    def whole(self) -> Tensor:
        """All of the table at θ̂, a leaf, for what does not look rows up."""
        if self._whole is None:
            self._whole = self.table.detach().index_add(0, self.ids, self.change).requires_grad_()
        return self._whole

    def leaves(self) -> list[Tensor]:
        """What the look-ups since have given out."""
        return [rows for rows, _, _ in self._seen] + ([] if self._whole is None else [self._whole])

    def gradient(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """The gradient in the moved rows, (m, d), from those of :meth:`leaves`."""
        total = torch.zeros_like(self.change)
        for (_, places, passing), gradient in zip(self._seen, gradients, strict=False):
            if gradient is not None:
                flat = gradient.reshape(-1, total.shape[1])
                total.index_add_(0, places, flat * passing)
        if self._whole is not None and gradients[-1] is not None:
            total += gradients[-1][self.ids]
        return total


class MovedTables(TorchFunctionMode):
    """Look-ups inside are those at θ̂.

    Args:
        updates: by the tensor that stands for the table in what runs inside.
    """

    def __init__(self, updates: Sequence[tuple[Tensor, RowUpdate]]) -> None:
        super().__init__()
        self._held = [stand_in for stand_in, _ in updates]  # so that no id is given away
        self._updates = {id(stand_in): update for stand_in, update in updates}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _HARMLESS:
            return func(*args, **kwargs)
        look = _LookupCall.of(func, args, kwargs)
        if look is not None and id(look.table) in self._updates and not look.by_frequency:
            return self._updates[id(look.table)].rows(look)
        if any(id(value) in self._updates for value in _values(args, kwargs)):
            args = [self._replaced(value) for value in args]
            kwargs = {name: self._replaced(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, (tuple, list)) and any(id(v) in self._updates for v in value):
            return [self._replaced(v) for v in value]
        update = self._updates.get(id(value))
        return value if update is None else update.whole()


@dataclass(frozen=True)
class _LookupCall:
    """A call of `torch.nn.functional.embedding`, read."""

    ids: Tensor
    table: Tensor
    padding: int | None
    by_frequency: bool
    call: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> _LookupCall | None:
        """None for any other function."""
        if func is not functional.embedding:
            return None
        names = (
            "input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq",
            "sparse",
        )  # fmt: skip
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        table, ids, padding = given["weight"], given["input"], given.get("padding_idx")
        if padding is not None and padding < 0:
            padding += len(table)
        return cls(
            ids, table, padding, bool(given.get("scale_grad_by_freq")),
            lambda weight: functional.embedding(ids, weight),
        )


def _values(args: Sequence[Any], kwargs: dict[str, Any]) -> Iterable[Any]:
    """The arguments of a call, those in lists one by one."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, (tuple, list)):
            yield from value
        else:
            yield value
