"""What the user's modules and functions keep beside parameters, and how it is put back.

A model may count its calls in an attribute, a list or a closure, cache embeddings, or hold a
generator of its own. An evaluation that plain training would not make must leave all of it as it
was.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SMALL = 65_536  # elements of a tensor; a larger one is copied where it is known to be written to
_FROZEN = 1 << 24  # elements of a parameter without a gradient that are copied at most
_SHORT = 4_096  # entries of a container; a longer one is a table, which nothing counts in
_DEPTH = 4  # how far from a module or function plain state is looked for
_MOST = 4_096  # places looked at; more are data, not state
_IMMUTABLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_OPAQUE = (type, ModuleType, BuiltinFunctionType, CodeType)
# what every module has: its registries and hooks
_REGISTRIES = frozenset(vars(nn.Module())) - {"training"}
# what is defined there is no state of the user's
_LIBRARIES = sys.stdlib_module_names | {
    "torch", "numpy", "scipy", "sklearn", "pandas", "pyarrow", "polars", "tqdm", "higher",
    "sgdl_wrap", "lightning", "pytorch_lightning", "accelerate", "recbole", "transformers",
} - {"__main__"}  # fmt: skip

PutBack = Callable[[], bool]  # puts one thing back; whether it had changed


class PlainState:
    """The plain state that some modules and functions reach, as it is now.

    It holds the attributes of modules, their buffers, closures, defaults and global names of
    functions, and the lists, dicts, sets, tensors, arrays and generators found there.

    Args:
        roots: modules and functions.
        large: whether the modules' tensors of more than SMALL elements are copied, and their
            parameters without a gradient; else a write to one is noticed but cannot be taken back.

    Attributes:
        changed: names of what :meth:`put_back` found changed and put back.
        lost: names of what had changed and could not be put back.
    """

    def __init__(self, roots: Sequence[Any], *, large: bool) -> None:
        self._large = large
        self._seen: set[int] = set()
        self._parts: list[tuple[str, PutBack]] = []
        self._watched: list[tuple[str, Tensor, int]] = []
        self._copied_large: set[str] = set()
        self.changed: set[str] = set()
        self.lost: set[str] = set()
        for root in roots:
            if isinstance(root, nn.Module):
                self._module(root, "")
            elif root is not None:
                self._visit(root, "", 0)

    def put_back(self) -> None:
        """Everything is as it was; may be called again."""
        for name, part in self._parts:
            if part():
                self.changed.add(name)
        for name, tensor, version in self._watched:
            if tensor._version != version:
                self.lost.add(name)

    @property
    def changed_large(self) -> set[str]:
        """Those of :attr:`changed` that have more than SMALL elements."""
        return self.changed & self._copied_large

    # ------------------------------------------------------------------ the walk

    def _module(self, root: nn.Module, name: str) -> None:
        for path, module in root.named_modules():
            if id(module) in self._seen:
                continue
            self._seen.add(id(module))
            prefix = ".".join(part for part in (name, path) if part)
            own = vars(module)
            self._note(prefix, partial(_names_back, own, dict(own)))
            registered = module._buffers
            self._note(prefix, partial(_names_back, registered, dict(registered)))
            for key, buffer in registered.items():
                if buffer is not None:
                    self._tensor(buffer, _joined(prefix, key))
            for key, parameter in module._parameters.items():
                if parameter is not None:
                    self._parameter(parameter, _joined(prefix, key))
            for key, value in own.items():
                if key in _REGISTRIES:
                    continue
                if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                    self._tensor(value, _joined(prefix, key))
                else:
                    self._visit(value, _joined(prefix, key), 1)

    def _visit(self, value: Any, name: str, depth: int) -> None:
        if isinstance(value, (*_IMMUTABLE, *_OPAQUE)):
            return
        if depth > _DEPTH or id(value) in self._seen or len(self._seen) >= _MOST:
            return
        if isinstance(value, nn.Module):
            self._module(value, name)
            return
        self._seen.add(id(value))
        if isinstance(value, nn.Parameter):
            self._parameter(value, name)
        elif isinstance(value, Tensor):
            self._tensor(value, name, large=False)  # of a closure, it may be all of the data
        elif isinstance(value, np.ndarray):
            if value.size <= SMALL and value.dtype.kind != "O":
                self._note(name, partial(_array_back, value, value.copy()))
        elif isinstance(value, (list, dict, set, deque)):
            self._container(value, name, depth)
        elif isinstance(value, tuple):
            if len(value) <= _SHORT:
                for part in value:
                    self._visit(part, name, depth + 1)
        elif isinstance(value, torch.Generator):
            self._note(name, partial(_generator_back, value, value.get_state()))
        elif isinstance(value, (np.random.Generator, np.random.RandomState)):
            bits = value if isinstance(value, np.random.RandomState) else value.bit_generator
            self._note(name, partial(_numpy_back, bits, _numpy_state(bits)))
        elif isinstance(value, random.Random):
            self._note(name, partial(_random_back, value, value.getstate()))
        elif isinstance(value, partial):
            self._visit((value.func, value.args, value.keywords), name, depth)
        elif isinstance(value, MethodType):
            self._visit(value.__self__, name, depth)
            self._visit(value.__func__, name, depth)
        elif isinstance(value, FunctionType):
            self._function(value, name, depth)
        elif hasattr(value, "__dict__") and not _is_of_a_library(value):
            self._attributes(value, name, depth)

    def _attributes(self, value: Any, name: str, depth: int) -> None:
        own = vars(value)
        if len(own) > _SHORT:
            return
        self._note(name, partial(_names_back, own, dict(own)))
        for key, part in list(own.items()):
            self._visit(part, _joined(name, key), depth + 1)
        self._visit(vars(type(value)).get("__call__"), name, depth + 1)

    def _container(self, value: Any, name: str, depth: int) -> None:
        if len(value) > _SHORT:
            return
        if isinstance(value, dict):
            self._note(name, partial(_dict_back, value, dict(value)))
            parts: list[Any] = list(value.values())
        else:
            parts = list(value)
            back = _set_back if isinstance(value, set) else _list_back
            self._note(name, partial(back, value, parts))
        for part in parts:
            self._visit(part, name, depth + 1)

    def _function(self, function: FunctionType, name: str, depth: int) -> None:
        if (function.__module__ or "").partition(".")[0] in _LIBRARIES:
            return
        called = _joined(name, function.__name__)
        if function.__dict__:
            self._visit(function.__dict__, called, depth)
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._visit(default, called, depth + 1)
        names = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        for key, cell in names:
            try:
                held = cell.cell_contents
            except ValueError:  # not set yet
                continue
            self._note(_joined(called, key), partial(_cell_back, cell, held))
            self._visit(held, _joined(called, key), depth + 1)
        space = function.__globals__
        for key in _global_names(function.__code__):
            if key in space and not isinstance(space[key], _OPAQUE):
                self._note(_joined(called, key), partial(_global_back, space, key, space[key]))
                self._visit(space[key], _joined(called, key), depth + 1)

    def _tensor(self, tensor: Tensor, name: str, *, large: bool | None = None) -> None:
        if tensor.layout != torch.strided or tensor.is_inference():
            return  # shared by what propagates over it, and never written to
        if tensor.numel() <= SMALL or (self._large if large is None else large):
            self._note(name, partial(_tensor_back, tensor, tensor.detach().clone()))
            if tensor.numel() > SMALL:
                self._copied_large.add(name)
        else:
            self._watched.append((name, tensor, tensor._version))

    def _parameter(self, parameter: Tensor, name: str) -> None:
        if parameter.is_inference() or parameter.layout != torch.strided:
            return
        if self._large and not parameter.requires_grad and parameter.numel() <= _FROZEN:
            self._note(f"parameter {name}", partial(_tensor_back, parameter, parameter.clone()))
        else:
            self._watched.append((f"parameter {name}", parameter, parameter._version))

    def _note(self, name: str, part: PutBack) -> None:
        self._parts.append((name, part))


def _joined(prefix: str, key: Any) -> str:
    return f"{prefix}.{key}" if prefix else str(key)


def _is_of_a_library(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] in _LIBRARIES


def _global_names(code: CodeType) -> Iterator[str]:
    """Names that a function and the functions written inside it may look up globally."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


# ------------------------------------------------------------------ each kind


def _names_back(now: dict[str, Any], before: dict[str, Any]) -> bool:
    if len(now) == len(before) and all(now.get(k, now) is v for k, v in before.items()):
        return False
    now.update(before)
    for name in set(now) - set(before):
        del now[name]
    return True


def _dict_back(now: dict[Any, Any], before: dict[Any, Any]) -> bool:
    if len(now) == len(before) and all(
        a is b and now[a] is before[b] for a, b in zip(now, before, strict=True)
    ):
        return False
    now.clear()
    now.update(before)
    return True


def _list_back(now: Any, before: list[Any]) -> bool:
    if len(now) == len(before) and all(a is b for a, b in zip(now, before, strict=True)):
        return False
    now.clear()
    now.extend(before)
    return True


def _set_back(now: set[Any], before: list[Any]) -> bool:
    if len(now) == len(before) and now.issuperset(before):
        return False
    now.clear()
    now.update(before)
    return True


def _cell_back(cell: Any, before: Any) -> bool:
    if cell.cell_contents is before:
        return False
    cell.cell_contents = before
    return True


def _global_back(space: dict[str, Any], name: str, before: Any) -> bool:
    if space.get(name) is before:
        return False
    space[name] = before
    return True


def _tensor_back(tensor: Tensor, before: Tensor) -> bool:
    with torch.no_grad():
        if _same(tensor, before):
            return False  # not written to: a graph of before may need it as it is
        tensor.copy_(before)
    return True


def _same(one: Tensor, other: Tensor) -> bool:
    if torch.equal(one, other):
        return True
    # NaN is equal to nothing: a table that holds it is compared by its bits
    if not (one.is_floating_point() or one.is_complex()):
        return False
    return bool(torch.isnan(one).any()) and torch.allclose(
        one, other, rtol=0.0, atol=0.0, equal_nan=True
    )


def _array_back(array: np.ndarray, before: np.ndarray) -> bool:
    if array.tobytes() == before.tobytes():
        return False
    array[...] = before
    return True


def _generator_back(generator: torch.Generator, before: Tensor) -> bool:
    if torch.equal(generator.get_state(), before):
        return False
    generator.set_state(before)
    return True


def _numpy_state(bits: Any) -> Any:
    return bits.get_state() if isinstance(bits, np.random.RandomState) else bits.state


def _numpy_back(bits: Any, before: Any) -> bool:
    if isinstance(bits, np.random.RandomState):
        bits.set_state(before)
    else:
        bits.state = before
    return False  # the user's own stream, whoever draws from it


def _random_back(generator: random.Random, before: Any) -> bool:
    generator.setstate(before)
    return False
