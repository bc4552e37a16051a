"""What the scheduler reads of each memorized sample: its factors over its last visits."""

from __future__ import annotations

import torch
from torch import Tensor

from sgdl_wrap.self_guided.denoising_scheduler import N_FACTORS


class FactorHistory:
    """A ring of the last T visits' (loss, similarity) for each memorized interaction, on the CPU.

    Args:
        ids: the memorized interactions, sorted, (|M|,) int64.
        length: T.
        dtype: of the factors.
    """

    def __init__(self, ids: Tensor, length: int, *, dtype: torch.dtype) -> None:
        self.ids = ids
        self.length = length
        self.ring = torch.zeros(len(ids), length, N_FACTORS, dtype=dtype)
        self.visits = torch.zeros(len(ids), dtype=torch.int64)

    def slots(self, ids: Tensor) -> Tensor:
        """Places of memorized interactions in the ring, (n,) int64."""
        return torch.searchsorted(self.ids, ids)

    def record(self, slots: Tensor, factors: Tensor) -> None:
        """Adds one visit a slot, factors (n, 2); of a slot named twice, the last visit counts."""
        # numpy, whose assignment takes the last of several values for one place, on any machine
        places, visits = slots.numpy(), self.visits.numpy()
        lived = visits[places]
        self.ring.numpy()[places, lived % self.length] = factors.to(self.ring).numpy()
        visits[places] = lived + 1

    def sequences(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """The last visits, oldest first.

        Returns:
            factors: (T, n, 2), zeros after a sample's last visit.
            visits: (n,) int64 in 1..T; a sample never visited counts as one visit of zeros.
        """
        seen = self.visits[slots]
        lived = seen.clamp(max=self.length)
        steps = torch.arange(self.length)[:, None]
        places = (seen - lived + steps) % self.length
        factors = self.ring[slots, places] * (steps < lived)[..., None]
        return factors, lived.clamp(min=1)
