"""What the user's modules and functions keep beside parameters, and how it is put back.

A model may count its calls in an attribute, a list or a closure, cache embeddings, or hold a
generator of its own. An evaluation that plain training would not make must leave all of it as it
was.
"""

from __future__ import annotations

import builtins
import random
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from sgdl_wrap.model.put_back import (
    absent_back,
    array_back,
    cell_back,
    cut_back,
    dict_back,
    generator_back,
    global_back,
    list_back,
    names_back,
    numpy_back,
    numpy_state,
    random_back,
    set_back,
    some_names_back,
    tensor_back,
    unset_back,
)
from sgdl_wrap.notices import LIBRARIES

SMALL = 65_536  # elements of a tensor; a larger one is copied where it is known to be written to
_FROZEN = 1 << 24  # elements of a frozen parameter, or of data, that are copied at most
_SHORT = 4_096  # entries of a container; of a longer one, late changes of entries are not seen
_FEW = 512  # entries of a container that are looked into
_ROOM = 1 << 16  # entries that are copied in all, those near the model first
_OF_FUNCTIONS = 1_024  # elements of a function's tensors and arrays that are copied; more are data
_DEPTH = 4  # how far from a module or function plain state is looked for
_IMMUTABLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_OPAQUE = (type, ModuleType, BuiltinFunctionType, CodeType)
# what every module has: its registries and hooks
_REGISTRIES = frozenset(vars(nn.Module())) - {"training"}
_CONTAINERS = {list, dict, set, deque, tuple, OrderedDict, defaultdict, Counter}
_NAMESPACES = {"SimpleNamespace", "Namespace"}  # of the standard library, to be filled by users
PutBack = Callable[[], bool]  # puts one thing back; whether it had changed
_Names = frozenset[str] | None  # of attributes; None for all
_Place = tuple[Any, str, int, _Names]  # a value, its name, how far it is, which attributes count


class PlainState:
    """The plain state that some modules and functions reach, as it is now.

    It holds the attributes of modules, their buffers, closures, defaults and global names of
    functions, and the lists, dicts, sets, tensors, arrays and generators found there. Of an object
    that a function reaches, it holds the attributes that the function's code names, and no others:
    a thread of the user's may be at work on those.

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
        self._room = _ROOM
        self._ahead: deque[_Place] = deque()
        self._parts: list[tuple[str, PutBack]] = []
        self._watched: list[tuple[str, Tensor, int]] = []
        self._copied_large: set[str] = set()
        self.changed: set[str] = set()
        self.lost: set[str] = set()
        calls = [root for root in roots if not isinstance(root, nn.Module)]
        # what the model is asked for: by forward, and by the loss
        self._asked = frozenset({"forward"}).union(*map(_names_called, calls))
        for root in roots:
            self._add(root, "", 0, None)
        while self._ahead:  # what is near comes first
            self._look(self._ahead.popleft())

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

    def _add(self, value: Any, name: str, depth: int, names: _Names) -> None:
        if type(value) in weakref.ProxyTypes:  # which may be dead
            return
        if isinstance(value, (*_IMMUTABLE, *_OPAQUE)) or depth > _DEPTH:
            return
        if id(value) not in self._seen:
            self._seen.add(id(value))
            self._ahead.append((value, name, depth, names))

    def _look(self, place: _Place) -> None:
        value, name, depth, names = place
        if isinstance(value, nn.Module):
            self._module(value, name)
        elif isinstance(value, nn.Parameter):
            self._parameter(value, name)
        elif isinstance(value, Tensor):
            self._tensor(value, name, most=_OF_FUNCTIONS)
        elif isinstance(value, np.ndarray):
            self._array(value, name, _OF_FUNCTIONS)
        elif type(value) in _CONTAINERS:  # a class of the user's may do more than hold
            self._container(value, name, depth, names)
        elif isinstance(value, torch.Generator):
            self._note(name, partial(generator_back, value, value.get_state()))
        elif isinstance(value, (np.random.Generator, np.random.RandomState)):
            bits = value if isinstance(value, np.random.RandomState) else value.bit_generator
            self._note(name, partial(numpy_back, bits, numpy_state(bits)))
        elif isinstance(value, random.Random):
            self._note(name, partial(random_back, value, value.getstate()))
        elif isinstance(value, partial):
            for part in (value.func, *value.args, *value.keywords.values()):
                self._add(part, name, depth, names)
        elif isinstance(value, MethodType) and isinstance(value.__func__, FunctionType):
            kind: Any = type(value.__self__)
            named = names_within(_names_in(value.__func__.__code__), kind)
            self._add(value.__self__, name, depth, named)
            self._add(value.__func__, name, depth, named)
        elif isinstance(value, FunctionType):
            self._function(value, name, depth)
        elif not _is_of_a_library(value) and isinstance(_dict_of(value), dict):
            self._attributes(value, name, depth, names)

    def _module(self, root: nn.Module, name: str) -> None:
        for path, module in root.named_modules():
            self._seen.add(id(module))
            prefix = ".".join(part for part in (name, path) if part)
            own = vars(module)
            self._note(prefix, partial(names_back, own, dict(own)))
            registered = module._buffers
            self._note(prefix, partial(names_back, registered, dict(registered)))
            for key, buffer in registered.items():
                if buffer is not None:
                    self._tensor(buffer, _joined(prefix, key))
            for key, parameter in module._parameters.items():
                if parameter is not None:
                    self._parameter(parameter, _joined(prefix, key))
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                for hook in hooks.values():
                    self._add(hook, prefix, 1, None)
            if type(module).__module__.startswith("torch."):
                continue  # torch's own keep nothing else
            named = names_within(self._asked, cast(Any, type(module)))
            for key in own.keys() - _REGISTRIES:
                value = own[key]
                if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                    self._tensor(value, _joined(prefix, key))
                elif key not in named:
                    continue  # none of the calls that are ours can change it in place
                elif isinstance(value, np.ndarray):
                    self._array(value, _joined(prefix, key), SMALL)
                else:
                    self._add(value, _joined(prefix, key), 1, named)
            for method in methods_within(named, cast(Any, type(module))):
                self._add(method, prefix, 1, named)

    def _attributes(self, value: Any, name: str, depth: int, names: _Names) -> None:
        call = getattr(type(value), "__call__", None)  # noqa: B004  (as a function, to read it)
        if depth == 0 and isinstance(call, FunctionType):  # the loss itself is an object
            names = _names_in(call.__code__)
            self._add(call, name, depth, names)
        own, kind = vars(value), cast(Any, type(value))
        keys = own.keys() if names is None else own.keys() & names_within(names, kind)
        kept = {key: own[key] for key in keys}
        for method in methods_within(names, kind) if names is not None else ():
            self._add(method, name, depth + 1, names)
        if len(kept) > _SHORT:
            return
        whole = names is None
        self._note(name, partial(names_back if whole else some_names_back, own, kept))
        for key, part in kept.items():
            self._add(part, _joined(name, key), depth + 1, names)

    def _container(self, value: Any, name: str, depth: int, names: _Names) -> None:
        long = len(value) > _SHORT or len(value) > self._room
        if long and not (self._large and len(value) <= _FROZEN):
            if not isinstance(value, tuple):
                self._note(name, partial(cut_back, value, len(value)))
            return
        if long:
            self._copied_large.add(name)  # should it change now, it is copied each time
        else:
            self._room -= len(value)
        parts = list(value.values()) if isinstance(value, dict) else list(value)
        if isinstance(value, dict):
            self._note(name, partial(dict_back, value, dict(value)))
        elif not isinstance(value, tuple):
            back = set_back if isinstance(value, set) else list_back
            self._note(name, partial(back, value, parts))
        inner = [part for part in parts if not isinstance(part, _IMMUTABLE)]
        if not long and len(inner) <= _FEW:  # more are data, not state
            for part in inner:
                self._add(part, name, depth + 1, names)

    def _function(self, function: FunctionType, name: str, depth: int) -> None:
        if (function.__module__ or "").partition(".")[0] in LIBRARIES:
            return
        called, named = _joined(name, function.__name__), _names_in(function.__code__)
        attributes = function.__dict__
        self._note(called, partial(names_back, attributes, dict(attributes)))
        for part in attributes.values():
            self._add(part, called, depth + 1, named)
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._add(default, called, depth + 1, named)
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        for key, cell in cells:
            try:
                held = cell.cell_contents
            except ValueError:  # not set yet
                self._note(_joined(called, key), partial(unset_back, cell))
                continue
            self._note(_joined(called, key), partial(cell_back, cell, held))
            self._add(held, _joined(called, key), depth + 1, named)
        space = function.__globals__
        for key in named:
            if key not in space:
                if not hasattr(builtins, key):
                    self._note(_joined(called, key), partial(absent_back, space, key))
            elif not isinstance(space[key], _OPAQUE):
                self._note(_joined(called, key), partial(global_back, space, key, space[key]))
                self._add(space[key], _joined(called, key), depth + 1, named)

    def _tensor(self, tensor: Tensor, name: str, *, most: int | None = None) -> None:
        if tensor.layout != torch.strided or tensor.is_inference():
            return  # shared by what propagates over it, and never written to
        if tensor.numel() <= (most or SMALL) or (self._large and most is None):
            self._note(name, partial(tensor_back, tensor, tensor.detach().clone()))
            if tensor.numel() > SMALL:
                self._copied_large.add(name)
        else:  # of a function's, it may be all of the data
            self._watched.append((name, tensor, tensor._version))

    def _array(self, array: np.ndarray, name: str, most: int) -> None:
        if array.size > (_FROZEN if self._large else most) or array.dtype.kind == "O":
            return
        self._note(name, partial(array_back, array, array.copy()))
        if array.size > most:
            self._copied_large.add(name)

    def _parameter(self, parameter: Tensor, name: str) -> None:
        if parameter.is_inference() or parameter.layout != torch.strided:
            return
        if self._large and not parameter.requires_grad and parameter.numel() <= _FROZEN:
            self._note(f"parameter {name}", partial(tensor_back, parameter, parameter.clone()))
        else:
            self._watched.append((f"parameter {name}", parameter, parameter._version))

    def _note(self, name: str, part: PutBack) -> None:
        self._parts.append((name, part))


@lru_cache(maxsize=256)
def names_within(names: frozenset[str], kind: Any) -> frozenset[str]:
    """Some names, and what the methods and properties of a class that are among them name."""
    found, ahead = set(names), [*names, "__call__", "__getitem__", "__setitem__"]
    while ahead:
        method = getattr(kind, ahead.pop(), None)
        method = method.fget if isinstance(method, property) else method
        if isinstance(method, FunctionType):
            more = _names_in(method.__code__) - found
            found |= more
            ahead += more
    return frozenset(found)


def _dict_of(value: Any) -> Any:
    """The attributes of an object; None if it has none, or would not tell."""
    try:
        return value.__dict__
    except Exception:  # a connection that is made when it is first asked for, say
        return None


def _joined(prefix: str, key: Any) -> str:
    return f"{prefix}.{key}" if prefix else str(key)


def _is_of_a_library(value: Any) -> bool:
    kind = type(value)
    return kind.__module__.partition(".")[0] in LIBRARIES and kind.__name__ not in _NAMESPACES


@lru_cache(maxsize=256)
def methods_within(names: frozenset[str], kind: Any) -> tuple[FunctionType, ...]:
    """The user's own methods of a class that are among some names."""
    found = (getattr(kind, name, None) for name in sorted(names))
    return tuple(method for method in found if isinstance(method, FunctionType)
                 and (method.__module__ or "").partition(".")[0] not in LIBRARIES)


def _names_called(called: Any) -> frozenset[str]:
    """What the code of a function, a method, a partial or a callable object names."""
    while isinstance(called, partial):
        called = called.func
    kind: Any = type(called.__self__ if isinstance(called, MethodType) else called)
    function = getattr(called, "__func__", called)
    if not isinstance(function, FunctionType):
        function = vars(kind).get("__call__")
    if not isinstance(function, FunctionType):
        return frozenset()
    return names_within(_names_in(function.__code__), kind)


@lru_cache(maxsize=256)
def _names_in(code: CodeType) -> frozenset[str]:
    """Global names and attributes that a function, and functions written inside it, look up."""
    inner = [_names_in(part) for part in code.co_consts if isinstance(part, CodeType)]
    return frozenset(code.co_names).union(*inner)
