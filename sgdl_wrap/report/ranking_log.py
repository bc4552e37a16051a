"""A long ranking says how far it is."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger("sgdl_wrap")
SECONDS = 5.0  # between two lines


class RankingLog:
    """Logs how many interactions are ranked, at most every few seconds; a short ranking says
    nothing."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Reports `done` of `total` interactions."""
        now = time.monotonic()
        if now - self._last >= SECONDS:
            self._last = now
            logger.info("ranked %s of %s interactions", f"{done:,}", f"{total:,}")
