from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from bench.data.interaction_data import InteractionData
from bench.methods.sgcn import SGCN, StochasticMask, nuclear_norm
from bench.models.masked_product import MaskableGraph
from bench.training.fit import Training, set_up
from bench.training.recipes import RECIPES, Recipe


@pytest.fixture(params=["lightgcn", "ngcf"])
def graph_recipe(request: pytest.FixtureRequest) -> Recipe:
    return replace(RECIPES[request.param], epochs=2, batch_size=256)


@pytest.fixture
def graph(small_data: InteractionData) -> MaskableGraph:
    return MaskableGraph(
        torch.from_numpy(small_data.train_users),
        torch.from_numpy(small_data.train_items),
        small_data.n_users,
        small_data.n_items,
    )


def trained(recipe: Recipe, data: InteractionData, n_epochs: int, **settings: Any) -> Training:
    method = SGCN(**settings)
    training = set_up(method.changed(recipe), data, seed=0)
    epochs = method.start(training)
    for _ in range(n_epochs):
        epochs.run()
    return training


def test_masks_are_binary_and_kept_as_often_as_their_probability_says(
    graph: MaskableGraph,
) -> None:
    mask = StochasticMask(graph, kept_at_first=0.5, tau=0.5)
    with torch.no_grad():
        mask.logits.copy_(torch.linspace(-3, 3, len(mask.logits)))
        draws = torch.stack([mask.draw() for _ in range(400)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    # six standard deviations of a share of 400 draws are at most 0.15
    assert (draws.mean(dim=0) - mask.kept()).abs().max() < 0.15


def test_gradient_of_a_mask_is_that_of_its_relaxation(
    graph: MaskableGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = StochasticMask(graph, kept_at_first=0.7, tau=0.5)
    uniform = torch.rand(len(mask.logits), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(torch, "rand_like", lambda _: uniform)
    incoming = torch.linspace(-1, 1, len(uniform))
    (found,) = torch.autograd.grad(mask.draw(), mask.logits, incoming)
    soft = torch.sigmoid((mask.logits.detach() + torch.logit(uniform)) / 0.5)
    torch.testing.assert_close(found, incoming * soft * (1 - soft) / 0.5)


def test_each_layer_draws_a_mask_of_its_own_at_each_call(
    graph_recipe: Recipe, small_data: InteractionData
) -> None:
    model = set_up(SGCN().changed(graph_recipe), small_data, seed=0).model
    vectors = torch.ones(small_data.n_users + small_data.n_items, 1)
    with torch.no_grad():
        products = [graph(vectors) for graph in [*model.graphs, model.graphs[0]]]
    assert len(model.graphs) == 3
    assert all(not torch.equal(products[0], other) for other in products[1:])


def test_evaluation_is_the_mean_over_masks(small_data: InteractionData) -> None:
    recipe = replace(RECIPES["lightgcn"], batch_size=256)
    model = set_up(SGCN(kept_at_first=0.6).changed(recipe), small_data, seed=0).model
    users = torch.arange(small_data.n_users)
    with torch.no_grad():
        draws = torch.stack([torch.cat(model.propagate()) for _ in range(300)])
        expected = torch.cat(model.eval().propagate())
        assert torch.equal(model.score_all_items(users), model.score_all_items(users))
    error = (draws.mean(dim=0) - expected).abs() / (draws.std(dim=0) / 300**0.5 + 1e-6)
    assert error.max() < 6


def test_nuclear_norm_is_the_sum_of_singular_values_and_its_gradient_their_directions(
    graph: MaskableGraph, small_data: InteractionData
) -> None:
    shape = (small_data.n_users, small_data.n_items)
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(len(graph.values), generator=generator).requires_grad_()
    matrix = torch.zeros(shape).index_put(
        (graph.edge_users, graph.edge_items), graph.values * mask
    )
    expected = torch.linalg.svdvals(matrix).sum()
    (by_mask,) = torch.autograd.grad(expected, mask)
    norm, slope = nuclear_norm(graph, mask, *shape)
    assert norm == pytest.approx(float(expected.detach()), rel=1e-4)
    torch.testing.assert_close(slope * graph.values, by_mask, rtol=1e-2, atol=1e-4)


def test_nuclear_norm_is_the_same_from_the_side_of_the_items(small_data: InteractionData) -> None:
    data = small_data
    turned = MaskableGraph(
        torch.from_numpy(data.train_items), torch.from_numpy(data.train_users),
        data.n_items, data.n_users,
    )  # fmt: skip
    upright = MaskableGraph(
        torch.from_numpy(data.train_users), torch.from_numpy(data.train_items),
        data.n_users, data.n_items,
    )  # fmt: skip
    ones = torch.ones(len(turned.values))
    first, _ = nuclear_norm(turned, ones, data.n_items, data.n_users)
    second, _ = nuclear_norm(upright, ones, data.n_users, data.n_items)
    assert first == pytest.approx(second, rel=1e-4)


def test_the_sparsity_term_drops_edges(graph_recipe: Recipe, small_data: InteractionData) -> None:
    recipe = replace(graph_recipe, learning_rate=0.05)
    kept = [
        trained(recipe, small_data, 3, sparsity=weight).model.masks[0].kept().mean().item()
        for weight in (0.0, 10.0)
    ]
    assert kept[1] < kept[0] - 0.1


def test_the_low_rank_term_lowers_the_nuclear_norm_more_than_as_many_edges_would(
    small_data: InteractionData,
) -> None:
    recipe = replace(RECIPES["lightgcn"], batch_size=256, learning_rate=0.05)
    found = []
    for sparsity, low_rank in ((0.0, 0.0), (0.0, 10.0)):
        training = trained(
            recipe, small_data, 3, sparsity=sparsity, low_rank=low_rank, refresh=1
        )
        mask = training.model.masks[0]
        found.append(
            nuclear_norm(mask.graph, mask.kept(), small_data.n_users, small_data.n_items)[0]
        )
    assert found[1] < 0.9 * found[0]


def test_the_loss_itself_teaches_the_masks(
    graph_recipe: Recipe, small_data: InteractionData
) -> None:
    model = trained(graph_recipe, small_data, 1, sparsity=0.0, low_rank=0.0).model
    for mask in model.masks:
        kept = mask.kept().detach()
        assert kept.min() < 0.9 < kept.max()


def test_the_directions_are_refreshed_every_few_epochs(
    monkeypatch: pytest.MonkeyPatch, small_data: InteractionData
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(
        "bench.methods.sgcn.nuclear_norm",
        lambda *arguments: calls.append(1) or nuclear_norm(*arguments),
    )
    recipe = replace(RECIPES["lightgcn"], batch_size=512)
    method = SGCN(refresh=2)
    epochs = method.start(set_up(method.changed(recipe), small_data, seed=0))
    counts = []
    for _ in range(4):
        epochs.run()
        counts.append(len(calls))
    assert counts == [4, 4, 7, 7]  # one of the graph without masks, three of each refresh


def test_is_for_graph_models_alone() -> None:
    supported = {name for name, recipe in RECIPES.items() if SGCN().supports(recipe)}
    assert supported == {"lightgcn", "ngcf"}
