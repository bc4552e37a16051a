"""How each kind of plain state is put back; each tells whether it had changed."""

from __future__ import annotations

import random
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor


def names_back(now: dict[str, Any], before: dict[str, Any]) -> bool:
    if len(now) == len(before) and all(now.get(k, now) is v for k, v in before.items()):
        return False
    now.update(before)
    for name in set(now) - set(before):
        del now[name]
    return True


def some_names_back(now: dict[str, Any], before: dict[str, Any]) -> bool:
    if all(now.get(name, now) is value for name, value in before.items()):
        return False
    now.update(before)
    return True


def cut_back(now: Any, length: int) -> bool:
    """A long list or dict that has grown ends where it did."""
    if len(now) <= length or isinstance(now, set):
        return False
    while len(now) > length:
        now.popitem() if isinstance(now, dict) else now.pop()
    return True


def dict_back(now: dict[Any, Any], before: dict[Any, Any]) -> bool:
    same = len(now) == len(before) and all(map(is_, now, before))
    if same and all(map(is_, now.values(), before.values())):
        return False
    now.clear()
    now.update(before)
    return True


def list_back(now: Any, before: list[Any]) -> bool:
    if len(now) == len(before) and all(map(is_, now, before)):
        return False
    now.clear()
    now.extend(before)
    return True


def set_back(now: set[Any], before: list[Any]) -> bool:
    if len(now) == len(before) and now.issuperset(before):
        return False
    now.clear()
    now.update(before)
    return True


def cell_back(cell: Any, before: Any) -> bool:
    if cell.cell_contents is before:
        return False
    cell.cell_contents = before
    return True


def unset_back(cell: Any) -> bool:
    try:
        del cell.cell_contents
    except ValueError:
        return False
    return True


def absent_back(space: dict[str, Any], name: str) -> bool:
    return space.pop(name, space) is not space


def global_back(space: dict[str, Any], name: str, before: Any) -> bool:
    if space.get(name) is before:
        return False
    space[name] = before
    return True


def tensor_back(tensor: Tensor, before: Tensor) -> bool:
    with torch.no_grad():
        if tensor.shape != before.shape:  # resized, or given other data
            tensor.data = before
            return True
        if same(tensor, before):
            return False  # not written to: a graph of before may need it as it is
        tensor.copy_(before)
    return True


def same(one: Tensor, other: Tensor) -> bool:
    if torch.equal(one, other):
        return True
    # NaN is equal to nothing: a table that holds it is compared by its bits
    if not (one.is_floating_point() or one.is_complex()):
        return False
    return bool(torch.isnan(one).any()) and torch.allclose(
        one, other, rtol=0.0, atol=0.0, equal_nan=True
    )


def array_back(array: np.ndarray, before: np.ndarray) -> bool:
    if array.tobytes() == before.tobytes():
        return False
    array[...] = before
    return True


def generator_back(generator: torch.Generator, before: Tensor) -> bool:
    if torch.equal(generator.get_state(), before):
        return False
    generator.set_state(before)
    return True


def numpy_state(bits: Any) -> Any:
    return bits.get_state() if isinstance(bits, np.random.RandomState) else bits.state


def numpy_back(bits: Any, before: Any) -> bool:
    if isinstance(bits, np.random.RandomState):
        bits.set_state(before)
    else:
        bits.state = before
    return False  # the user's own stream, whoever draws from it


def random_back(generator: random.Random, before: Any) -> bool:
    generator.setstate(before)
    return False
