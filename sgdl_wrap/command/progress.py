"""How far the command is, and for how long it will go on."""

from __future__ import annotations

import time
from typing import Any, TextIO

MARKS = 0.05, 0.25, 0.5, 0.75  # parts done at which a log is told how long it will take


class Progress:
    """A bar on a terminal, if tqdm is installed; elsewhere a few lines with an estimate.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._first: tuple[float, int] | None = None  # moment and steps of the first call
        self._bar: Any = None
        self._said = 0  # marks

    def __call__(self, done: int, total: int) -> None:
        """Takes note of `done` of `total` steps."""
        now = time.perf_counter()
        if self._first is None:  # the first step loads much, and would tell too long a time
            self._first = now, done
        if self._stream.isatty() and self._has_bar(total):
            self._bar.update(done - self._bar.n)
            return
        began, before = self._first
        reached = sum(done >= mark * total for mark in MARKS)
        if reached > self._said and done > before:
            self._said = reached
            left = (now - began) / (done - before) * (total - done)
            self._stream.write(f"training: {done / total:.0%}, about {left:.0f} s to go\n")
            self._stream.flush()

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _has_bar(self, total: int) -> bool:
        if self._bar is None:
            try:
                from tqdm import tqdm
            except ImportError:
                return False
            self._bar = tqdm(
                total=total, desc="training", unit="steps", file=self._stream, leave=False
            )
        return True
