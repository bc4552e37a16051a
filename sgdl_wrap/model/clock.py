"""The time that the denoiser adds to training, apart from what plain training takes too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class AddedTime:
    """A stopwatch that runs inside :meth:`adding` and stands still inside :meth:`shared`."""

    def __init__(self) -> None:
        self._total = 0.0
        self._since: float | None = None  # running since

    @contextmanager
    def adding(self) -> Iterator[None]:
        """What runs inside, plain training would not do; may be nested."""
        outermost = self._since is None
        if outermost:
            self._since = time.perf_counter()
        try:
            yield
        finally:
            if outermost:
                self._stop()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """What runs inside :meth:`adding` and plain training would do too."""
        running = self._since is not None
        self._stop()
        try:
            yield
        finally:
            if running:
                self._since = time.perf_counter()

    def take(self) -> float:
        """Seconds since the last time they were taken; more may be running."""
        running = self._since is not None
        self._stop()
        taken, self._total = self._total, 0.0
        if running:
            self._since = time.perf_counter()
        return taken

    def _stop(self) -> None:
        if self._since is not None:
            self._total += time.perf_counter() - self._since
            self._since = None
