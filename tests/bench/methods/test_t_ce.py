from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.data.interaction_data import InteractionData
from bench.methods.t_ce import TruncatedLoss, drop_rate_at, kept
from bench.training.fit import plain_epoch, set_up
from bench.training.recipes import RECIPES, Recipe


def test_exactly_the_observed_of_largest_loss_are_dropped() -> None:
    generator = np.random.default_rng(0)
    losses = generator.permutation(40).astype(np.float32)
    observed = generator.random(40) < 0.5
    keep = kept(torch.from_numpy(losses), torch.from_numpy(observed), 0.3).numpy()
    by_loss = sorted(np.flatnonzero(observed), key=lambda k: losses[k])
    n_dropped = int(0.3 * len(by_loss))
    assert n_dropped > 0
    assert set(np.flatnonzero(~keep)) == set(by_loss[-n_dropped:])


def test_negatives_stay_whatever_their_loss() -> None:
    losses = torch.tensor([9.0, 8.0, 1.0, 2.0])
    keep = kept(losses, torch.tensor([False, False, True, True]), 0.5)
    assert keep.tolist() == [True, True, True, False]


def test_batches_without_observed_samples_stay_whole() -> None:
    assert kept(torch.ones(3), torch.zeros(3, dtype=torch.bool), 0.9).all()


def test_drop_rate_rises_linearly_to_its_maximum_and_stays() -> None:
    assert [drop_rate_at(t, 0.2) for t in (0.0, 0.25, 0.5, 1.0, 3.0)] == [0, 0.05, 0.1, 0.2, 0.2]


def test_each_step_drops_what_the_schedule_says(
    monkeypatch: pytest.MonkeyPatch, neumf_recipe: Recipe, small_data: InteractionData
) -> None:
    rates: list[float] = []
    monkeypatch.setattr(
        "bench.methods.t_ce.kept",
        lambda losses, observed, rate: rates.append(rate) or kept(losses, observed, rate),
    )
    training = set_up(neumf_recipe, small_data, seed=0)
    epochs = TruncatedLoss(drop_rate=0.4, ramp_epochs=2).start(training)
    for _ in range(3):
        epochs.run()
    n_steps = len(list(training.batches))
    expected = [min(step / (2 * n_steps), 1) * 0.4 for step in range(3 * n_steps)]
    assert rates == pytest.approx(expected)


def test_without_dropping_it_is_ordinary_training(
    neumf_recipe: Recipe, small_data: InteractionData
) -> None:
    truncated, plain = (set_up(neumf_recipe, small_data, seed=0) for _ in range(2))
    TruncatedLoss(drop_rate=0.0).start(truncated).run()
    plain_epoch(plain.model, plain.optimizer, neumf_recipe.loss_fn, None, plain.batches)
    for ours, theirs in zip(truncated.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_dropped_samples_teach_nothing(neumf_recipe: Recipe, small_data: InteractionData) -> None:
    training = set_up(neumf_recipe, small_data, seed=0)
    model = training.model
    users, items = torch.arange(6), torch.arange(6)
    labels = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    with torch.no_grad():
        losses = neumf_recipe.loss_fn(model, (users, items, labels))
    worst = int(losses[:4].argmax())
    TruncatedLoss()._step(training, (users, items, labels), 0.25)
    gradient = model.gmf_user.weight.grad  # type: ignore[union-attr]
    assert isinstance(gradient, torch.Tensor)
    assert not gradient[worst].any()
    assert all(gradient[user].any() for user in range(6) if user != worst)


def test_is_for_pointwise_losses_alone() -> None:
    supported = [name for name, recipe in RECIPES.items() if TruncatedLoss().supports(recipe)]
    assert set(supported) & {"neumf", "lightgcn"} == {"neumf"}
