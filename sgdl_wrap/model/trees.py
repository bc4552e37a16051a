"""A batch as a tree of arrays: take some of its rows, store it, build it again.

Tuples, named tuples, lists, mappings, dataclasses and plain objects with attributes are
understood, tensors and numpy arrays are their leaves; anything else is kept as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.errors import LossError, StateError
from sgdl_wrap.notices import warn

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


def _is_flat(batch: Any) -> bool:
    """Whether it is a plain tuple or list of tensors, as most batches are."""
    return type(batch) in (tuple, list) and all(isinstance(leaf, Tensor) for leaf in batch)


def arrays_of(tree: Any) -> list[Any]:
    """Every tensor and array of a batch, depth first."""
    if _is_flat(tree):
        return list(tree)
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

    Objects become their attributes; :func:`unpack` takes their type from a live batch, so that
    loading never executes code from the file.

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
    if hasattr(tree, "to_numpy"):  # a data frame or a column of one
        raise StateError(
            f"Expected tensors or arrays in a batch, got a {type(tree).__name__}. Make them of it "
            "with to_numpy()."
        )
    if depth == 0:
        raise StateError(
            f"Expected a batch nested at most {_DEPTH} deep, got more. Keep batches flat."
        )
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return {"kind": "namedtuple", "value": [pack(value, depth - 1) for value in tree]}
    if type(tree) in (tuple, list):
        return {"kind": type(tree).__name__, "value": [pack(value, depth - 1) for value in tree]}
    if isinstance(tree, dict) and all(isinstance(name, (str, int)) for name in tree):
        kind = "dict" if type(tree) is dict else "mapping"
        return {"kind": kind, "value": {n: pack(value, depth - 1) for n, value in tree.items()}}
    attributes = None if callable(tree) else _attributes(tree)
    if attributes is not None:
        return {"kind": "object", "value": {n: pack(v, depth - 1) for n, v in attributes.items()}}
    raise StateError(
        f"Expected a batch of arrays, plain values and containers of them, got a "
        f"{type(tree).__name__} inside. Keep batches to such values."
    )


def unpack(packed: Any, like: Any, device: torch.device | None = None) -> Any:
    """The batch that :func:`pack` stored.

    Tuples, lists, dicts, tensors and arrays come back by themselves: a loader may give batches of
    several layouts in turn. Classes of the user's are taken from `like`, at the same place.

    Args:
        like: a batch of the same loader.
        device: where tensors go that `like` has none for; None takes that of its first tensor.

    Raises:
        StateError: a class of the user's that `like` does not have there.
    """
    if device is None:
        tensors = (leaf for leaf in arrays_of(like) if isinstance(leaf, Tensor))
        device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    if isinstance(packed, Tensor):
        # the stored tensor may have been loaded onto another device
        return packed.to(like.device if isinstance(like, Tensor) else device)
    kind, value = packed["kind"], packed["value"]
    if kind == "plain":
        return value
    if kind == "text":
        return np.array(value)
    if kind == "ndarray":
        return value.cpu().numpy()
    if kind == "scalar":
        return value.cpu().numpy()[()]
    if kind in ("tuple", "list"):
        parts = list(like) if isinstance(like, (tuple, list)) else []
        last = parts[-1] if parts else None  # ragged lists: any element tells the types
        parts += [last] * (len(value) - len(parts))
        built = [unpack(p, part, device) for p, part in zip(value, parts, strict=False)]
        return tuple(built) if kind == "tuple" else built
    if kind == "dict":
        known = like if isinstance(like, dict) else {}
        return {name: unpack(part, known.get(name), device) for name, part in value.items()}
    if kind == "mapping":
        if not isinstance(like, dict) or type(like) is dict:
            raise _other_structure(kind, like)
        new = copy.copy(like)  # a class of the user's keeps its type
        new.clear()
        new.update({name: unpack(part, like.get(name), device) for name, part in value.items()})
        return new
    if kind == "namedtuple":
        if not hasattr(like, "_fields") or len(like._fields) != len(value):
            raise _other_structure(kind, like)
        return type(like)(*(unpack(p, part, device) for p, part in zip(value, like, strict=True)))
    alike = _attributes(like)
    if alike is None or set(value) - set(alike):
        raise _other_structure(kind, like)
    return _with_attributes(like, {n: unpack(p, alike[n], device) for n, p in value.items()})


def doubt_storable(batch: Any) -> None:
    """Warns of a batch that no state can hold.

    Warns:
        DenoiserWarning: something that :func:`pack` refuses.
    """
    try:
        pack(batch)
    except StateError as error:
        warn(
            f"{error} This one trains, but state_dict() will fail once Phase II has begun."
        )


def _other_structure(kind: str, like: Any) -> StateError:
    return StateError(
        f"Expected batches like the one stored in the state ({kind}), got {type(like).__name__}. "
        "Resume with the same data loader."
    )


def detached_copy(batch: Any) -> Any:
    """A batch whose containers and arrays may be written to without changing the other's."""

    def clone(leaf: Any) -> Any:
        return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf.copy()

    return map_arrays(batch, clone)


def shallow_copy(batch: Any) -> Any:
    """A batch of the same arrays, whose containers may be written to: a loss may pop from them."""
    return type(batch)(batch) if _is_flat(batch) else map_arrays(batch, lambda leaf: leaf)


def versions(batch: Any) -> list[int]:
    """Tells whether a tensor of the batch was written to since; of arrays nothing does."""
    return [leaf._version for leaf in arrays_of(batch)
            if isinstance(leaf, Tensor) and not leaf.is_inference()]


def refuse_written(copies: Sequence[Any], batch: Any) -> None:
    """Refuses a loss that has written to the arrays of its batch.

    It would do so again at every evaluation of the batch.

    Args:
        copies: the arrays that the loss was given, fresh copies of those of `batch`.
        batch: as it was.

    Raises:
        LossError: it has.
    """
    for now, before in zip(copies, arrays_of(batch), strict=True):
        tensor = isinstance(now, Tensor)
        if now._version > 0 if tensor else now.tobytes() != before.tobytes():
            raise batch_written(f"{before.dtype} of shape {tuple(before.shape)}")


def batch_written(what: str) -> LossError:
    """The error that names an array of a batch that the loss has written to."""
    return LossError(
        f"Expected loss_fn to leave its batch as it is, got {what} in this batch written to in "
        "place, which every evaluation of the batch would do again. Make a new tensor: "
        "labels = 0.9 * labels, not labels *= 0.9."
    )
