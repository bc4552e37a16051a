"""What is known at one moment. Training on does not change it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np

from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.equations.noise_rate import NoiseRate
from sgdl_wrap.guiding.guide import SelfGuidedPhase
from sgdl_wrap.guiding.weighting import WeightingFunction
from sgdl_wrap.records import EpochRecord
from sgdl_wrap.watching.notebook import MemorizationTracker


@dataclass(frozen=True)
class Learned:
    """What Phase II has learned.

    Attributes:
        config: the variants, settled.
        weighting: g as it was; None if nothing is learned.
        guiding: the memorized interactions that have a history of factors, (m,) int64.
        probabilities: π of Eq. 11 of these, (m,), summing to 1.
    """

    config: DenoiserConfig
    weighting: WeightingFunction | None
    guiding: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def of(cls, guide: SelfGuidedPhase) -> Learned:
        """A copy of what a Phase II has learned by now."""
        if guide.learner is None:
            return cls(guide.config, None, np.empty(0, dtype=np.int64), np.empty(0))
        ids, probabilities = guide.learner.selector.probabilities()
        return cls(guide.config, copy.deepcopy(guide.learner.weighting), ids, probabilities)


@dataclass(frozen=True)
class Snapshot:
    """What Phase I has watched and Phase II has learned.

    Attributes:
        interactions: D, N in number.
        config: the user's.
        enabled: False is plain training, of which nothing is known.
        history: one record an epoch.
        learned: by Phase II; None before the switch.
        mixture: of the last estimate of σ̂; None before.
        losses: the last seen, of the epoch under way or else of the one before, (N,); NaN if none.
        smoothed: average losses over visits, (N,); None before they begin.
        suspicion: (N,) in [0, 1]; NaN where nothing is known.
        noise_probability: (N,) in [0, 1]; None before evidence is gathered.
        rates: m^h_t(k) of Eq. 1, (N,).
        weights: w before any normalisation, (N,).
        memorized: M, (N,) bool; in Phase I, as it would be.
        memorized_at_switch: M then, (N,) bool; none in Phase I.
    """

    interactions: Interactions
    config: DenoiserConfig
    enabled: bool
    history: tuple[EpochRecord, ...]
    learned: Learned | None
    mixture: NoiseRate | None
    losses: np.ndarray = field(repr=False)
    smoothed: np.ndarray | None = field(repr=False)
    suspicion: np.ndarray = field(repr=False)
    noise_probability: np.ndarray | None = field(repr=False)
    rates: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)
    memorized: np.ndarray = field(repr=False)
    memorized_at_switch: np.ndarray = field(repr=False)

    @classmethod
    def of(
        cls,
        notebook: MemorizationTracker,
        guide: SelfGuidedPhase | None,
        history: list[EpochRecord],
        *,
        enabled: bool,
    ) -> Snapshot:
        """Copies of what the two phases know by now.

        Args:
            notebook, guide: of the two phases; None before the second.
            history: one record an epoch.
            enabled: whether anything is watched.
        """
        evidence, n = notebook.evidence, len(notebook.interactions)
        ids, memorized, at_switch = np.arange(n), np.zeros(n, bool), np.zeros(n, bool)
        memorized[notebook.memorized_ids() if guide is None else guide.memorized] = True
        if notebook.at_switch is not None:
            at_switch = np.unpackbits(notebook.at_switch, count=n) > 0
        return cls(
            interactions=notebook.interactions,
            config=notebook.config,
            enabled=enabled,
            history=tuple(history),
            learned=None if guide is None else Learned.of(guide),
            mixture=notebook.mixture,
            losses=notebook.losses.copy(),
            smoothed=None if notebook.smoothed is None else notebook.smoothed.copy(),
            suspicion=evidence.suspicion.copy(),
            noise_probability=None if evidence.share is None else evidence.noise_probability(ids),
            rates=notebook.buffer.rates(ids),
            weights=np.ones(n) if guide is None else guide.interaction_weights(notebook, ids),
            memorized=memorized,
            memorized_at_switch=at_switch,
        )

    @property
    def latest_losses(self) -> np.ndarray:
        """The losses, (N,); where none was seen in the epoch under way, their average."""
        if self.smoothed is None:
            return self.losses
        return np.where(np.isnan(self.losses), self.smoothed, self.losses)
