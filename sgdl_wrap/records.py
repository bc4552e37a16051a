"""One record an epoch: what a person reads of it."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import Any


class Phase(str, enum.Enum):
    """Where a denoiser stands.

    Source: Sec. 3.1 and Sec. 3.2.
    """

    MEMORIZATION = "memorization"
    """Phase I: training as ever, watched."""
    SELF_GUIDED = "self_guided"
    """Phase II: weights learned from the memorized data."""


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of training with the denoiser.

    Attributes:
        epoch: counted from 1.
        phase: the phase the epoch was trained in.
        memorized_ratio: |M_t| / N at its end, M_t of Eq. 1, whichever of them guide.
        clean_ratio: 1 - σ̂ - shift at its end, frozen at the switch; None before an estimate.
        noise_rate: σ̂, frozen at the switch.
        loss: mean per-sample loss, unweighted.
        mean_weight: mean weight of the samples; 1 in Phase I.
        noise_share: what `denoiser.noise_share` lies around at its end, in [0, 1]; None before
            evidence is gathered.
        confidence: how much of what is strange is sure to be noise, in [0, 1]; at 0 all weights
            are one. None before evidence is gathered.
        effective_share: effective sample size of the interactions' weights over their number,
            in (0, 1]; 1 where they are equal, as in Phase I.
        suspicious_weight: mean weight of the most suspicious tenth over that of the rest.
        rare_weight: mean weight of the fifth of the interactions with the least popular items over
            that of the rest.
        guidance_coverage: share of the samples of learning steps whose gradient has anything in
            common with that of the guidance (Eq. 16); None if no step of the epoch learned.
        seconds: from the epoch's first batch to its end, the ranking included.
        skipped: batches left out for NaN or Inf.
        plain_seconds: what of them plain training takes too: all but the denoiser's calls
            without the loss, its backward and the optimizer's step in them. A little too much,
            as those too are slower with it. None on an accelerator, whose work this process's
            clock does not see, and where the epoch was begun by another process.

    ``pandas.DataFrame(denoiser.history)`` is a table of them. Loggers take `scalars()`, each in one
    line of an `on_epoch` (docs/pictures.md).

    Source: Eq. 1 (memorized_ratio), Eq. 3 (clean_ratio) and Eq. 4 (noise_rate).
    """

    epoch: int
    phase: Phase
    memorized_ratio: float
    clean_ratio: float | None
    noise_rate: float | None
    loss: float
    mean_weight: float
    seconds: float
    skipped: int = 0
    plain_seconds: float | None = None
    noise_share: float | None = None
    confidence: float | None = None
    effective_share: float = 1.0
    suspicious_weight: float = 1.0
    rare_weight: float = 1.0
    guidance_coverage: float | None = None

    @property
    def cost(self) -> float | None:
        """Wall time against that of plain training; None where that is not known."""
        if self.plain_seconds is None or self.plain_seconds <= 0:
            return None
        return self.seconds / self.plain_seconds

    def scalars(self) -> dict[str, float]:
        """What is a number and known, the cost too; the phase as 0, then 1."""
        values = {**asdict(self), "cost": self.cost}
        del values["epoch"]
        values["phase"] = float(self.phase is Phase.SELF_GUIDED)
        return {name: float(value) for name, value in values.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the phase by its name."""
        return {**asdict(self), "phase": self.phase.value}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EpochRecord:
        """The record that `as_dict` gave.

        Args:
            values: that dictionary.
        """
        return cls(**{**values, "phase": Phase(values["phase"])})
