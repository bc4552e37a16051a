from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, kl_divergence

from bench.data.interaction_data import InteractionData
from bench.methods.deca import (
    DeCA,
    Factors,
    denoising_negatives,
    denoising_positives,
    divergence,
)
from bench.training.fit import Training, set_up
from bench.training.recipes import RECIPES, Recipe

LOGITS = torch.tensor([-2.0, -0.5, 0.0, 1.0, 3.0])


def test_divergence_is_that_of_bernoulli_variables() -> None:
    first, second = (grid.flatten() for grid in torch.meshgrid(LOGITS, LOGITS, indexing="ij"))
    expected = kl_divergence(Bernoulli(logits=first), Bernoulli(logits=second))
    torch.testing.assert_close(divergence(first, second), expected)
    assert divergence(LOGITS, LOGITS).abs().max() < 1e-6


@pytest.mark.parametrize("observed", [0.0, 1.0])
@pytest.mark.parametrize("assumption", ["DP", "DN"])
def test_likelihood_is_the_expectation_over_what_is_truly_preferred(
    assumption: str, observed: float
) -> None:
    c1, c2 = 7.0, 3.0
    for target in LOGITS:
        for other in LOGITS:
            f, h = torch.sigmoid(target).item(), torch.sigmoid(other).item()
            # ln P(observed | r) for r = 0 and 1
            of_h = math.log(h if observed else 1 - h)
            if assumption == "DP":
                logs = (of_h, 0.0 if observed else -c1)
                found = denoising_positives(target, other, torch.tensor(observed), c1)
            else:
                logs = (-c2 if observed else 0.0, of_h)
                found = denoising_negatives(target, other, torch.tensor(observed), c2)
            expected = -((1 - f) * logs[0] + f * logs[1])
            assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_positive_that_is_likely_noise_asks_little_of_the_model() -> None:
    # where h says that noise is observed often, calling an observed pair disliked costs little
    target = torch.zeros(2, requires_grad=True)
    labels = torch.ones(2)
    h = torch.tensor([3.0, -3.0])
    denoising_positives(target, h, labels, 1000.0).sum().backward()
    assert target.grad is not None
    assert -0.05 < target.grad[0] < 0
    assert target.grad[1] < -0.5


def test_steps_take_turns_between_the_assumptions(
    monkeypatch: pytest.MonkeyPatch, neumf_recipe: Recipe, small_data: InteractionData
) -> None:
    turns: list[bool] = []
    losses = DeCA.losses

    def spy(self: DeCA, *arguments: Any, positives: bool) -> Tensor:
        turns.append(positives)
        return losses(self, *arguments, positives=positives)

    monkeypatch.setattr(DeCA, "losses", spy)
    training = set_up(replace(neumf_recipe, batch_size=250), small_data, seed=0)
    epochs = DeCA().start(training)
    epochs.run()
    epochs.run()  # goes on where the first ended
    n_steps = len(list(training.batches))
    assert n_steps % 2 == 1
    assert turns == [step % 2 == 0 for step in range(2 * n_steps)]


def test_each_assumption_teaches_its_own_model_of_noise_and_never_the_pretrained(
    neumf_recipe: Recipe, small_data: InteractionData
) -> None:
    training = set_up(neumf_recipe, small_data, seed=0)
    pretrained = set_up(neumf_recipe, small_data, seed=1).model
    batch = next(iter(training.batches))
    for positives in (True, False):
        noise = nn.ModuleList(Factors(small_data.n_users, small_data.n_items, 4) for _ in range(2))
        losses = DeCA().losses(training.model, pretrained, noise, batch, positives=positives)
        losses.mean().backward()
        taught = [other.users.weight.grad is not None for other in noise]
        assert taught == [positives, not positives]
    assert all(parameter.grad is None for parameter in pretrained.parameters())


def test_pretraining_is_ordinary_training_from_another_start(
    neumf_recipe: Recipe, small_data: InteractionData
) -> None:
    training = set_up(replace(neumf_recipe, epochs=9), small_data, seed=0)
    pretrained = DeCA(pretraining=1 / 3).pretrain(training)
    assert not pretrained.training
    users, items, labels = next(iter(training.batches))
    with torch.no_grad():
        before = training.recipe.loss_fn(training.model, (users, items, labels)).mean()
        after = training.recipe.loss_fn(pretrained, (users, items, labels)).mean()
    assert after < before - 0.1
    assert not torch.equal(pretrained.gmf_user.weight, training.model.gmf_user.weight)


def test_training_makes_the_model_agree_with_the_pretrained(
    monkeypatch: pytest.MonkeyPatch, neumf_recipe: Recipe, small_data: InteractionData
) -> None:
    kept: list[nn.Module] = []
    pretrain = DeCA.pretrain

    def spy(self: DeCA, training: Training) -> nn.Module:
        kept.append(pretrain(self, training))
        return kept[-1]

    monkeypatch.setattr(DeCA, "pretrain", spy)
    training = set_up(replace(neumf_recipe, epochs=12, learning_rate=0.01), small_data, seed=0)
    epochs = DeCA(c1=1.0, c2=1.0).start(training)
    users, items, _ = next(iter(training.batches))
    with torch.no_grad():
        start = training.model(users, items)
    for _ in range(4):
        epochs.run()
    assert len(kept) == 1
    with torch.no_grad():
        agreed, target = kept[0](users, items), training.model(users, items)
    assert divergence(agreed, target).mean() < 0.5 * divergence(agreed, start).mean()


def test_every_sample_counts_alike_in_a_step(
    monkeypatch: pytest.MonkeyPatch, neumf_recipe: Recipe, small_data: InteractionData
) -> None:
    # four negatives to a positive weigh four times as much, as in ordinary training
    seen: list[Tensor] = []
    losses = DeCA.losses

    def spy(self: DeCA, *arguments: Any, positives: bool) -> Tensor:
        found = losses(self, *arguments, positives=positives)
        found.register_hook(seen.append)
        return found

    monkeypatch.setattr(DeCA, "losses", spy)
    DeCA().start(set_up(neumf_recipe, small_data, seed=0)).run()
    assert seen
    for gradient in seen:
        torch.testing.assert_close(gradient, torch.full_like(gradient, 1 / len(gradient)))


def test_is_for_pointwise_models_alone() -> None:
    supported = {name for name, recipe in RECIPES.items() if DeCA().supports(recipe)}
    assert supported == {"neumf", "cdae"}
