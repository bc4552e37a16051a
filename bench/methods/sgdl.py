"""SGDL: self-guided denoising learning, by the library that this repository is.

Source: Gao et al., Self-Guided Learning to Denoise for Robust Recommendation, SIGIR 2022.
Departures: docs/deviations.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bench.methods.method import Epochs, Method
from bench.training.fit import Training, denoised_epoch, wrap
from sgdl_wrap import DenoiserConfig


@dataclass(frozen=True)
class SGDL(Method):
    """Training wrapped with the denoiser."""

    config: dict[str, Any] = field(default_factory=dict)
    """Fields of DenoiserConfig that differ from its defaults; the seed is the run's, the history
    the recipe's."""

    def start(self, training: Training) -> Epochs:
        """The epochs, and the denoiser that runs them."""
        settings = {"seed": training.seed, "history_length": training.recipe.history_length}
        denoiser = wrap(training, DenoiserConfig().but(**(settings | self.config)))
        return Epochs(
            lambda: denoised_epoch(
                training.model, denoiser, training.penalty_fn, training.batches
            ),
            denoiser,
        )
