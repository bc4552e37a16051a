from __future__ import annotations

import torch

from bench.data.interaction_data import InteractionData
from bench.methods.r_ce import ReweightedLoss, agreement_weights
from bench.training.fit import set_up
from bench.training.recipes import RECIPES, Recipe


def test_weights_are_powers_of_the_probability_of_the_label() -> None:
    predictions = torch.tensor([0.9, 0.2, 0.7, 0.1], dtype=torch.float64)
    labels = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    losses = torch.nn.functional.binary_cross_entropy(predictions, labels, reduction="none")
    expected = torch.tensor([0.9**0.25, 0.2**0.25, 0.3**0.25, 0.9**0.25], dtype=torch.float64)
    torch.testing.assert_close(agreement_weights(losses, 0.25), expected)


def test_no_gradient_passes_the_weights() -> None:
    losses = torch.tensor([0.5, 2.0], requires_grad=True)
    assert not agreement_weights(losses, 0.1).requires_grad


def test_the_recipe_trains_on_weighted_losses(
    neumf_recipe: Recipe, small_data: InteractionData
) -> None:
    training = set_up(neumf_recipe, small_data, seed=0)
    batch = next(iter(training.batches))
    losses = neumf_recipe.loss_fn(training.model, batch)
    changed = ReweightedLoss(exponent=0.2).changed(neumf_recipe)
    weighted = changed.loss_fn(training.model, batch)
    torch.testing.assert_close(weighted, torch.exp(-0.2 * losses.detach()) * losses)


def test_is_for_pointwise_losses_alone() -> None:
    assert ReweightedLoss().supports(RECIPES["neumf"])
    assert not ReweightedLoss().supports(RECIPES["lightgcn"])
