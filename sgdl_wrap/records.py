"""What is noted of an epoch while it runs, and the record that a person reads after it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

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
        skipped: batches left out for NaN or Inf.

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


@dataclass
class EpochProgress:
    """The epoch under way; it ends by itself when `observed` reaches `ends_at`.

    Batches are counted when they are stepped on, the rest when steps are written down.
    """

    ends_at: int
    observed: int = 0
    samples: int = 0
    batches: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    skipped: int = 0
    _seconds_before: float = 0.0  # lived before the state was saved
    _started: float | None = field(default=None, repr=False)

    def begin(self) -> None:
        """Starts the clock at the first batch."""
        if self._started is None:
            self._started = time.perf_counter()

    def add(
        self, samples: int, observed: int, loss_sums: np.ndarray, weight_sums: np.ndarray
    ) -> None:
        """Counts the samples of steps that were written down; sums are given by step."""
        self.samples += samples
        self.observed += observed
        for loss_sum, weight_sum in zip(loss_sums.tolist(), weight_sums.tolist(), strict=True):
            self.loss_sum += loss_sum
            self.weight_sum += weight_sum

    def seconds(self) -> float:
        """Wall time since the first batch."""
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._seconds_before + running

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "ends_at": self.ends_at,
            "observed": self.observed,
            "samples": self.samples,
            "batches": self.batches,
            "loss_sum": self.loss_sum,
            "weight_sum": self.weight_sum,
            "skipped": self.skipped,
            "seconds": self.seconds(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> EpochProgress:
        """The progress that `state_dict` gave."""
        values = dict(state)
        progress = cls(_seconds_before=values.pop("seconds"), **values)
        if set(state) != set(progress.state_dict()):
            raise KeyError("an epoch's progress lacks some of its numbers")
        return progress
