"""How far the command is, and for how long it will go on."""

from __future__ import annotations

import time
from typing import Any, TextIO

FIRST_WORD = 3.0  # seconds until a log is told how long it will take


class Progress:
    """A bar on a terminal, if tqdm is installed; elsewhere one line with an estimate.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._start = time.perf_counter()
        self._bar: Any = None
        self._said = False

    def __call__(self, done: int, total: int) -> None:
        """Takes note of `done` of `total` steps."""
        if self._stream.isatty() and self._has_bar(total):
            self._bar.update(done - self._bar.n)
        elif not self._said and time.perf_counter() - self._start > FIRST_WORD:
            self._said = True
            left = (time.perf_counter() - self._start) * (total - done) / done
            self._stream.write(f"training: about {left:.0f} s to go\n")
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
