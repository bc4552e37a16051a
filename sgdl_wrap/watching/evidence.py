"""What is known of noise: how strange each interaction is, averaged over epochs."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.equations.suspicion import (
    BINS,
    FIFTHS,
    PAST,
    NoiseShare,
    averaged,
    evened,
    fitted,
    histograms,
    looked_up,
    popularity_fifths,
)
from sgdl_wrap.model.scores import ScorePairs
from sgdl_wrap.ranks.ranks import ALONE, Ranks
from sgdl_wrap.saving.header import same_shape
from sgdl_wrap.watching.strangeness import Holders, strangeness

EPOCHS_OF_A_SEED = 1 << 20
MOST_ITEMS = 1 << 22  # with more no evidence is gathered: an item takes 512 bytes or more
SOON = 3  # epochs before the first possible switch from which it is gathered
GATHERED = 10  # epochs of Phase II that add to it: later ones show what was memorized


@dataclass(frozen=True)
class Strangeness:
    """What one epoch shows.

    Attributes:
        strange: d of :func:`~sgdl_wrap.watching.strangeness.strangeness`, (N,).
        fifths: of popularity, of the items, (n_items,).
        histograms: of d, over all ranks, (5, BINS).
    """

    strange: np.ndarray
    fifths: np.ndarray
    histograms: np.ndarray


class NoiseEvidence:
    """Suspicion of every interaction, 4 bytes each, and how much of it is sure.

    Args:
        interactions: D.
        ranks: those that gather together.

    Attributes:
        suspicion: how likely each interaction is like those nobody chose, (N,) float32; NaN where
            nothing is known.
        share: of noise, by the averaged histograms; None before any epoch was looked at.
        mean: of the noise probabilities of all ranks' interactions; None before.
    """

    def __init__(self, interactions: Interactions, ranks: Ranks = ALONE) -> None:
        self._interactions = interactions
        self._ranks = ranks
        self.suspicion = np.full(len(interactions), np.nan, dtype=np.float32)
        self.share: NoiseShare | None = None
        self.mean: float | None = None
        self._factors = np.ones(FIFTHS)  # of `evened`
        self.histograms = np.zeros((FIFTHS, BINS))  # of d, averaged as suspicion is
        self._fifths: np.ndarray | None = None  # of the items, (n_items,) uint8

    def gathered(
        self, score: ScorePairs, users: tuple[int, int], config: DenoiserConfig, epoch: int
    ) -> Strangeness:
        """What the model of an epoch shows; nothing is changed, all ranks ask together.

        Args:
            score: scores of pairs.
            users: the places of the users that this rank answers for, [first, last).
            config: seed and `ranking_chunk`.
            epoch: its number, from 0; what is drawn follows from it and the seed.
        """
        ranks = self._ranks
        holders = Holders.of(self._interactions, users, ranks)
        fifths = popularity_fifths(holders.counts.numpy())
        seed = (config.seed * EPOCHS_OF_A_SEED + epoch) % 2**63
        strange = strangeness(
            holders, score,
            generator=torch.Generator().manual_seed(seed), chunk=config.ranking_chunk,
        )  # fmt: skip
        if ranks.replicated:
            strange = ranks.known(strange)
        counted = histograms(strange, fifths[self._interactions.items.numpy()])
        if not ranks.replicated:
            counted = ranks.sums_of(torch.from_numpy(counted)).numpy()
        return Strangeness(strange, fifths, counted)

    def with_epoch(self, found: Strangeness) -> NoiseEvidence:
        """The averages with an epoch's evidence, which all ranks add together.

        This one stays as it is.
        """
        after = copy.copy(self)
        past = 0.0 if self.share is None else PAST
        after.histograms = past * self.histograms + (1 - past) * found.histograms
        table, after.share = fitted(after.histograms)
        now = looked_up(table, found.strange, found.fifths[self._interactions.items.numpy()])
        after.suspicion = averaged(self.suspicion, now)
        after._fifths = found.fifths
        sizes, noise = after._noise_by_fifth()
        after._factors = evened(sizes, noise / np.maximum(sizes, 1))
        after.mean = float(noise.sum() / max(sizes.sum(), 1))
        return after

    def _noise_by_fifth(self) -> tuple[np.ndarray, np.ndarray]:
        """Interactions of each fifth, and the sum of their noise probabilities, of all ranks."""
        sums = np.zeros((2, FIFTHS))
        for first in range(0, len(self._interactions), 1 << 16):
            ids = np.arange(first, min(first + (1 << 16), len(self._interactions)))
            fifths = self.fifths_of(ids)
            sums[0] += np.bincount(fifths, minlength=FIFTHS)
            sums[1] += np.bincount(fifths, self.noise_probability(ids), minlength=FIFTHS)
        if not self._ranks.replicated:
            sums = self._ranks.sums_of(torch.from_numpy(sums)).numpy()
        return sums[0], sums[1]

    def noise_probability(self, ids: np.ndarray) -> np.ndarray:
        """p(noise) of interactions, by their ids, float64 in [0, 1]; 0 where nothing is known.

        Suspicion times the confidence of the interaction's fifth of popularity.
        """
        return self._noise_probability(ids, self.fifths_of(ids))

    def _noise_probability(self, ids: np.ndarray, fifths: np.ndarray) -> np.ndarray:
        if self.share is None:
            return np.zeros(len(ids))
        confidence = np.array(self.share.confidence)[fifths]
        found: np.ndarray = np.nan_to_num(self.suspicion[ids]) * confidence
        return found

    def belief(self, ids: np.ndarray) -> np.ndarray:
        """b of interactions, by their ids, float64 in [0, 1]: how far they may be trained on.

        1 - p, less what would move weights along popularity and is not sure
        (:func:`~sgdl_wrap.equations.suspicion.evened`); 1 where nothing is noise.
        """
        fifths = self.fifths_of(ids)
        believed = (1 - self._noise_probability(ids, fifths)) * self._factors[fifths]
        found: np.ndarray = np.minimum(believed, 1.0)
        return found

    def fifths_of(self, ids: np.ndarray) -> np.ndarray:
        """The fifth of popularity of interactions, 0 to 4, (n,); 0 before any evidence."""
        if self._fifths is None:
            return np.zeros(len(ids), dtype=np.uint8)
        keys = self._interactions.keys[torch.from_numpy(ids)].numpy()
        found: np.ndarray = self._fifths[keys % self._interactions.n_items]
        return found

    def confidence(self) -> float | None:
        """How much of what is strange is sure to be noise, in [0, 1]; None before any evidence."""
        if self.share is None:
            return None
        return min(1.0, self.share.value / self.share.chance) if self.share.chance > 0 else 0.0

    def state_dict(self) -> dict[str, Any]:
        """The averages, in tensors and plain values."""
        fifths = None if self._fifths is None else torch.from_numpy(self._fifths.copy())
        return {
            "suspicion": torch.from_numpy(self.suspicion.copy()),
            "histograms": torch.from_numpy(self.histograms.copy()),
            "fifths": fifths,
            "share": None if self.share is None else asdict(self.share),
            "mean": self.mean,
            "factors": torch.from_numpy(self._factors.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave, for the same interactions."""
        like = {
            "suspicion": torch.from_numpy(self.suspicion),
            "histograms": torch.from_numpy(self.histograms),
            "factors": torch.from_numpy(self._factors),
            "fifths": torch.zeros(self._interactions.n_items, dtype=torch.uint8),
        }
        taken = {
            name: same_shape(state[name], tensor, name).numpy().copy()
            for name, tensor in like.items()
            if name != "fifths" or state["fifths"] is not None
        }
        self.suspicion, self.histograms = taken["suspicion"], taken["histograms"]
        self._fifths, self._factors = taken.get("fifths"), taken["factors"]
        self.mean = None if state["mean"] is None else float(state["mean"])
        self.share = None
        if state["share"] is not None:
            values = dict(state["share"])
            self.share = NoiseShare(**{**values, "confidence": tuple(values["confidence"])})
