"""The switch: whether an epoch's end is the memorization point t_m, or the time is out (Eq. 3)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sgdl_wrap.equations.memorization import clean_ratio, is_reached


class Verdict(str, enum.Enum):
    """What the end of an epoch decided."""

    STAY = "stay"
    REACHED = "reached"
    TIMED_OUT = "timed_out"


@dataclass(frozen=True)
class Switch:
    """Switches when |M_t| >= (1 - σ̂ - shift) N, or when the time is out.

    Args:
        noise_rate_shift: added to σ̂; positive switches earlier (Table 4).
        timeout: epochs after which to switch in any case; None never.

    Source: Sec. 3.1.2, Eq. 3.
    """

    noise_rate_shift: float = 0.0
    timeout: int | None = None

    def clean_ratio(self, noise_rate: float) -> float:
        """The memorized ratio to be reached, in [0, 1]."""
        return clean_ratio(noise_rate, self.noise_rate_shift)

    def decide(self, *, epoch: int, memorized: int, total: int, noise_rate: float) -> Verdict:
        """The verdict after `epoch` epochs with `memorized` of `total` interactions in M_t."""
        if is_reached(memorized, total, self.clean_ratio(noise_rate)):
            return Verdict.REACHED
        if self.timeout is not None and epoch >= self.timeout:
            return Verdict.TIMED_OUT
        return Verdict.STAY
