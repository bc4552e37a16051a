"""What a person reads of a run: one record an epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sgdl_wrap.memorization.transition import Phase


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of training with the denoiser.

    Attributes:
        epoch: counted from 1.
        phase: the phase the epoch was trained in.
        memorized_ratio: |M_t| / N at its end.
        clean_ratio: 1 - σ̂ - shift at its end, frozen at the switch; None before an estimate.
        noise_rate: σ̂, frozen at the switch.
        loss: mean per-sample loss, unweighted.
        mean_weight: mean weight of the samples; 1 in Phase I.
        seconds: from the epoch's first batch to its end, the ranking included.
    """

    epoch: int
    phase: Phase
    memorized_ratio: float
    clean_ratio: float | None
    noise_rate: float | None
    loss: float
    mean_weight: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the phase by its name."""
        return {**asdict(self), "phase": self.phase.value}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EpochRecord:
        """The record that :meth:`as_dict` gave."""
        return cls(**{**values, "phase": Phase(values["phase"])})
