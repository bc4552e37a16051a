"""R-CE: reweighted cross-entropy, which weighs a sample by how well the model predicts it.

Source: Wang et al., Denoising Implicit Feedback for Recommendation, WSDM 2021, Sec. 4.2.2, Eq. 5
and 6. No departure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bench.methods.method import Method
from bench.training.batches import Batch
from bench.training.recipes import Recipe


def agreement_weights(losses: Tensor, exponent: float) -> Tensor:
    """ω = ŷ^β where y = 1, (1 - ŷ)^β where y = 0, for the prediction ŷ of the model.

    The cross-entropy L is minus the logarithm of just that probability, so ω = exp(-β L), which
    asks nothing more of the model. No gradient passes it.

    Args:
        losses: cross-entropy of each sample, (B,).
        exponent: β, at least 0.

    Source: Wang et al. 2021, Eq. 5 and 6.
    """
    return torch.exp(-exponent * losses.detach())


@dataclass(frozen=True)
class ReweightedLoss(Method):
    """Trains on the mean of weighted losses."""

    exponent: float = 0.1
    """β. Paper: tuned among 0.05 to 0.25; 0 is ordinary training."""

    def supports(self, recipe: Recipe) -> bool:
        """Pointwise losses alone, whose losses are cross-entropies."""
        return recipe.pointwise

    def changed(self, recipe: Recipe) -> Recipe:
        """The recipe with weighted losses."""

        def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
            losses = recipe.loss_fn(model, batch)
            return agreement_weights(losses, self.exponent) * losses

        return replace(recipe, loss_fn=loss_fn)
