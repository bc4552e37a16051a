from __future__ import annotations

import torch
from torch import nn

from bench.models.neumf import NeuMF, bce_loss


def model(dropout: float = 0.0) -> NeuMF:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NeuMF(5, 6, dropout=dropout)


def test_forward_gives_one_logit_per_pair() -> None:
    assert model()(torch.tensor([0, 4, 2]), torch.tensor([5, 0, 1])).shape == (3,)


def test_perceptron_has_three_layers_that_halve() -> None:
    widths = [layer.out_features for layer in model().mlp if isinstance(layer, nn.Linear)]
    assert widths == [32, 16, 8]


def test_both_towers_shape_the_logit() -> None:
    neumf = model()
    users, items = torch.tensor([1]), torch.tensor([2])
    before = neumf(users, items)
    for tower in (neumf.gmf_item, neumf.mlp_item):
        with torch.no_grad():
            tower.weight[2] += 1
        after = neumf(users, items)
        assert not torch.equal(after, before)
        before = after


def test_scores_of_all_items_hold_the_logits_of_pairs() -> None:
    neumf = model()
    matrix = neumf.score_all_items(torch.tensor([3, 1]))
    assert matrix.shape == (2, 6)
    torch.testing.assert_close(matrix[1], neumf(torch.full((6,), 1), torch.arange(6)))


def test_scores_of_many_users_are_the_logits_of_all_pairs() -> None:
    neumf = model()
    with torch.no_grad():
        for parameter in neumf.parameters():  # the biases too, which start at zero
            parameter += 0.1
    users = torch.arange(5).repeat(8)  # more than are scored at once, and no multiple of that
    matrix = neumf.score_all_items(users)
    pairs = neumf(users.repeat_interleave(6), torch.arange(6).repeat(len(users)))
    torch.testing.assert_close(matrix, pairs.view(len(users), 6))


def test_bce_loss_is_unreduced_and_equals_its_formula() -> None:
    neumf = model()
    users, items, labels = torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([1.0, 0.0])
    probability = neumf(users, items).sigmoid()
    expected = torch.stack([-probability[0].log(), -(1 - probability[1]).log()])
    losses = bce_loss(neumf, (users, items, labels))
    assert losses.shape == (2,)
    torch.testing.assert_close(losses, expected)


def test_dropout_acts_in_training_and_not_in_evaluation() -> None:
    neumf = model(dropout=0.5)
    users, items = torch.zeros(64, dtype=torch.int64), torch.zeros(64, dtype=torch.int64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert len(neumf(users, items).unique()) > 1
    assert len(neumf.eval()(users, items).unique()) == 1
