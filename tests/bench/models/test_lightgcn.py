from __future__ import annotations

import copy
import pickle

import pytest
import torch

from bench.models.lightgcn import LightGCN, bpr_loss, ego_l2, normalised_adjacency
from bench.models.symmetric_product import SymmetricMatrix, symmetric_product

N_USERS, N_ITEMS = 7, 9


def graph(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    users = torch.randint(N_USERS, (30,), generator=generator)
    items = torch.randint(N_ITEMS, (30,), generator=generator)
    return users, items


def model(n_layers: int = 3) -> LightGCN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LightGCN(N_USERS, N_ITEMS, *graph(), embedding_dim=4, n_layers=n_layers)


def dense_adjacency() -> torch.Tensor:
    users, items = graph()
    adjacency = torch.zeros(N_USERS + N_ITEMS, N_USERS + N_ITEMS, dtype=torch.float64)
    for user, item in zip(users.tolist(), items.tolist(), strict=True):
        adjacency[user, N_USERS + item] = adjacency[N_USERS + item, user] = 1
    degrees = adjacency.sum(dim=1).clamp(min=1)
    return adjacency / (degrees[:, None] * degrees[None, :]).sqrt()


def random_matrix() -> SymmetricMatrix:
    return normalised_adjacency(*graph(), N_USERS, N_ITEMS)


def random_vectors(width: int = 3, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (N_USERS + N_ITEMS, width)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


# The two precisions go through different kernels.
both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def test_adjacency_equals_a_dense_reference_with_repeated_pairs_counted_once() -> None:
    torch.testing.assert_close(random_matrix().to_dense(), dense_adjacency())


@both_precisions
def test_product_equals_the_dense_product_and_its_gradient_too(dtype: torch.dtype) -> None:
    vectors, dense = random_vectors(dtype=dtype), dense_adjacency().to(dtype)
    incoming = torch.arange(vectors.numel(), dtype=dtype).view_as(vectors)
    product = symmetric_product(random_matrix(), vectors)
    product.backward(incoming)
    torch.testing.assert_close(product, dense @ vectors)
    torch.testing.assert_close(vectors.grad, dense.T @ incoming)


def test_product_of_an_isolated_node_is_zero() -> None:
    matrix = normalised_adjacency(torch.tensor([1]), torch.tensor([0]), 3, 2)
    product = symmetric_product(matrix, torch.ones(5, 2))
    assert product[:, 0].tolist() == [0, 1, 0, 1, 0]


def test_product_passes_gradcheck_once_and_twice() -> None:
    matrix = random_matrix()

    def cubed(vectors: torch.Tensor) -> torch.Tensor:
        return symmetric_product(matrix, vectors).pow(3)

    assert torch.autograd.gradcheck(cubed, random_vectors(2))
    assert torch.autograd.gradgradcheck(cubed, random_vectors(2))


# torch itself still calls torch.jit.script there, and warns of another kind from 2.14 on.
@pytest.mark.filterwarnings("ignore:`torch.jit.script")
@both_precisions
def test_product_works_under_functional_transforms(dtype: torch.dtype) -> None:
    matrix, dense = random_matrix(), dense_adjacency().to(dtype)
    vectors = random_vectors(dtype=dtype).detach()
    _, tangent = torch.func.jvp(lambda x: symmetric_product(matrix, x), (vectors,), (vectors,))
    torch.testing.assert_close(tangent, dense @ vectors)
    gradient = torch.func.grad(lambda x: symmetric_product(matrix, x).square().sum())(vectors)
    torch.testing.assert_close(gradient, 2 * dense @ dense @ vectors)


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_propagation_equals_the_mean_of_dense_powers(n_layers: int) -> None:
    lightgcn = model(n_layers).double()
    start = torch.cat([lightgcn.user_embedding.weight, lightgcn.item_embedding.weight])
    powers = [torch.linalg.matrix_power(dense_adjacency(), n) @ start for n in range(n_layers + 1)]
    torch.testing.assert_close(torch.cat(lightgcn.propagate()), torch.stack(powers).mean(dim=0))


def test_scores_of_pairs_are_entries_of_the_scores_of_all_items() -> None:
    lightgcn = model()
    users, items = torch.tensor([0, 3, 6]), torch.tensor([8, 0, 4])
    matrix = lightgcn.score_all_items(torch.arange(N_USERS))
    assert matrix.shape == (N_USERS, N_ITEMS)
    torch.testing.assert_close(lightgcn(users, items), matrix[users, items])


def test_bpr_loss_is_unreduced_and_equals_its_formula() -> None:
    lightgcn = model()
    users, positives, negatives = torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([4, 5])
    difference = lightgcn(users, positives) - lightgcn(users, negatives)
    losses = bpr_loss(lightgcn, (users, positives, negatives))
    assert losses.shape == (2,)
    torch.testing.assert_close(losses, -difference.sigmoid().log())


def test_bpr_loss_propagates_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    propagate = LightGCN.propagate
    monkeypatch.setattr(LightGCN, "propagate", lambda self: calls.append(1) or propagate(self))
    bpr_loss(model(), (torch.tensor([0]), torch.tensor([1]), torch.tensor([2])))
    assert len(calls) == 1


def test_ego_l2_is_half_the_mean_squared_norm_of_the_rows_of_a_batch() -> None:
    lightgcn = model()
    batch = (torch.tensor([0, 0]), torch.tensor([2, 3]), torch.tensor([4, 2]))
    users, items = lightgcn.user_embedding.weight, lightgcn.item_embedding.weight
    rows = torch.stack([users[0], items[2], items[4], users[0], items[3], items[2]])
    torch.testing.assert_close(ego_l2(lightgcn, batch), 0.5 * rows.square().sum() / 2)


def test_deep_copy_has_parameters_of_its_own_and_scores_the_same() -> None:
    lightgcn = model()
    twin = copy.deepcopy(lightgcn)
    users = torch.arange(N_USERS)
    before = lightgcn.score_all_items(users)
    torch.testing.assert_close(twin.score_all_items(users), before, rtol=0, atol=0)
    with torch.no_grad():
        twin.user_embedding.weight.zero_()
    torch.testing.assert_close(lightgcn.score_all_items(users), before, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:You are using `torch.load`:FutureWarning")  # of torch 2.4
def test_pickled_model_scores_the_same() -> None:
    lightgcn = model()
    users = torch.arange(N_USERS)
    before = lightgcn.score_all_items(users)
    again = pickle.loads(pickle.dumps(lightgcn)).score_all_items(users)
    torch.testing.assert_close(again, before, rtol=0, atol=0)


def test_changed_parameters_change_the_scores_at_once() -> None:
    lightgcn = model()
    users = torch.arange(N_USERS)
    before = lightgcn.score_all_items(users)
    with torch.no_grad():
        lightgcn.item_embedding.weight.mul_(2)
        lightgcn.user_embedding.weight.mul_(2)
    torch.testing.assert_close(lightgcn.score_all_items(users), 4 * before)
