from __future__ import annotations

import copy

import pytest
import torch

from bench.models.lightgcn import normalised_adjacency
from bench.models.masked_product import MaskableGraph, masked_product

N_USERS, N_ITEMS = 4, 5
USERS = torch.tensor([3, 0, 0, 2, 2, 2, 3, 0])
ITEMS = torch.tensor([1, 4, 0, 0, 1, 3, 4, 4])  # (0, 4) twice, user 1 and item 2 with nothing
EDGES = [(0, 0), (0, 4), (2, 0), (2, 1), (2, 3), (3, 1), (3, 4)]


@pytest.fixture
def graph() -> MaskableGraph:
    return MaskableGraph(USERS, ITEMS, N_USERS, N_ITEMS)


@pytest.fixture
def mask() -> torch.Tensor:
    return torch.tensor([1.0, 0.0, 0.5, 1.0, 0.25, 0.0, 2.0]).requires_grad_()


@pytest.fixture
def vectors() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N_USERS + N_ITEMS, 3, generator=generator).requires_grad_()


def dense(mask: torch.Tensor) -> torch.Tensor:
    masks = torch.zeros(N_USERS + N_ITEMS, N_USERS + N_ITEMS)
    for edge, (user, item) in enumerate(EDGES):
        masks[user, N_USERS + item] = masks[N_USERS + item, user] = mask[edge]
    whole = normalised_adjacency(USERS, ITEMS, N_USERS, N_ITEMS).to_dense().float()
    return whole * masks


def test_edges_are_the_distinct_pairs_in_order(graph: MaskableGraph) -> None:
    assert list(zip(graph.edge_users.tolist(), graph.edge_items.tolist(), strict=True)) == EDGES
    whole = normalised_adjacency(USERS, ITEMS, N_USERS, N_ITEMS).to_dense().float()
    expected = torch.stack([whole[user, N_USERS + item] for user, item in EDGES])
    torch.testing.assert_close(graph.values, expected)


def test_product_and_both_gradients_equal_the_dense_ones(
    graph: MaskableGraph, mask: torch.Tensor, vectors: torch.Tensor
) -> None:
    incoming = torch.arange(vectors.numel()).view_as(vectors).float()
    expected = dense(mask) @ vectors
    wanted = torch.autograd.grad(expected, (vectors, mask), incoming)
    product = masked_product(graph, vectors, mask)
    found = torch.autograd.grad(product, (vectors, mask), incoming)
    torch.testing.assert_close(product, expected)
    torch.testing.assert_close(found, wanted)


def test_each_gradient_can_be_had_alone(
    graph: MaskableGraph, mask: torch.Tensor, vectors: torch.Tensor
) -> None:
    both = torch.autograd.grad(
        masked_product(graph, vectors, mask).square().sum(), (vectors, mask)
    )
    of_vectors = masked_product(graph, vectors, mask.detach()).square().sum()
    of_mask = masked_product(graph, vectors.detach(), mask).square().sum()
    torch.testing.assert_close(torch.autograd.grad(of_vectors, vectors)[0], both[0])
    torch.testing.assert_close(torch.autograd.grad(of_mask, mask)[0], both[1])


def test_copies_share_the_graph(graph: MaskableGraph) -> None:
    assert copy.deepcopy(graph) is graph
