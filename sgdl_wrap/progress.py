"""Long work says how far it is."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger("sgdl_wrap")
SECONDS = 5.0  # between two lines


class ProgressLog:
    """Logs how much of some work is done, at most every few seconds; short work says nothing.

    Args:
        what: names the work: "ranked 3,000,000 of 20,000,000 interactions" begins with "ranked".
        unit: what is counted.
    """

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Reports `done` of `total`."""
        now = time.monotonic()
        if now - self._last >= SECONDS:
            self._last = now
            logger.info("%s %s of %s %s", self._what, f"{done:,}", f"{total:,}", self._unit)
