from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from bench.data.interaction_data import InteractionData
from bench.methods import METHODS
from bench.study.grids import BENCHES, TRIALS_PER_METHOD, trials
from bench.training.fit import set_up


@pytest.mark.parametrize("model", list(BENCHES))
@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_has_the_same_number_of_different_trials(model: str, method: str) -> None:
    tried = trials(model, method)
    assert len(tried) == TRIALS_PER_METHOD
    assert all(tried.count(trial) == 1 for trial in tried)
    names = {field.name for field in fields(METHODS[method])}
    assert all(set(trial.options) <= names for trial in tried)


@pytest.mark.parametrize("model", list(BENCHES))
def test_a_methods_own_settings_are_tried_on_settings_that_plain_is_tried_on(model: str) -> None:
    plain = {(trial.learning_rate, trial.l2) for trial in trials(model, "plain")}
    for method in METHODS:
        assert {(trial.learning_rate, trial.l2) for trial in trials(model, method)} <= plain


def test_penalty_of_neumf_is_half_the_mean_squared_norm_of_a_samples_embeddings(
    small_data: InteractionData,
) -> None:
    recipe = BENCHES["neumf"].recipe
    model = set_up(recipe, small_data, seed=0).model
    batch = (torch.tensor([3, 3]), torch.tensor([5, 8]), torch.tensor([1.0, 0.0]))
    expected = 0.0
    for user, item, _ in zip(*batch, strict=True):
        for row in (model.gmf_user.weight[user], model.mlp_user.weight[user],
                    model.gmf_item.weight[item], model.mlp_item.weight[item]):  # fmt: skip
            expected += float(row.detach().square().sum()) / 4
    assert recipe.penalty_fn is not None
    assert recipe.penalty_fn(model, batch).item() == pytest.approx(expected)
