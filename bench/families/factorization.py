"""Matrix factorization, by pairs (BPR) and by points (squared error)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from bench.data.interaction_data import InteractionData
from bench.families.family import Family, Settings, labelled, triples

WIDTH = 64
Batch = tuple[Tensor, Tensor, Tensor]


class Factorization(nn.Module):
    """score(u, i) = <p_u, q_i>."""

    def __init__(self, n_users: int, n_items: int, width: int = WIDTH) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(n_users, width), nn.Embedding(n_items, width)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of pairs, (K,)."""
        return (self.users(users) * self.items(items)).sum(dim=-1)

    def score_all_items(self, users: Tensor) -> Tensor:
        """(U, n_items)."""
        return cast(Tensor, self.users(users) @ self.items.weight.T)


def _build(data: InteractionData) -> nn.Module:
    return Factorization(data.n_users, data.n_items)


def bpr_loss(model: nn.Module, batch: Batch) -> Tensor:
    """-log σ(s_ui - s_uj), (B,). Rendle et al., UAI 2009."""
    users, positives, negatives = batch
    return softplus(model(users, negatives) - model(users, positives))


def squared_loss(model: nn.Module, batch: Batch) -> Tensor:
    """(s_ui - y)², (B,)."""
    users, items, labels = batch
    return cast(Tensor, (model(users, items) - labels).square())


def embedding_l2(model: nn.Module, batch: Batch) -> Tensor:
    """(1/2B) Σ |p|² + |q|² over the batch's users and items."""
    users, *items = batch
    found = model.users(users).square().sum()  # type: ignore[operator]
    for column in items:
        if not column.is_floating_point():  # labels are
            found = found + model.items(column).square().sum()  # type: ignore[operator]
    return cast(Tensor, found / (2 * len(users)))


BPR_MF = Family(
    "bpr-mf", _build, triples, bpr_loss, embedding_l2,
    Settings(0.003, 0.03, 2048, epochs=120, patience=30),
)
POINTWISE_MF = Family(
    "pointwise-mf", _build, labelled, squared_loss, embedding_l2,
    Settings(0.003, 0.01, 4096, epochs=60, patience=15, history_length=10),
)


class FactorizationMachine(nn.Module):
    """Second order: biases, and <p_a, p_b> of each two of user, item and their features.

    Features are the tenth of activity that a user is in, and of popularity that an item is in.
    Rendle, ICDM 2010.
    """

    def __init__(self, data: InteractionData, width: int = 32) -> None:
        super().__init__()
        self.tables, self.biases = nn.ModuleList(), nn.ModuleList()
        for size in (data.n_users, data.n_items, 10, 10):
            table, bias = nn.Embedding(size, width), nn.Embedding(size, 1)
            nn.init.normal_(table.weight, std=0.05)
            nn.init.zeros_(bias.weight)
            self.tables.append(table)
            self.biases.append(bias)
        self.register_buffer("activity", _tenths(data.train_users, data.n_users))
        self.register_buffer("popularity", _tenths(data.train_items, data.n_items))

    def _side(self, ids: Tensor, which: int, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of a side's two vectors, and its bias with the product of the two."""
        a, b = self.tables[which](ids), self.tables[which + 2](feature[ids])
        biases = self.biases[which](ids) + self.biases[which + 2](feature[ids])
        return a + b, biases.squeeze(-1) + (a * b).sum(dim=-1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits of pairs, (K,)."""
        p, alone = self._side(users, 0, cast(Tensor, self.activity))
        q, too = self._side(items, 1, cast(Tensor, self.popularity))
        return (p * q).sum(dim=-1) + alone + too

    def score_all_items(self, users: Tensor) -> Tensor:
        """(U, n_items)."""
        p, alone = self._side(users, 0, cast(Tensor, self.activity))
        items = torch.arange(self.tables[1].num_embeddings)  # type: ignore[arg-type]
        q, too = self._side(items, 1, cast(Tensor, self.popularity))
        return p @ q.T + alone[:, None] + too


def _tenths(ids: object, size: int) -> Tensor:
    counts = torch.bincount(torch.as_tensor(ids), minlength=size)
    return counts.argsort().argsort() * 10 // size


def logistic_loss(model: nn.Module, batch: Batch) -> Tensor:
    """-y log σ(s) - (1 - y) log(1 - σ(s)), (B,)."""
    users, items, labels = batch
    return nn.functional.binary_cross_entropy_with_logits(
        model(users, items), labels, reduction="none"
    )


FM = Family(
    "fm", FactorizationMachine, labelled, logistic_loss, None,
    Settings(0.003, 1e-5, 4096, epochs=60, patience=15, history_length=10),
)
