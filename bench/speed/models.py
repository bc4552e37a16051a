"""Two more models for the benchmark: two towers of perceptrons, and plain matrix factorisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TwoTower(nn.Module):
    """score(u, i) = f(p_u) · g(q_i), f and g perceptrons with one hidden layer.

    Args:
        n_users, n_items: number of ids; ids run from 0.
        embedding_dim: width of the embeddings and of the towers' outputs.
        hidden: units of the hidden layers.
    """

    def __init__(
        self, n_users: int, n_items: int, *, embedding_dim: int = 64, hidden: int = 128
    ) -> None:
        super().__init__()
        self.user_embedding = nn.Embedding(n_users, embedding_dim)
        self.item_embedding = nn.Embedding(n_items, embedding_dim)
        self.user_tower = _tower(embedding_dim, hidden)
        self.item_tower = _tower(embedding_dim, hidden)
        for table in (self.user_embedding, self.item_embedding):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of the pairs (users[k], items[k]), (B,)."""
        user_vectors = self.user_tower(self.user_embedding(users))
        item_vectors = self.item_tower(self.item_embedding(items))
        scores: Tensor = (user_vectors * item_vectors).sum(dim=1)
        return scores


def _tower(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


class MatrixFactorization(nn.Module):
    """score(u, i) = p_u · q_i: nothing but tables, so that their size is all that varies.

    Args:
        n_users, n_items: rows of the two tables.
        embedding_dim: width of the embeddings.
        sparse: whether the tables have sparse gradients.
    """

    def __init__(
        self, n_users: int, n_items: int, *, embedding_dim: int = 16, sparse: bool = False
    ) -> None:
        super().__init__()
        self.user = nn.Embedding(n_users, embedding_dim, sparse=sparse)
        self.item = nn.Embedding(n_items, embedding_dim, sparse=sparse)
        with torch.no_grad():
            for table in (self.user, self.item):
                table.weight.mul_(0.1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of the pairs (users[k], items[k]), (B,)."""
        scores: Tensor = (self.user(users) * self.item(items)).sum(dim=1)
        return scores
