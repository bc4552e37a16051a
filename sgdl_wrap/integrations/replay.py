"""A forward taken a second time, with the same draws, that leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from sgdl_wrap.errors import UnsupportedModelError
from sgdl_wrap.model.streams import foreign_streams_kept
from sgdl_wrap.model.untouched import undisturbed

_COPIED = 65_536  # elements; larger buffers, a graph say, are read as they are


class Replay:
    """What a step of the user's starts from, so that its loss can be taken once more.

    Inside :meth:`again` the global random streams (torch's, the GPU's where the module is on one,
    numpy's and Python's) start where they stood when this was made: dropout masks and negatives
    drawn by the loss are those of the step. After it they stand where they stood before, and
    buffers and plain attributes of the module are what they were.

    Args:
        module: what the user trains.
        device: where it is.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module = module
        self._gpus = [device] if device.type == "cuda" else []
        self._cpu = torch.get_rng_state()
        self._gpu = [torch.cuda.get_rng_state(gpu) for gpu in self._gpus]
        self._numpy = np.random.get_state()  # noqa: NPY002  (the user's global stream)
        self._python = random.getstate()

    @contextmanager
    def again(self) -> Iterator[None]:
        """The second forward belongs inside.

        Raises:
            UnsupportedModelError: it writes to a buffer that is too large to be copied each time.
        """
        shared = self._shared_buffers()
        with (
            torch.random.fork_rng(devices=self._gpus),
            foreign_streams_kept(),
            undisturbed([self._module], large=False),
        ):
            torch.set_rng_state(self._cpu)
            for gpu, state in zip(self._gpus, self._gpu, strict=True):
                torch.cuda.set_rng_state(state, gpu)
            np.random.set_state(self._numpy)  # noqa: NPY002  (the user's global stream)
            random.setstate(self._python)
            self._copy_small_buffers()
            yield
        written = [name for name, b, version in shared if b._version != version]
        if written:
            raise UnsupportedModelError(
                f"Expected a forward that leaves large buffers as they are, got {written[0]!r} "
                f"written to: a second forward would write to it again. Call weighted_loss(batch) "
                "in training_step, which takes one forward."
            )

    def _copy_small_buffers(self) -> None:
        # not copied back after: the graph of the user's own forward may have saved the originals
        for module in self._module.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and _copied(buffer):
                    module._buffers[name] = buffer.detach().clone()

    def _shared_buffers(self) -> list[tuple[str, Tensor, int]]:
        named = self._module.named_buffers()
        return [(name, b, b._version) for name, b in named if not _copied(b)]


def _copied(buffer: Tensor) -> bool:
    return buffer.layout == torch.strided and buffer.numel() <= _COPIED
