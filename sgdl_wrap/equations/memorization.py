"""When to leave Phase I: the memorization point t_m (Eq. 3)."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Verdict(str, enum.Enum):
    """What the end of an epoch decided."""

    STAY = "stay"
    REACHED = "reached"
    TIMED_OUT = "timed_out"


@dataclass(frozen=True)
class TransitionDetector:
    """Switches when |M_t| >= (1 - σ̂ - shift) N, or when the time is out.

    Args:
        noise_rate_shift: added to σ̂; positive switches earlier (Table 4).
        timeout: epochs after which to switch in any case; None never.

    Source: Sec. 3.1.2, Eq. 3.
    """

    noise_rate_shift: float = 0.0
    timeout: int | None = None

    def clean_ratio(self, noise_rate: float) -> float:
        """1 - σ̂ - shift, kept within [0, 1]: the memorized ratio to be reached."""
        return min(max(1.0 - noise_rate - self.noise_rate_shift, 0.0), 1.0)

    def decide(self, *, epoch: int, memorized: int, total: int, noise_rate: float) -> Verdict:
        """The verdict after `epoch` epochs with `memorized` of `total` interactions in M_t."""
        # An empty M_t reaches nothing, whatever the noise rate says.
        if memorized > 0 and memorized >= self.clean_ratio(noise_rate) * total:
            return Verdict.REACHED
        if self.timeout is not None and epoch >= self.timeout:
            return Verdict.TIMED_OUT
        return Verdict.STAY


def first_stall(gaps: Sequence[float], window: int) -> int | None:
    """The first epoch, counted from 1, that is no nearer to the switch than `window` epochs before.

    None as long as there is none. No epoch before number `window` counts: while the history fills,
    the memorized ratio says little.

    Args:
        gaps: clean ratio - memorized ratio at the end of each epoch of Phase I.
        window: epochs.
    """
    for epoch in range(2 * window, len(gaps) + 1):
        if gaps[epoch - 1] >= gaps[epoch - 1 - window]:
            return epoch
    return None
