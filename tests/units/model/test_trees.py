"""Batches as trees of arrays: rows, copies, and the stored form."""

from __future__ import annotations

import io
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from sgdl_wrap.errors import StateError
from sgdl_wrap.model.trees import (
    arrays_of,
    detached_copy,
    has_rows,
    map_arrays,
    pack,
    take_rows,
    unpack,
)

Named = namedtuple("Named", "users items")


@dataclass
class Open:
    users: torch.Tensor
    items: np.ndarray
    name: str = "open"


@dataclass(frozen=True)
class Frozen:
    users: torch.Tensor
    extra: dict[str, Any] = field(default_factory=dict)


class Plain:
    def __init__(self, users: torch.Tensor, items: list[torch.Tensor]) -> None:
        self.users = users
        self.items = items
        self.epoch = 3


def users(shift: int = 0) -> torch.Tensor:
    return torch.arange(5) + shift


def items(shift: int = 0) -> np.ndarray:
    return np.arange(5) * 10 + shift


def matrix(shift: int = 0) -> torch.Tensor:
    return torch.arange(15.0).reshape(5, 3) + shift


# Each builder gives the same structure with other values; `rows` picks rows where there are any.
BUILDERS = {
    "tensor": lambda s: users(s),
    "array": lambda s: items(s),
    "tuple": lambda s: (users(s), matrix(s)),
    "list": lambda s: [users(s), items(s)],
    "dict": lambda s: {"user": users(s), "item": items(s), 7: matrix(s)},
    "named tuple": lambda s: Named(users(s), items(s)),
    "dataclass": lambda s: Open(users(s), items(s), f"name {s}"),
    "frozen dataclass": lambda s: Frozen(users(s), {"more": matrix(s), "flag": s == 0}),
    "object": lambda s: Plain(users(s), [users(s), matrix(s)]),
    "nested": lambda s: (
        {
            "pair": Named(users(s), items(s)),
            "rest": [matrix(s), None, "text", 2.5 + s],
            "frozen": Frozen(users(s), {"more": items(s)}),
        },
        Plain(users(s), [matrix(s)]),
    ),
    "scalars": lambda s: (users(s), torch.tensor(4.0 + s), None, True, s, 0.5, "x"),
    "kinds of arrays": lambda s: (
        users(s).int(), matrix(s).half(), users(s) > 2, items(s).astype(np.float32), items(s) > 20
    ),
    "empty containers": lambda s: (users(s), [], (), {}),
}  # fmt: skip
EVERY = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())


def same(one: Any, other: Any) -> bool:
    """Equal in type, structure, dtype and every value."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, "__dict__"):
        return same(vars(one), vars(other))
    return bool(one == other)


def through_a_file(tree: Any) -> Any:
    stored = io.BytesIO()
    torch.save(tree, stored)
    stored.seek(0)
    return torch.load(stored, weights_only=True)


def only_rows(tree: Any, rows: list[int]) -> Any:
    """The slow reference of take_rows: every array that has rows loses the others."""
    if isinstance(tree, torch.Tensor):
        return torch.stack([tree[row] for row in rows]) if tree.ndim else tree
    if isinstance(tree, np.ndarray):
        return np.stack([tree[row] for row in rows]) if tree.ndim else tree
    if isinstance(tree, Named):
        return Named(only_rows(tree.users, rows), only_rows(tree.items, rows))
    if isinstance(tree, tuple):
        return tuple(only_rows(value, rows) for value in tree)
    if isinstance(tree, list):
        return [only_rows(value, rows) for value in tree]
    if isinstance(tree, dict):
        return {name: only_rows(value, rows) for name, value in tree.items()}
    if isinstance(tree, Open):
        return Open(only_rows(tree.users, rows), only_rows(tree.items, rows), tree.name)
    if isinstance(tree, Frozen):
        return Frozen(only_rows(tree.users, rows), only_rows(tree.extra, rows))
    if isinstance(tree, Plain):
        return Plain(only_rows(tree.users, rows), only_rows(tree.items, rows))
    return tree


# ------------------------------------------------------------------ rows


@EVERY
def test_rows_are_taken_of_every_array(build):
    batch = build(1)
    assert same(take_rows(batch, torch.tensor([4, 0, 0, 2])), only_rows(build(1), [4, 0, 0, 2]))
    assert same(batch, build(1))  # the batch itself stays


@EVERY
def test_has_rows_where_all_arrays_agree(build):
    assert has_rows(build(0), 5)
    assert not has_rows(build(0), 4)


def test_has_no_rows_without_arrays_or_with_unequal_ones():
    assert not has_rows(("text", 3), 5)
    assert not has_rows((users(), users()[:4]), 5)
    assert has_rows((users(), torch.tensor(1.0)), 5)


def test_rows_come_without_graph():
    weights = torch.ones(5, requires_grad=True)
    assert not take_rows((weights * 2,), torch.tensor([1]))[0].requires_grad


def test_arrays_are_found_depth_first():
    first, second, third = users(0), items(1), users(2)
    found = arrays_of({"a": [first, {"b": second}], "c": third})
    assert [id(leaf) for leaf in found] == [id(first), id(second), id(third)]


def test_what_is_no_batch_is_kept_as_it_is():
    marker, function = {1, 2}, len
    kept = map_arrays((users(), marker, function), lambda leaf: leaf)
    assert kept[1] is marker
    assert kept[2] is function


# ------------------------------------------------------------------ copies


@EVERY
def test_a_copy_is_equal_and_shares_no_memory(build):
    batch = build(2)
    copied = detached_copy(batch)
    assert same(copied, build(2))
    for leaf in arrays_of(batch):  # the user reuses the buffers for the next batch
        leaf[...] = 0
    assert same(copied, build(2))


def test_a_copy_of_a_mutable_object_is_another_object():
    batch = Plain(users(), [users()])
    copied = detached_copy(batch)
    batch.users = users(7)
    batch.items.append(users(9))
    assert copied.users.tolist() == [0, 1, 2, 3, 4]
    assert len(copied.items) == 1


def test_a_copy_comes_without_graph():
    assert not detached_copy([torch.ones(5, requires_grad=True) * 2])[0].requires_grad


# ------------------------------------------------------------------ the stored form


@EVERY
def test_unpack_gives_back_what_was_packed(build):
    assert same(unpack(pack(build(1)), like=build(0)), build(1))


@EVERY
def test_packed_batches_survive_loading_of_weights_only(build):
    assert same(unpack(through_a_file(pack(build(3))), like=build(0)), build(3))


@EVERY
def test_packing_copies(build):
    batch = build(1)
    packed = pack(batch)
    for leaf in arrays_of(batch):
        leaf[...] = 0
    assert same(unpack(packed, like=build(0)), build(1))


def test_unpacking_leaves_the_live_batch_alone():
    like = Plain(users(5), [users(6), matrix()])
    unpack(pack(Plain(users(), [users(), matrix()])), like=like)
    assert same(like, Plain(users(5), [users(6), matrix()]))


def test_unpacking_takes_batches_of_another_size():
    like = (users()[:2], {"item": items()[:2]})
    stored = (users(1), {"item": items(1)})
    assert same(unpack(pack(stored), like=like), stored)


def test_packing_reads_views_and_graphs():
    batch = (matrix().T.contiguous().T, items()[::-2], torch.ones(5, requires_grad=True) * 2)
    found = unpack(through_a_file(pack(batch)), like=batch)
    assert torch.equal(found[0], matrix())
    assert found[1].tolist() == [40, 20, 0]
    assert found[2].tolist() == [2.0] * 5


@pytest.mark.parametrize(
    "inside",
    [{1, 2}, b"bytes", 1j, len, iter([]), {(0, 1): torch.ones(2)}, range(3), dict, torch.long],
    ids=["set", "bytes", "complex", "call", "iterator", "tuple keys", "range", "class", "dtype"],
)
def test_opaque_content_is_refused(inside):
    with pytest.raises(
        StateError,
        match=r"Expected a batch of arrays, plain values and containers of them, got a "
        rf"{type(inside).__name__} inside\. Keep batches to such values\.",
    ):
        pack((users(), [inside]))


def test_batches_nested_too_deep_are_refused():
    assert same(unpack(pack([[[[users()]]]]), [[[[users()]]]]), [[[[users()]]]])
    with pytest.raises(
        StateError, match=r"Expected a batch nested at most 4 deep, got more\. Keep batches flat\."
    ):
        pack([[[[[users()]]]]])


@pytest.mark.parametrize(
    ("stored", "like"),
    [
        ((users(), items()), None),
        ((users(), items()), (users(),)),
        ([users()], 3),
        ({"user": users()}, {"item": users()}),
        ({"user": users()}, (users(),)),
        ({"user": [users(), {"item": items()}]}, (users(),)),
        ({"user": users()}, OrderedDict(user=users())),
    ],
    ids=["tuple, none", "tuple, shorter", "list, number", "dict, other keys", "dict, tuple",
         "nested", "dict, ordered"],
)  # fmt: skip
def test_plain_containers_come_back_beside_a_batch_of_any_layout(stored, like):
    assert same(unpack(pack(stored), like), stored)


@pytest.mark.parametrize(
    ("stored", "like", "kind"),
    [
        (OrderedDict(user=users()), {"user": users()}, "mapping"),
        (Open(users(), items()), {"users": users()}, "object"),
        (Open(users(), items()), Frozen(users()), "object"),
        (Named(users(), items()), None, "namedtuple"),
    ],
    ids=["ordered, dict", "object, dict", "object, other object", "named tuple, none"],
)  # fmt: skip
def test_batches_of_another_structure_are_refused(stored, like, kind):
    with pytest.raises(
        StateError,
        match=rf"Expected batches like the one stored in the state \({kind}\), got "
        rf"{type(like).__name__}\. Resume with the same data loader\.",
    ):
        unpack(pack(stored), like)


# ------------------------------------------------------------------ objects that hold themselves


def selfish() -> Plain:
    tree = Plain(users(), [])
    tree.me = tree
    tree.items = [tree, tree]
    return tree


def test_an_object_that_holds_itself_is_sliced_and_copied():
    assert take_rows(selfish(), torch.tensor([1, 2])).users.tolist() == [1, 2]
    original = selfish()
    copied = detached_copy(original)
    original.users.fill_(9)
    assert copied.users.tolist() == [0, 1, 2, 3, 4]
    assert has_rows(original, 5)


def test_an_object_that_holds_itself_cannot_be_stored():
    with pytest.raises(StateError, match="Expected a batch nested at most 4 deep, got more"):
        pack(selfish())


# ------------------------------------------------------------------ known defects


class Subclass(dict):
    """A mapping as some loaders define one."""


@pytest.mark.parametrize("kind", [OrderedDict, Subclass])
def test_rows_are_taken_of_mappings_that_are_no_dict(kind):
    taken = take_rows(kind(user=users()), torch.tensor([1]))
    assert taken["user"].tolist() == [1]


@pytest.mark.parametrize("kind", [OrderedDict, Subclass])
def test_a_copy_of_a_mapping_that_is_no_dict_shares_no_memory(kind):
    batch = kind(user=users())
    copied = detached_copy(batch)
    batch["user"].fill_(9)
    assert copied["user"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", [OrderedDict, Subclass])
def test_mappings_that_are_no_dict_are_stored_or_refused(kind):
    try:
        packed = pack(kind(user=users(1)))
    except StateError:
        return
    assert unpack(packed, kind(user=users(0)))["user"].tolist() == [1, 2, 3, 4, 5]


def test_arrays_without_dimensions_keep_their_shape():
    stored = np.array(3.0)
    assert unpack(pack(stored), np.array(1.0)).shape == ()


@pytest.mark.parametrize("inside", [np.array([b"a"]), np.array([object()])], ids=["bytes", "any"])
def test_arrays_of_neither_numbers_nor_text_are_refused(inside):
    with pytest.raises(StateError, match="Expected arrays of numbers or text in a batch, got"):
        pack(inside)


def test_numpy_numbers_survive_loading_of_weights_only():
    stored = (users(), np.float64(0.5))
    assert unpack(through_a_file(pack(stored)), stored)[1] == 0.5


@pytest.mark.parametrize(
    ("stored", "like"),
    [(Named(users(), items()), (users(), items())), (Open(users(), items()), items())],
    ids=["named tuple, tuple", "object, array"],
)
def test_more_batches_of_another_structure_are_refused(stored, like):
    with pytest.raises(StateError, match="Expected batches like the one stored in the state"):
        unpack(pack(stored), like)
