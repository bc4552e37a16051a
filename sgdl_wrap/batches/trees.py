"""A batch as a tree of arrays: take some of its rows, store it, build it again.

Tuples, named tuples, lists, mappings, dataclasses and plain objects with attributes are
understood, tensors and numpy arrays are their leaves; anything else is kept as it is.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.errors import DenoiserWarning, StateError

LeafFn = Callable[[Any], Any]
_PLAIN = (type(None), bool, int, float, str)
_DEPTH = 4  # of nesting that is looked into; an object may hold itself


def map_arrays(tree: Any, change: LeafFn, depth: int = _DEPTH) -> Any:
    """The same structure with `change` applied to each tensor and array."""
    if isinstance(tree, (Tensor, np.ndarray)):
        return change(tree)
    if isinstance(tree, _PLAIN) or callable(tree) or depth == 0:
        return tree
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_arrays(value, change, depth - 1) for value in tree))
    if type(tree) in (tuple, list):
        return type(tree)(map_arrays(value, change, depth - 1) for value in tree)
    if isinstance(tree, dict):
        new = copy.copy(tree)  # an OrderedDict or a class of the user's keeps its type
        for name, value in tree.items():
            new[name] = map_arrays(value, change, depth - 1)
        return new
    attributes = _attributes(tree)
    if attributes is None:
        return tree
    return _with_attributes(
        tree, {name: map_arrays(value, change, depth - 1) for name, value in attributes.items()}
    )


def _attributes(tree: Any) -> dict[str, Any] | None:
    """What a plain object holds, in its dict or in slots; None of what has neither."""
    declared = [getattr(kind, "__slots__", ()) for kind in type(tree).__mro__]
    slots = [
        name
        for names in declared
        for name in ((names,) if isinstance(names, str) else names)
        if name not in ("__dict__", "__weakref__") and hasattr(tree, name)
    ]
    if not slots and not hasattr(tree, "__dict__"):
        return None
    return {**{name: getattr(tree, name) for name in slots}, **getattr(tree, "__dict__", {})}


def _with_attributes(tree: Any, values: dict[str, Any]) -> Any:
    """A copy of a plain object with other values; a frozen one, too."""
    new = copy.copy(tree)
    own = getattr(new, "__dict__", {})
    for name, value in values.items():
        if name in own:
            own[name] = value
        else:
            object.__setattr__(new, name, value)
    return new


def arrays_of(tree: Any) -> list[Any]:
    """Every tensor and array of a batch, depth first."""
    found: list[Any] = []

    def note(leaf: Any) -> Any:
        found.append(leaf)
        return leaf

    map_arrays(tree, note)
    return found


def has_rows(batch: Any, size: int) -> bool:
    """Whether every array of the batch has `size` rows, so that rows can be taken."""
    leaves = arrays_of(batch)
    return bool(leaves) and all(leaf.ndim == 0 or len(leaf) == size for leaf in leaves)


def take_rows(batch: Any, rows: Tensor) -> Any:
    """A copy of the batch with the given rows, (n,) int64 on the CPU; 0-dim arrays stay."""

    def take(leaf: Any) -> Any:
        if leaf.ndim == 0:
            return leaf
        if isinstance(leaf, Tensor):
            return leaf.detach()[rows.to(leaf.device)]
        return leaf[rows.numpy()]

    return map_arrays(batch, take)


def pack(tree: Any, depth: int = _DEPTH) -> Any:
    """The tree in plain values and tensors, as `torch.load(weights_only=True)` reads them.

    Objects become their attributes; :func:`unpack` needs a live batch of the same kind to give
    them back their type, so that loading never executes code from the file.

    Raises:
        StateError: something in the batch is no array, plain value or container of these.
    """
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, np.ndarray) and tree.dtype.kind == "U":
        return {"kind": "text", "value": tree.tolist()}
    if isinstance(tree, np.str_):
        return {"kind": "plain", "value": str(tree)}
    if isinstance(tree, (np.ndarray, np.generic)):
        try:
            value = torch.from_numpy(np.array(tree))  # a copy, native and contiguous
        except TypeError as error:
            raise StateError(
                f"Expected arrays of numbers or text in a batch, got {tree.dtype}. Keep ids as "
                "integers."
            ) from error
        return {"kind": "ndarray" if isinstance(tree, np.ndarray) else "scalar", "value": value}
    if isinstance(tree, _PLAIN):
        return {"kind": "plain", "value": tree}
    if depth == 0:
        raise StateError(
            f"Expected a batch nested at most {_DEPTH} deep, got more. Keep batches flat."
        )
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return {"kind": "namedtuple", "value": [pack(value, depth - 1) for value in tree]}
    if type(tree) in (tuple, list):
        return {"kind": type(tree).__name__, "value": [pack(value, depth - 1) for value in tree]}
    if isinstance(tree, dict) and all(isinstance(name, (str, int)) for name in tree):
        return {"kind": "dict", "value": {n: pack(value, depth - 1) for n, value in tree.items()}}
    attributes = None if callable(tree) else _attributes(tree)
    if attributes is not None:
        return {"kind": "object", "value": {n: pack(v, depth - 1) for n, v in attributes.items()}}
    raise StateError(
        f"Expected a batch of arrays, plain values and containers of them, got a "
        f"{type(tree).__name__} inside. Keep batches to such values."
    )


def unpack(packed: Any, like: Any, *, inside: bool = False) -> Any:
    """The batch that :func:`pack` stored; `like` is any batch of the same structure.

    Args:
        inside: whether this is a part of a batch: a list there may have any length.

    Raises:
        StateError: `like` is structured otherwise.
    """
    if isinstance(packed, Tensor):
        # the stored tensor may have been loaded onto another device
        return packed.to(like.device) if isinstance(like, Tensor) else packed
    kind, value = packed["kind"], packed["value"]
    if kind == "plain":
        return value
    if kind == "text":
        return np.array(value)
    if kind == "ndarray":
        return value.cpu().numpy()
    if kind == "scalar":
        return value.cpu().numpy()[()]
    names = value if isinstance(value, dict) else range(len(value))
    if kind == "object":
        alike = _attributes(like)
        if alike is None or set(names) - set(alike):
            raise _other_structure(kind, like)
        return _with_attributes(
            like, {n: unpack(part, alike[n], inside=True) for n, part in value.items()}
        )
    if kind == "list":
        if not isinstance(like, list) or (len(value) > len(like) and not inside):
            raise _other_structure(kind, like)
        last = like[-1] if like else None  # ragged lists: any element tells the types
        alike_parts = [*like, *[last] * (len(value) - len(like))]
        return [unpack(p, a, inside=True) for p, a in zip(value, alike_parts, strict=False)]
    try:
        children = {name: unpack(value[name], like[name], inside=True) for name in names}
    except (KeyError, IndexError, TypeError) as error:
        raise _other_structure(kind, like) from error
    if kind == "dict":
        if not isinstance(like, dict):
            raise _other_structure(kind, like)
        new = copy.copy(like)
        new.clear()
        new.update(children)
        return new
    values = list(children.values())
    if kind == "namedtuple":
        if not hasattr(like, "_fields") or len(like._fields) != len(values):
            raise _other_structure(kind, like)
        return type(like)(*values)
    return tuple(values)


def doubt_storable(batch: Any) -> None:
    """Warns of a batch that no state can hold.

    Warns:
        DenoiserWarning: something that :func:`pack` refuses.
    """
    try:
        pack(batch)
    except StateError as error:
        warnings.warn(
            f"{error} This one trains, but state_dict() will fail once Phase II has begun.",
            DenoiserWarning,
            stacklevel=5,
        )


def _other_structure(kind: str, like: Any) -> StateError:
    return StateError(
        f"Expected batches like the one stored in the state ({kind}), got {type(like).__name__}. "
        "Resume with the same data loader."
    )


def detached_copy(batch: Any) -> Any:
    """A batch whose arrays the user may overwrite without changing ours."""

    def clone(leaf: Any) -> Any:
        return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf.copy()

    return map_arrays(batch, clone)

