"""What of this library a batch crosses: each call that is given it, or what is made of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from torch import Tensor

import sgdl_wrap
from sgdl_wrap.batches.batch import BatchInHand, StepRecord
from sgdl_wrap.batches.pairs import Pairs
from sgdl_wrap.batches.samples import Samples

PACKAGE = Path(sgdl_wrap.__file__).parent
MADE_OF_IT = (BatchInHand, Pairs, Samples, StepRecord)


class Crossings:
    """The calls of this library that a batch crosses while some work runs.

    A call counts if an argument of it is the batch, one of its columns, an array with as many rows,
    or one of the objects that carry these. Comprehensions are a part of the call around them.

    Args:
        batch: a tuple of columns, (B,) each, with a B that nothing else has.

    Attributes:
        calls: file and name of each, in order.
    """

    def __init__(self, batch: tuple[Tensor, ...]) -> None:
        self._itself = {id(batch), *map(id, batch)}
        self._rows = len(batch[0])
        self._seen: set[FrameType] = set()  # a generator that goes on is no other call
        self.calls: list[tuple[str, str]] = []

    @property
    def files(self) -> set[str]:
        """The files that are crossed."""
        return {file for file, _ in self.calls}

    def of(self, work: Callable[[], object]) -> Crossings:
        """Runs the work, and counts."""
        sys.setprofile(self._look)
        try:
            work()
        finally:
            sys.setprofile(None)
        return self

    def _look(self, frame: FrameType, event: str, _: Any) -> None:
        code, path = frame.f_code, Path(frame.f_code.co_filename)
        if event != "call" or frame in self._seen or code.co_name[0] == "<":
            return
        if PACKAGE not in path.parents:
            return
        self._seen.add(frame)
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(self._carries(frame.f_locals.get(name)) for name in names):
            self.calls.append((path.relative_to(PACKAGE).as_posix(), code.co_name))

    def _carries(self, value: Any) -> bool:
        if id(value) in self._itself or isinstance(value, MADE_OF_IT):
            return True
        if isinstance(value, (Tensor, np.ndarray)):
            return value.ndim > 0 and len(value) == self._rows
        return isinstance(value, (tuple, list)) and any(map(self._carries, value))
