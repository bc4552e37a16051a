"""Embedding tables of many rows: watched, moved and differentiated by the rows a batch touches.

θ̂ differs from θ only in rows that the batch has looked up. A table that is used in no other way
than by `torch.nn.functional.embedding` is therefore never copied: its look-ups are noted in the
training forward, and those of the guidance forward add what the assumed update has changed. A
table that is also used whole, as tied weights are, is copied whole like any other parameter.

What Python cannot watch, autograd functions and TorchScript say, shows in the graph: a table that
the losses reach past its known look-ups is copied too. Only what reads values in TorchScript, and
keeps no graph, would see θ in place of θ̂.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode

LARGE = 1 << 19  # elements; a smaller table is copied in less time than watching it takes

# what may be asked of a table without using its values
_HARMLESS: set[Any] = {
    Tensor.size, Tensor.dim, Tensor.numel, Tensor.stride, Tensor.is_contiguous, Tensor.__len__,
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
        node: of the graph, the look-up itself.
    """

    ids: Tensor
    rows: Tensor
    counts: Tensor | None
    node: Node


class LookupWatch(TorchFunctionMode):
    """Notes how large tables are used by what runs inside.

    Args:
        tables: parameters by their numbers.
    """

    def __init__(self, tables: dict[int, Tensor]) -> None:
        super().__init__()
        self._tables = tables
        self._numbers = {id(table): number for number, table in tables.items()}
        self._nodes = {number: get_gradient_edge(table).node for number, table in tables.items()}
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
        if not used:
            return found
        look = _LookupCall.of(func, args, kwargs)
        if look is None or not look.plain:
            self._whole |= used
            return found
        (number,) = used
        if _is_lookup(found.grad_fn, self._nodes[number]):  # None under no_grad
            # a copy, as the ids may be written to
            ids = look.ids.detach().reshape(-1).to(torch.int64, copy=True)
            counts = None if look.padding is None else (ids != look.padding)[:, None]
            self._lookups[number].append(Lookup(ids, found, counts, found.grad_fn))
        return found

    def lookups(self) -> dict[int, list[Lookup]]:
        """The look-ups of each table that was used by look-ups alone."""
        return {
            number: lookups
            for number, lookups in self._lookups.items()
            if number not in self._whole
            and not self._tables[number]._backward_hooks  # they see the gradient of the whole
            # rows changed in place are no longer the table's
            and all(look.rows.grad_fn is look.node for look in lookups)
        }


def known_lookups(
    losses: Tensor, tables: Sequence[Tensor], lookups: dict[int, list[Lookup]]
) -> dict[int, list[Lookup]]:
    """Of some tables' look-ups, those by which alone the losses depend on the table.

    Args:
        losses: with their graph.
        lookups: by the table's place in `tables`.
    """
    some = {k: looks for k, looks in lookups.items() if any(len(look.ids) for look in looks)}
    nodes = {look.node for looks in some.values() for look in looks}
    past = reached(losses, {k: tables[k] for k in some}, beside=nodes)
    return {k: looks for k, looks in some.items() if k not in past}


def reached(
    losses: Tensor, leaves: Mapping[int, Tensor], *, beside: Collection[Node] = ()
) -> set[int]:
    """Which leaves the graph of some losses leads to, on paths that avoid some nodes."""
    if not leaves:
        return set()
    seen: set[Any] = {None, *beside}
    ahead: list[Any] = [losses.grad_fn]
    while ahead:
        node = ahead.pop()
        if node not in seen:
            seen.add(node)
            ahead += [following for following, _ in node.next_functions]
    with torch._C.DisableTorchFunctionSubclass():  # of a stand-in itself, not of the whole
        return {k for k, leaf in leaves.items() if get_gradient_edge(leaf).node in seen}


def _is_lookup(node: Node | None, table: Node) -> bool:
    """Whether a node is a look-up in a table and no more."""
    return (
        node is not None
        and node.name() == "EmbeddingBackward0"
        and node.next_functions[0][0] is table
    )


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
        """Of at least one row."""
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

    def stand_in(self) -> Tensor:
        """A leaf to look rows up in as if it were the table at θ̂."""
        return MovedTable.of(self)

    def rows(self, look: _LookupCall) -> Tensor:
        """The rows asked for, at θ̂, with a graph to :meth:`leaves`."""
        if self._whole is not None:  # which may have been written to since
            return look.call(self._whole)
        with torch.no_grad():
            given = look.call(self.table)
            flat = look.ids.reshape(-1).long().contiguous()  # else searchsorted warns
            places = torch.searchsorted(self.ids, flat).clamp_(max=len(self.ids) - 1)
            moved = self.ids[places] == flat
            # a padding row passes no gradient, and so was not moved
            passing = moved if look.padding is None else moved & (flat != look.padding)
            change = (self.change[places] * moved[:, None]).reshape(given.shape)
        if torch.is_grad_enabled():
            self._seen.append((change.requires_grad_(), places, passing[:, None]))
        return given + change

    def whole(self) -> Tensor:
        """All of the table at θ̂, a leaf, for what does not look rows up."""
        if self._whole is None:
            with torch.inference_mode(False), torch.no_grad():
                moved = self.table.index_add(0, self.ids, self.change)
            self._whole = moved.requires_grad_()
        return self._whole

    def leaves(self) -> list[Tensor]:
        """What is added to the rows given out since, and the whole where it was asked for."""
        return [change for change, _, _ in self._seen] + (
            [] if self._whole is None else [self._whole]
        )

    def gradient(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """The gradient in the moved rows, (m, d), from those of :meth:`leaves`."""
        total = torch.zeros_like(self.change)
        # a checkpoint has looked rows up again since
        for (_, places, passing), gradient in zip(self._seen, gradients, strict=False):
            if gradient is not None:
                flat = gradient.reshape(-1, total.shape[1])
                total.index_add_(0, places, flat * passing)
        if self._whole is not None and gradients[-1] is not None:
            total += gradients[-1][self.ids]
        return total

    def forget(self) -> None:
        """Lets go of the rows given out: what is looked up from now on has leaves of its own."""
        self._seen.clear()


class MovedTable(Tensor):
    """Stands for a table at θ̂: look-ups in it are moved by rows, all else is given the whole."""

    update: RowUpdate

    @classmethod
    def of(cls, update: RowUpdate) -> MovedTable:
        """A leaf that shares the storage of θ, which nothing but attributes is read from."""
        table: MovedTable = Tensor._make_subclass(cls, update.table, True)
        table.update = update
        return table

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _HARMLESS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        look = _LookupCall.of(func, args, kwargs)
        if look is not None and isinstance(look.table, MovedTable) and look.plain:
            return look.table.update.rows(look)
        return func(*_wholes(args), **{name: _wholes(value) for name, value in kwargs.items()})


def _wholes(value: Any) -> Any:
    """Arguments of a call, every table at θ̂ replaced by the whole of it."""
    if isinstance(value, MovedTable):
        return value.update.whole()
    if type(value) in (tuple, list):
        return type(value)(_wholes(v) for v in value)
    return value


@dataclass(frozen=True)
class _LookupCall:
    """A call of `torch.nn.functional.embedding`, read.

    Attributes:
        plain: whether each row given is one of the table's, and passes its gradient as it is.
        call: the same of another table.
    """

    ids: Tensor
    table: Tensor
    padding: int | None
    plain: bool
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
            ids, table, padding,
            plain=given.get("max_norm") is None and not given.get("scale_grad_by_freq"),
            call=lambda weight: functional.embedding(ids, weight, padding),
        )


def _values(args: Sequence[Any], kwargs: dict[str, Any]) -> Iterable[Any]:
    """The arguments of a call, those in lists one by one."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, (tuple, list)):
            yield from value
        else:
            yield value
