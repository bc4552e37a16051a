from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bench.data.interaction_data import InteractionData
from bench.methods.ir import InteractiveRelabelling, relabelled
from bench.training.fit import Training, plain_epoch, set_up
from bench.training.recipes import Recipe


def test_lowest_observed_are_dropped_and_highest_others_added() -> None:
    scores = np.array([[5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5]], dtype=np.float32)
    observed = np.array([[1, 0, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]], dtype=bool)
    # user 0: of items 0, 2, 3, 4 the worse half goes (3, 4), item 1 comes
    # user 1: of items 0, 1 the worse goes (0), item 5 comes
    expected = np.array([[1, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 1]], dtype=bool)
    assert np.array_equal(relabelled(scores, observed, 0.5, 1), expected)


def test_one_observed_item_stays_with_every_user() -> None:
    scores = np.array([[1, 2, 3]], dtype=np.float32)
    observed = np.array([[True, True, False]])
    assert relabelled(scores, observed, 1.0, 0).tolist() == [[False, True, False]]


def test_numbers_of_dropped_and_added_are_as_asked() -> None:
    generator = np.random.default_rng(0)
    scores = generator.random((20, 50)).astype(np.float32)
    observed = generator.random((20, 50)) < 0.4
    labels = relabelled(scores, observed, 0.3, 2)
    n_observed = observed.sum(axis=1)
    assert np.array_equal((labels & observed).sum(axis=1), n_observed - np.floor(0.3 * n_observed))
    assert ((labels & ~observed).sum(axis=1) == 2).all()


class _FixedScores(nn.Module):
    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = scores

    def score_all_items(self, users: torch.Tensor) -> torch.Tensor:
        return self.scores[users]


def test_the_data_is_refreshed_by_the_scores_of_the_model(small_data: InteractionData) -> None:
    lonely = replace(small_data, n_users=small_data.n_users + 1)  # the last user has no click
    shape = (lonely.n_users, lonely.n_items)
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    model = _FixedScores(scores)
    refreshed = InteractiveRelabelling(drop_rate=0.2).refreshed(model, lonely)
    observed = np.zeros(shape, dtype=bool)
    observed[lonely.train_users, lonely.train_items] = True
    expected = relabelled(scores.numpy(), observed, 0.2, 1)[:-1]
    assert np.array_equal(
        np.stack([refreshed.train_users, refreshed.train_items]), np.nonzero(expected)
    )
    assert model.training


@pytest.fixture
def relabellings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    refreshed = InteractiveRelabelling.refreshed
    monkeypatch.setattr(
        InteractiveRelabelling,
        "refreshed",
        lambda self, *arguments: calls.append(1) or refreshed(self, *arguments),
    )
    return calls


def test_relabels_at_its_first_epoch_and_every_interval(
    relabellings: list[int], neumf_recipe: Recipe, small_data: InteractionData
) -> None:
    training = set_up(neumf_recipe, small_data, seed=0)
    epochs = InteractiveRelabelling(first_epoch=3, interval=2).start(training)
    counts = []
    for _ in range(7):
        epochs.run()
        counts.append(len(relabellings))
    assert counts == [0, 0, 0, 1, 1, 2, 2]


def test_trains_on_the_observed_before_and_on_the_relabelled_after(
    recipe: Recipe, small_data: InteractionData
) -> None:
    def parameters(training: Training) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in training.model.parameters()]

    training, plain = (set_up(recipe, small_data, seed=0) for _ in range(2))
    epochs = InteractiveRelabelling(drop_rate=0.5, first_epoch=1).start(training)
    for same in (True, False):
        epochs.run()
        plain_epoch(
            plain.model, plain.optimizer, recipe.loss_fn, plain.penalty_fn, plain.batches
        )
        pairs = zip(parameters(training), parameters(plain), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs) == same
