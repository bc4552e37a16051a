"""The memorization history of every interaction: h bits each, in a ring (Eq. 1)."""

from __future__ import annotations

import copy

import numpy as np

from sgdl_wrap.equations.memorization import majority, memorization_rates, steady_majority

CHUNK = 1 << 20  # interactions unpacked at once, a multiple of 8


class MemorizationRing:
    """The last h epochs' memorization bits m_t(k): h/8 bytes an interaction.

    m^h_t(k) = (1/h) Σ_{j=t-h+1..t} m_j(k)   (Eq. 1); epochs not yet lived count as 0.

    Args:
        n_interactions: N.
        history_length: h.
    """

    def __init__(self, n_interactions: int, history_length: int) -> None:
        self.n_interactions = n_interactions
        self.history_length = history_length
        self.epochs = 0  # pushed so far
        # rows of zeros share one; none is written to
        self._rows = [np.zeros((n_interactions + 7) // 8, dtype=np.uint8)] * history_length

    def pushed(self, packed: np.ndarray) -> MemorizationRing:
        """With one epoch's bits, as `numpy.packbits` of an (N,) bool array, in its oldest place."""
        following = copy.copy(self)
        following._rows = list(self._rows)
        following._rows[self.epochs % self.history_length] = packed
        following.epochs += 1
        return following

    def counts(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Σ_j m_j(k) for k in [start, stop), int32; `start` a multiple of 8."""
        stop = self.n_interactions if stop is None else stop
        total = np.zeros(stop - start, dtype=np.int32)
        for row in self._rows:
            total += np.unpackbits(row[start // 8 : (stop + 7) // 8], count=stop - start)
        return total

    def memorized(self) -> np.ndarray:
        """Packed bits of m^h_t(k) > 0.5, the memorized interactions M_t."""
        return self._counted_from(majority(self.history_length))

    def steady(self) -> np.ndarray:
        """Packed bits of those of M_t with Σ_j m_j(k) >= 0.95 min(h, t), j over the last h epochs.

        Of 20 epochs lived they may miss one, of fewer than that none (deviation 16).
        """
        return self._counted_from(steady_majority(self.epochs, self.history_length))

    def _counted_from(self, least: int) -> np.ndarray:
        pieces = []
        for start in range(0, self.n_interactions, CHUNK):
            stop = min(start + CHUNK, self.n_interactions)
            pieces.append(np.packbits(self.counts(start, stop) >= least))
        return np.concatenate(pieces)

    def rates(self, ids: np.ndarray) -> np.ndarray:
        """m^h_t(k) of the given interactions, float32 in [0, 1]; ids int64, shape (B,)."""
        shift = (7 - (ids & 7)).astype(np.uint8)
        places, memorized = ids >> 3, np.zeros(len(ids), dtype=np.int32)
        for row in self._rows:
            memorized += (row[places] >> shift) & np.uint8(1)
        return memorization_rates(memorized, self.history_length)

    def state(self) -> tuple[np.ndarray, int]:
        """The ring as one array, a row an epoch, and the number of epochs pushed."""
        return np.stack(self._rows), self.epochs

    def restore(self, rows: np.ndarray, epochs: int) -> None:
        """Takes back what :meth:`state` gave."""
        self._rows = list(rows.copy())
        self.epochs = epochs


def count_bits(packed: np.ndarray) -> int:
    """How many bits are set; padding bits are 0 by construction."""
    return int(np.unpackbits(packed).sum(dtype=np.int64))
