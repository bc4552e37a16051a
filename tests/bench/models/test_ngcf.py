from __future__ import annotations

import pytest
import torch

from bench.models.lightgcn import bpr_loss
from bench.models.ngcf import NGCF, ngcf_l2
from sgdl_wrap import DenoiserConfig, Phase, SelfGuidedDenoiser

N_USERS, N_ITEMS, WIDTH = 7, 9, 4


def graph() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    users = torch.randint(N_USERS, (30,), generator=generator)
    return users, torch.randint(N_ITEMS, (30,), generator=generator)


def model(
    n_layers: int = 3, message_dropout: float = 0.0, node_dropout: float = 0.0
) -> NGCF:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ngcf = NGCF(
            N_USERS,
            N_ITEMS,
            *graph(),
            embedding_dim=WIDTH,
            n_layers=n_layers,
            message_dropout=message_dropout,
            node_dropout=node_dropout,
        )
    return ngcf.double()


def neighbours() -> list[set[int]]:
    """Of each node, users first."""
    found: list[set[int]] = [set() for _ in range(N_USERS + N_ITEMS)]
    for user, item in zip(*(column.tolist() for column in graph()), strict=True):
        found[user].add(N_USERS + item)
        found[N_USERS + item].add(user)
    return found


def layer_by_messages(
    vectors: torch.Tensor, sums: torch.Tensor, products: torch.Tensor
) -> torch.Tensor:
    """One layer, message by message: Eqs. 3 to 5 of Wang et al. 2019."""
    near = neighbours()
    rows = []
    for node, own in enumerate(vectors):
        total = sums @ own
        for other in near[node]:
            scale = (len(near[node]) * len(near[other])) ** -0.5
            total = total + scale * (sums @ vectors[other] + products @ (vectors[other] * own))
        rows.append(torch.where(total > 0, total, 0.2 * total))
    return torch.stack(rows)


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_propagation_equals_a_slow_reference_message_by_message(n_layers: int) -> None:
    ngcf = model(n_layers)
    layer = torch.cat([ngcf.user_embedding.weight, ngcf.item_embedding.weight])
    parts = [layer]
    for sums, products in zip(ngcf.sums, ngcf.products, strict=True):
        layer = layer_by_messages(layer, sums.weight, products.weight)
        parts.append(layer / layer.norm(dim=1, keepdim=True))
    found = torch.cat(ngcf.propagate())
    assert found.shape == (N_USERS + N_ITEMS, (n_layers + 1) * WIDTH)
    torch.testing.assert_close(found, torch.cat(parts, dim=1))


def test_scores_of_pairs_are_entries_of_the_scores_of_all_items() -> None:
    ngcf = model()
    users, items = torch.tensor([0, 3, 6]), torch.tensor([8, 0, 4])
    matrix = ngcf.score_all_items(torch.arange(N_USERS))
    assert matrix.shape == (N_USERS, N_ITEMS)
    torch.testing.assert_close(ngcf(users, items), matrix[users, items])


def test_message_dropout_zeroes_entries_of_the_layers() -> None:
    ngcf = model(n_layers=1, message_dropout=0.5)
    whole = torch.cat(ngcf.eval().propagate())
    ngcf.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = torch.cat(ngcf.propagate())
    assert torch.equal(found[:, :WIDTH], whole[:, :WIDTH])
    dropped = found[:, WIDTH:] == 0
    assert 0.3 < dropped.double().mean() < 0.7
    left = whole[:, WIDTH:] * ~dropped
    lengths = left.norm(dim=1, keepdim=True).clamp_min(1e-30)
    torch.testing.assert_close(found[:, WIDTH:], left / lengths)


def test_rows_that_dropout_has_zeroed_have_a_second_derivative() -> None:
    ngcf = model(n_layers=2, message_dropout=0.9)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        final = torch.cat(ngcf.propagate())
    assert (final[:, WIDTH : 2 * WIDTH] == 0).all(dim=1).any()
    parameters = list(ngcf.parameters())
    gradients = torch.autograd.grad(final.sin().sum(), parameters, create_graph=True)
    total = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
    for second in torch.autograd.grad(total, parameters, allow_unused=True):
        assert second is None or bool(second.isfinite().all())


def test_node_dropout_silences_whole_nodes_towards_their_neighbours() -> None:
    ngcf = model(node_dropout=0.5)
    vectors = torch.ones(200, WIDTH, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sent = ngcf._sent(vectors)
    assert ((sent == 0) | (sent == 2)).all()
    assert torch.equal(sent, sent[:, :1].expand_as(sent))
    assert 0.3 < (sent == 0).double().mean() < 0.7
    assert torch.equal(ngcf.eval()._sent(vectors), vectors)


def test_node_dropout_acts_on_what_neighbours_receive_and_not_on_the_node_itself() -> None:
    ngcf = model(n_layers=1, node_dropout=0.5)
    start = torch.cat([ngcf.user_embedding.weight, ngcf.item_embedding.weight])
    near = neighbours()
    adjacency = torch.zeros(len(near), len(near), dtype=torch.float64)
    for node, others in enumerate(near):
        for other in others:
            adjacency[node, other] = (len(others) * len(near[other])) ** -0.5
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sent = ngcf._sent(start)
        torch.manual_seed(0)
        found = torch.cat(ngcf.propagate())[:, WIDTH:]
    received = adjacency @ sent
    expected = ngcf.sums[0](received + start) + ngcf.products[0](received * start)
    expected = torch.where(expected > 0, expected, 0.2 * expected)
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))


def test_ngcf_l2_takes_the_rows_of_the_batch_and_all_weights() -> None:
    ngcf = model()
    batch = (torch.tensor([0, 0]), torch.tensor([2, 3]), torch.tensor([4, 2]))
    users, items = ngcf.user_embedding.weight, ngcf.item_embedding.weight
    rows = torch.stack([users[0], items[2], items[4], users[0], items[3], items[2]])
    weights = [layer.weight.square().sum() for layer in (*ngcf.sums, *ngcf.products)]
    assert len(weights) == 6
    expected = 0.5 * rows.square().sum() / 2 + 0.5 * sum(weights)
    torch.testing.assert_close(ngcf_l2(ngcf, batch), expected)


def test_denoiser_trains_it_in_both_phases() -> None:
    ngcf = model(message_dropout=0.1, node_dropout=0.1)
    optimizer = torch.optim.Adam(ngcf.parameters(), lr=0.02)
    config = DenoiserConfig(history_length=2, noise_rate=0.5, evidence_weights=False)
    users, positives = torch.stack(graph()).unique(dim=1)
    generator = torch.Generator().manual_seed(1)
    batch = (users, positives, torch.randint(N_ITEMS, users.shape, generator=generator))
    denoiser = SelfGuidedDenoiser(
        ngcf,
        optimizer,
        bpr_loss,
        interactions=(users, positives),
        config=config,
        example_batch=batch,
    )
    phases = []
    for _ in range(30):
        denoiser.before_step(batch)
        denoiser.step(batch)
        denoiser.end_epoch()
        phases.append(denoiser.phase)
    assert phases[0] is Phase.MEMORIZATION
    assert phases[-2:] == [Phase.SELF_GUIDED] * 2
    assert len(denoiser.sample_weights(batch).unique()) > 1
    assert all(bool(parameter.isfinite().all()) for parameter in ngcf.parameters())
