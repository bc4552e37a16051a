from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from bench.data.interaction_data import InteractionData
from bench.methods.sgl import SGL, info_nce, view
from bench.models.lightgcn import normalised_adjacency
from bench.models.symmetric_product import symmetric_product
from bench.training.fit import Training, plain_epoch, set_up
from bench.training.recipes import RECIPES, Recipe


@pytest.fixture(params=["lightgcn", "ngcf"])
def graph_recipe(request: pytest.FixtureRequest) -> Recipe:
    return replace(RECIPES[request.param], epochs=2, batch_size=256)


def test_a_view_lacks_its_share_of_edges_and_is_normalised_by_what_is_left(
    small_data: InteractionData,
) -> None:
    data = small_data
    dense = view(data, 0.3, np.random.default_rng(0)).to_dense()
    users, items = (dense[: data.n_users, data.n_users :] > 0).nonzero(as_tuple=True)
    whole = len(np.unique(data.train_users * data.n_items + data.train_items))
    # five standard deviations of the share that stays
    assert len(users) / whole == pytest.approx(0.7, abs=5 * (0.21 / whole) ** 0.5)
    expected = normalised_adjacency(users, items, data.n_users, data.n_items).to_dense()
    torch.testing.assert_close(dense, expected)
    observed = set(zip(data.train_users.tolist(), data.train_items.tolist(), strict=True))
    assert set(zip(users.tolist(), items.tolist(), strict=True)) < observed


def test_views_differ(small_data: InteractionData) -> None:
    generator = np.random.default_rng(0)
    first, second = (view(small_data, 0.3, generator).to_dense() for _ in range(2))
    assert not torch.equal(first, second)


def test_info_nce_equals_its_formula_node_by_node() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(6, 3, generator=generator) for _ in range(2))
    nodes = torch.tensor([4, 1, 4, 0])
    found = info_nce(first, second, nodes, 0.2)
    for loss, node in zip(found, nodes, strict=True):
        alike = [
            float((first[node] @ other) / (first[node].norm() * other.norm())) for other in second
        ]
        powers = np.exp(np.array(alike) / 0.2)
        assert float(loss) == pytest.approx(-np.log(powers[node] / powers.sum()), rel=1e-5)


def test_a_node_that_is_most_alike_to_itself_has_the_least_loss() -> None:
    vectors = torch.eye(4)
    itself = info_nce(vectors, vectors, torch.arange(4), 0.2)
    another = info_nce(vectors, vectors.roll(1, 0), torch.arange(4), 0.2)
    assert itself.max() < 0.03
    assert another.min() > 5


def parameters(training: Training) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in training.model.parameters()]


def test_without_the_contrast_it_is_ordinary_training(small_data: InteractionData) -> None:
    recipe = replace(RECIPES["lightgcn"], epochs=1, batch_size=256)
    ours, plain = (set_up(recipe, small_data, seed=0) for _ in range(2))
    SGL(weight=0.0).start(ours).run()
    plain_epoch(plain.model, plain.optimizer, recipe.loss_fn, plain.penalty_fn, plain.batches)
    for found, expected in zip(parameters(ours), parameters(plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_training_makes_views_agree(graph_recipe: Recipe, small_data: InteractionData) -> None:
    recipe = replace(graph_recipe, learning_rate=0.01)
    generator = np.random.default_rng(7)
    views = [partial(symmetric_product, view(small_data, 0.3, generator)) for _ in range(2)]
    contrasts = []
    for weight in (0.0, 0.5):
        method = SGL(weight=weight, drop_rate=0.3)
        training = set_up(recipe, small_data, seed=0)
        whole = training.model.graphs
        epochs = method.start(training)
        for _ in range(4):
            epochs.run()
        assert training.model.graphs is whole  # what scores is the graph with all its edges
        batch = next(iter(training.batches))
        with torch.no_grad():
            contrasts.append(float(method.contrast(training.model.eval(), batch, views).mean()))
    assert contrasts[1] < contrasts[0] - 0.1


def test_views_are_drawn_anew_each_epoch(
    monkeypatch: pytest.MonkeyPatch, small_data: InteractionData
) -> None:
    calls = []
    monkeypatch.setattr(
        "bench.methods.sgl.view",
        lambda data, rate, generator: calls.append(rate) or view(data, rate, generator),
    )
    training = set_up(
        replace(RECIPES["lightgcn"], batch_size=256), small_data, seed=0
    )
    epochs = SGL(drop_rate=0.25).start(training)
    for _ in range(3):
        epochs.run()
    assert calls == [0.25] * 6


def test_is_for_graph_models_alone() -> None:
    supported = {name for name, recipe in RECIPES.items() if SGL().supports(recipe)}
    assert supported == {"lightgcn", "ngcf"}
