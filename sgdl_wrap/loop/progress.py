"""The epoch under way: what is counted while it runs, and when it is over."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.batches.marks import REMEDY
from sgdl_wrap.batches.passes import Bound, first_look, next_bound, visited
from sgdl_wrap.saving.header import same_shape
from sgdl_wrap.watching.backlog import Reading

Counts = tuple[np.ndarray, np.ndarray]  # interactions, each once, and their visits


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
