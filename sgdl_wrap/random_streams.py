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
        device: where the model lives.
        seed: of the denoiser's own stream.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self._cuda = device if device.type == "cuda" else None
        # numpy and random are guarded too, unless the model was seen to leave them alone:
        # copying their state costs more than all else here
        self.guard_foreign = True
        self._own: list[Tensor] = [torch.Generator().manual_seed(seed).get_state()]
        if self._cuda is not None:
            self._own.append(torch.Generator(self._cuda).manual_seed(seed).get_state())

    def _torch_states(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self._cuda is not None:
            states.append(torch.cuda.get_rng_state(self._cuda))
        return states

    def _set_torch_states(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._cuda is not None:
            torch.cuda.set_rng_state(states[1], self._cuda)

    @contextmanager
    def own(self, *, advance: bool = True) -> Iterator[None]:
        """Global torch draws come from our stream inside, the user's are as before after.

        Args:
            advance: False rewinds our stream afterwards, so that the next use draws the same.
        """
        with foreign_streams_kept() if self.guard_foreign else nullcontext():
            yield from self._swapped(advance)

    def _swapped(self, advance: bool) -> Iterator[None]:
        theirs = self._torch_states()
        self._set_torch_states(self._own)
        try:
            yield
        finally:
            if advance:
                self._own = self._torch_states()
            self._set_torch_states(theirs)

    def state(self) -> list[Tensor]:
        """Our stream's state, as tensors."""
        return [state.clone() for state in self._own]

    def restore(self, states: list[Tensor]) -> None:
        """Takes back what :meth:`state` gave."""
        self._own = [state.clone() for state in states]


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
