"""What is noted of an epoch while it runs, and the record that a person reads after it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from sgdl_wrap.batches.backlog import Reading
from sgdl_wrap.batches.marks import REMEDY
from sgdl_wrap.batches.passes import Bound, first_look, next_bound, visited
from sgdl_wrap.interactions import Interactions
from sgdl_wrap.memorization.transition import Phase
from sgdl_wrap.state import same_shape

Counts = tuple[np.ndarray, np.ndarray]  # interactions, each once, and their visits


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


@dataclass
class RunningEpoch:
    """The epoch under way; it ends by itself when `observed` reaches `ends_at` for good.

    `skipped` is counted when a batch is left out, the rest when steps are written down.
    """

    bound: Bound
    counts: np.ndarray | None = None  # visits of each interaction, uint8, as long as they tell
    put_off: int = 0  # visits until an end that has failed is tried again
    said: bool = False  # that no pair of it was observed
    sign_doubted: bool = False  # in an epoch before: memorized pairs had the higher losses
    doubts: list[str] = field(default_factory=list)  # of the epoch before, to be said
    observed: int = 0
    samples: int = 0
    negatives: int = 0  # that their batch calls unobserved
    batches: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    skipped: int = 0
    _seconds_before: float = 0.0  # lived before the state was saved
    _started: float | None = field(default=None, repr=False)

    def start_clock(self) -> bool:
        """Starts it, if this is the first batch; whether it is."""
        if self._started is not None:
            return False
        self._started = time.perf_counter()
        return True

    def after(self, reading: Reading) -> RunningEpoch:
        """The epoch with the steps that were read."""
        loss_sum, weight_sum = self.loss_sum, self.weight_sum
        for loss, weight in zip(
            reading.loss_sums.tolist(), reading.weight_sums.tolist(), strict=True
        ):
            loss_sum += loss
            weight_sum += weight
        return replace(
            self,
            observed=self.observed + reading.observed,
            samples=self.samples + reading.samples,
            negatives=self.negatives + reading.negatives,
            batches=self.batches + reading.steps,
            loss_sum=loss_sum,
            weight_sum=weight_sum,
        )

    @classmethod
    def first(cls, interactions: Interactions) -> RunningEpoch:
        """One that counts visits, and learns from them how long a pass is."""
        size = len(interactions)
        return cls(first_look(size), np.zeros(size, dtype=np.uint8))

    @property
    def ends_at(self) -> int:
        """The observed samples with which it may end."""
        return self.bound.at + self.put_off

    def is_over(self, repeats: np.ndarray | None) -> bool:
        """Whether the pass is over, as far as its visits tell.

        Args:
            repeats: how often each interaction was handed over; None if once each.
        """
        if self.counts is not None and not self.bound.settled:
            self.bound = next_bound(self.counts, self.observed, self.bound, repeats)
        return self.bound.settled and self.observed >= self.ends_at

    def counted(self, reading: Reading) -> Counts | None:
        """Which counts of visits change by some steps, and to what; None if none are counted."""
        if self.counts is None or not reading.visits:
            return None
        return visited(self.counts, np.concatenate([ids for ids, _ in reading.visits]))

    def note(self, counts: Counts | None) -> None:
        """Takes counts of visits; done twice, it is as done once."""
        if self.counts is not None and counts is not None:
            self.counts[counts[0]] = counts[1]

    def what_came(self) -> str:
        """Why there is nothing to judge the epoch by, as the end of a message."""
        if self.samples > 0:
            return f"{self.samples:,} samples, none of them an observed pair. {REMEDY}"
        if self.skipped > 0:
            return (
                f"{self.skipped} batches, all of them skipped for NaN or Inf. Lower the learning "
                "rate, or go on from a checkpoint before them."
            )
        return "none. Call before_step and step on each batch of the loader."

    def seconds(self) -> float:
        """Wall time since the first batch."""
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._seconds_before + running

    def plain_seconds(self, added: float) -> float | None:
        """Wall time since the first batch without what was added; None if begun elsewhere."""
        return None if self._seconds_before > 0 else max(self.seconds() - added, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "bound": asdict(self.bound),
            "put_off": self.put_off,
            "said": self.said,
            "sign_doubted": self.sign_doubted,
            "doubts": list(self.doubts),
            "counts": None if self.counts is None else torch.from_numpy(self.counts.copy()),
            "observed": self.observed,
            "samples": self.samples,
            "negatives": self.negatives,
            "batches": self.batches,
            "loss_sum": self.loss_sum,
            "weight_sum": self.weight_sum,
            "skipped": self.skipped,
            "seconds": self.seconds(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], interactions: int) -> RunningEpoch:
        """The epoch that `state_dict` gave.

        Args:
            state: that dictionary.
            interactions: N.
        """
        values = dict(state)
        counts = values.pop("counts")
        if counts is not None:
            expected = torch.zeros(interactions, dtype=torch.uint8)
            counts = same_shape(counts, expected, "counts").numpy().copy()
        epoch = cls(
            Bound(**values.pop("bound")),
            counts,
            _seconds_before=values.pop("seconds"),
            **values,
        )
        if set(state) != set(epoch.state_dict()):
            raise KeyError("the epoch under way lacks some of its numbers")
        return epoch
