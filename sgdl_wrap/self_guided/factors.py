"""What the scheduler reads of each memorized sample: its factors over its last visits."""

from __future__ import annotations

import torch
from torch import Tensor

from sgdl_wrap.self_guided.denoising_scheduler import N_FACTORS


class FactorHistory:
    """A ring of the last T visits' (loss, similarity) for each memorized interaction.

    Args:
        ids: the memorized interactions, sorted, (|M|,) int64 on the CPU.
        length: T.
    """

    def __init__(
        self, ids: Tensor, length: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.ids = ids
        self.length = length
        self.ring = torch.zeros(len(ids), length, N_FACTORS, device=device, dtype=dtype)
        self.visits = torch.zeros(len(ids), device=device, dtype=torch.int64)

    def slots(self, ids: Tensor) -> Tensor:
        """Places of memorized interactions in the ring, on its device."""
        return torch.searchsorted(self.ids, ids).to(self.ring.device)

    def record(self, slots: Tensor, factors: Tensor) -> None:
        """Adds one visit a slot, factors (n, 2); of a slot named twice, the last visit counts."""
        # A slot named twice writes one of the two: make it the later one, on every device.
        unique, places = torch.unique(slots, return_inverse=True)
        last = torch.zeros_like(unique).scatter_reduce_(
            0, places, torch.arange(len(slots), device=slots.device), "amax", include_self=False
        )
        self.ring[unique, self.visits[unique] % self.length] = factors[last].to(self.ring.dtype)
        self.visits[unique] += 1

    def sequences(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """The last visits, oldest first.

        Returns:
            factors: (T, n, 2), zeros after a sample's last visit.
            visits: (n,) int64 in 1..T; a sample never visited counts as one visit of zeros.
        """
        seen = self.visits[slots]
        lived = seen.clamp(max=self.length)
        steps = torch.arange(self.length, device=slots.device)[:, None]
        places = (seen - lived + steps) % self.length
        factors = self.ring[slots, places] * (steps < lived)[..., None]
        return factors, lived.clamp(min=1)
