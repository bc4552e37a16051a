"""The global random streams belong to the user: ours run beside them and leave no trace."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.model.untouched import put_back_after


class RandomStreams:
    """Keeps the user's global streams (torch, the model's GPU, numpy, random) untouched.

    The denoiser sometimes runs the user's code where the plain loop would not: for the ranking,
    for guidance. What that code draws (dropout masks, say) comes from a stream of the denoiser's
    own, which is saved with it.

    Args:
        seed: of the denoiser's own streams.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._own: dict[str, Tensor] = {"cpu": torch.Generator().manual_seed(seed).get_state()}

    def _own_state(self, device: str) -> Tensor:
        if device in self._own:
            return self._own[device]
        # a GPU is met when the model is there, not before
        return torch.Generator(device).manual_seed(self._seed).get_state()

    @contextmanager
    def own(self, device: torch.device, *, advance: bool = True) -> Iterator[None]:
        """Global torch draws come from our streams inside, the user's are as before after.

        numpy's and Python's streams are as before after, too, whether or not the user's code was
        ever seen to draw from them.

        Args:
            device: where the model is; the CPU's stream is ours as well.
            advance: False rewinds our streams afterwards, so that the next use draws the same.
        """
        names = _names(device)
        states = {name: self._own_state(name) for name in names}
        with put_back_after(users_streams(device)):
            for name in names:
                _set_state(name, states[name])
            yield
            moved = {name: _get_state(name) for name in names}
        if advance:
            self._own = {**self._own, **moved}

    def state(self) -> dict[str, Tensor]:
        """Our streams' states, as tensors by device."""
        return {name: state.clone() for name, state in self._own.items()}

    def restore(self, states: dict[str, Tensor]) -> None:
        """Takes back what :meth:`state` gave.

        Raises:
            RuntimeError: what is no state of a generator.
        """
        torch.Generator().set_state(states["cpu"].cpu())  # is it one?
        self._own = {name: state.cpu().clone() for name, state in states.items()}


def users_streams(device: torch.device, *, foreign: bool = True) -> Callable[[], None]:
    """What puts the user's global streams back to where they stand now; may be called again.

    Args:
        device: where the model is.
        foreign: whether numpy's and Python's are put back, too; it takes ten times as long.
    """
    states = {name: _get_state(name) for name in _names(device)}
    others = _foreign_states() if foreign else None

    def put_back() -> None:
        for name, state in states.items():
            _set_state(name, state)
        if others is not None:
            _set_foreign(others)

    return put_back


@contextmanager
def foreign_streams_kept() -> Iterator[None]:
    """numpy's and Python's global streams are the user's again after."""
    states = _foreign_states()
    with put_back_after(lambda: _set_foreign(states)):
        yield


def _names(device: torch.device) -> list[str]:
    return ["cpu", str(device)] if device.type == "cuda" else ["cpu"]


def _get_state(device: str) -> Tensor:
    return torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state(device)


def _set_state(device: str, state: Tensor) -> None:
    if device == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)


def _foreign_states() -> tuple[Any, Any]:
    return np.random.get_state(), random.getstate()  # noqa: NPY002  (the user's global stream)


def _set_foreign(states: tuple[Any, Any]) -> None:
    np.random.set_state(states[0])  # noqa: NPY002  (the user's global stream)
    random.setstate(states[1])


def foreign_fingerprint() -> tuple[Any, ...]:
    """The states of numpy's and Python's global streams, comparable with ``==``."""
    (name, keys, *rest), python = _foreign_states()
    return name, bytes(np.asarray(keys).data), *rest, python
