"""What a method may change of ordinary training: its data, its recipe, its epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.data.interaction_data import InteractionData
from bench.training.fit import Training, plain_epoch
from bench.training.recipes import Recipe
from sgdl_wrap import SelfGuidedDenoiser


@dataclass(frozen=True)
class Epochs:
    """How a method trains one training, epoch by epoch."""

    run: Callable[[], None]
    """Trains one epoch."""
    denoiser: SelfGuidedDenoiser | None = None


@dataclass(frozen=True)
class Method:
    """Ordinary training; each method overrides what it changes. Its fields are its settings."""

    def supports(self, recipe: Recipe) -> bool:
        """Whether the method is defined for the recipe's loss."""
        return True

    def trained_on(self, data: InteractionData) -> InteractionData:
        """What of the data the model is trained on."""
        return data

    def changed(self, recipe: Recipe) -> Recipe:
        """The recipe with the method's own loss or batches."""
        return recipe

    def start(self, training: Training) -> Epochs:
        """The epochs of a training that was set up with the data and the recipe of above."""
        return Epochs(
            lambda: plain_epoch(
                training.model,
                training.optimizer,
                training.recipe.loss_fn,
                training.penalty_fn,
                training.batches,
            )
        )
