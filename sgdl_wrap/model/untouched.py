"""Running the user's model where the plain loop would not, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from sgdl_wrap.model.plain_state import PlainState

_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextmanager
def put_back_after(put_back: Callable[[], object]) -> Iterator[None]:
    """Calls `put_back` after what runs inside, whatever happens.

    An interrupt may come while things are being put back. They are then put back once more, so
    `put_back` must be one that can be called again.
    """
    try:
        yield
        put_back()  # inside the try, unlike a finally: an interrupt here is caught, too
    except BaseException:
        put_back()
        raise


@contextmanager
def all_or_nothing(*objects: object) -> Iterator[None]:
    """If anything is raised inside, every attribute of some objects is what it was before.

    Attributes are taken back, not what they hold: inside, these objects may be given new values,
    and no old value may be written to.
    """
    kept = [(vars(one), dict(vars(one))) for one in objects]
    try:
        yield
    except BaseException:
        for now, before in kept:
            now.update(before)
            for name in set(now) - set(before):
                del now[name]
        raise


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Every submodule in evaluation mode inside, each as it was after.

    Flags are set one by one: a user's own `train()` or `eval()` may do more than that.
    """
    flags = [(module, module.training) for root in modules for module in root.modules()]

    def put_back() -> None:
        for module, training in flags:
            vars(module)["training"] = training

    with put_back_after(put_back):
        for module, _ in flags:
            vars(module)["training"] = False  # not nn.Module's own way, which is slow
        yield


@contextmanager
def undisturbed(roots: Sequence[Any], *, large: bool = True) -> Iterator[PlainState]:
    """The plain state that modules and functions reach is as before after a run in between.

    An autocast around it keeps no cast of a parameter from before or inside: one of other values,
    or made without a graph, would serve the wrong forward.

    Args:
        roots: modules and functions of the user's.
        large: as of :class:`~sgdl_wrap.model.plain_state.PlainState`.

    Yields:
        That state, which tells after what had changed.
    """
    state = PlainState(roots, large=large)

    def put_back() -> None:
        torch.clear_autocast_cache()
        state.put_back()

    with put_back_after(put_back):
        torch.clear_autocast_cache()
        yield state


@contextmanager
def swapped(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """The parameters hold other values inside, and the very same storage after."""
    originals = [p.data for p in parameters]

    def put_back() -> None:
        for p, original in zip(parameters, originals, strict=True):
            p.data = original

    with put_back_after(put_back):
        for p, value in zip(parameters, values, strict=True):
            p.data = value.detach()
        yield


def outside_inference_mode(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """A method whose tensors can be trained, also where it is called in inference mode."""

    @wraps(method)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not torch.is_inference_mode_enabled():
            return method(*args, **kwargs)
        with torch.inference_mode(False):
            return method(*args, **kwargs)

    return wrapped
