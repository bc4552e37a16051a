"""What the scheduler reads of each memorized sample: its factors over its last visits."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np

from sgdl_wrap.guiding.scheduler import N_FACTORS


class FactorHistory:
    """A ring of the last T visits' (loss, similarity) for each memorized interaction (deviation 8).

    Args:
        ids: the memorized interactions, sorted, (|M|,) int64.
        length: T.
        dtype: of the factors.
    """

    def __init__(self, ids: np.ndarray, length: int, *, dtype: np.dtype) -> None:
        self.ids = ids
        self.length = length
        self.ring = np.zeros((len(ids), length, N_FACTORS), dtype=dtype)
        self.visits = np.zeros(len(ids), dtype=np.int64)
        self._steps = np.arange(length)[:, None]
        self.moment()

    def following(self, ids: np.ndarray) -> FactorHistory:
        """That of other interactions, sorted; those that were here before keep their visits."""
        places, after = self.slots(ids), copy.copy(self)
        after.ring, after.visits = _taken(self.ring, places), _taken(self.visits, places)
        after.ids = ids
        return after

    def moment(self) -> Callable[[], None]:
        """What takes back the visits that are recorded from now on, until the next moment."""
        self._before: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

        def put_back() -> None:
            for slots, factors, visits in reversed(self._before):
                self.ring[slots], self.visits[slots] = factors, visits

        return put_back

    def slots(self, ids: np.ndarray) -> np.ndarray:
        """Places of interactions in the ring, (n,) int64; -1 for those that have none."""
        places = self.ids.searchsorted(ids)
        if len(self.ids) == 0:
            return np.full(len(ids), -1)
        places[self.ids.take(places, mode="clip") != ids] = -1
        return places

    def record(self, slots: np.ndarray, factors: np.ndarray) -> None:
        """Adds one visit a slot, factors (n, 2); of a slot named twice, the last visit counts."""
        lived = self.visits[slots]
        self._before.append((slots, self.ring[slots], lived))
        self.ring[slots, lived % self.length] = factors
        self.visits[slots] = lived + 1

    def sequences(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The last visits, oldest first.

        Returns:
            factors: (T, n, 2), zeros after a sample's last visit.
            visits: (n,) int64 in 1..T; a sample never visited counts as one visit of zeros.
        """
        seen = self.visits[slots]
        lived = np.minimum(seen, self.length)
        factors = self.ring[slots, (seen - lived + self._steps) % self.length]
        factors[self._steps >= lived] = 0
        return factors, np.maximum(lived, 1)


def _taken(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Some of the rows, zeros where a place is -1."""
    if len(rows) == 0:
        return np.zeros((len(places), *rows.shape[1:]), dtype=rows.dtype)
    found: np.ndarray = rows.take(places, axis=0, mode="clip")
    found[places < 0] = 0
    return found
