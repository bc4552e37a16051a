"""The global random streams belong to the user: ours run beside them and leave no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor


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
        # numpy and random are guarded too, unless the loss was seen to leave them alone:
        # copying their state costs more than all else here
        self.guard_foreign = True
        self._own: dict[str, Tensor] = {"cpu": torch.Generator().manual_seed(seed).get_state()}

    def _own_state(self, device: str) -> Tensor:
        if device not in self._own:  # a GPU is met when the model is there, not before
            self._own[device] = torch.Generator(device).manual_seed(self._seed).get_state()
        return self._own[device]

    @contextmanager
    def own(self, device: torch.device, *, advance: bool = True) -> Iterator[None]:
        """Global torch draws come from our streams inside, the user's are as before after.

        Args:
            device: where the model is; the CPU's stream is ours as well.
            advance: False rewinds our streams afterwards, so that the next use draws the same.
        """
        with foreign_streams_kept() if self.guard_foreign else nullcontext():
            names = ["cpu", str(device)] if device.type == "cuda" else ["cpu"]
            theirs = {name: _get_state(name) for name in names}
            for name in names:
                _set_state(name, self._own_state(name))
            try:
                yield
            finally:
                if advance:
                    self._own.update({name: _get_state(name) for name in names})
                for name, state in theirs.items():
                    _set_state(name, state)

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


def _get_state(device: str) -> Tensor:
    return torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state(device)


def _set_state(device: str, state: Tensor) -> None:
    if device == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)


@contextmanager
def foreign_streams_kept() -> Iterator[None]:
    """numpy's and Python's global streams are the user's again after."""
    numpy_state, python_state = _foreign_states()
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002  (the user's global stream)
        random.setstate(python_state)


def _foreign_states() -> tuple[Any, Any]:
    return np.random.get_state(), random.getstate()  # noqa: NPY002  (the user's global stream)


def foreign_fingerprint() -> tuple[Any, ...]:
    """The states of numpy's and Python's global streams, comparable with ``==``."""
    (name, keys, *rest), python = _foreign_states()
    return name, bytes(np.asarray(keys).data), *rest, python
