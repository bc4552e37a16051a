"""LightGCN: embeddings smoothed over the graph of interactions, trained with the BPR loss.

Source: He et al., LightGCN: Simplifying and Powering Graph Convolution Network for
Recommendation, SIGIR 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.symmetric_product import SymmetricMatrix, symmetric_product

Triple = tuple[Tensor, Tensor, Tensor]


def normalised_adjacency(
    users: Tensor, items: Tensor, n_users: int, n_items: int
) -> SymmetricMatrix:
    """The symmetrically normalised adjacency of the user-item graph.

    A = D^(-1/2) [[0, R], [R^T, 0]] D^(-1/2), with R_ui = 1 if u interacted with i and D the
    diagonal of node degrees. Users come first, then items. A pair given twice counts once.

    Args:
        users, items: the training interactions, (N,) int64 each.

    Source: He et al. 2020, Eqs. 6 and 7.
    """
    pairs = torch.unique(users * n_items + items)
    rows = pairs // n_items
    columns = pairs % n_items + n_users
    nodes = torch.stack([torch.cat([rows, columns]), torch.cat([columns, rows])])
    degrees = torch.bincount(nodes[0], minlength=n_users + n_items).double()
    values = (degrees[nodes[0]] * degrees[nodes[1]]).rsqrt()
    return SymmetricMatrix(nodes, values, n_users + n_items)


class LightGCN(nn.Module):
    """LightGCN: score(u, i) = e_u · e_i over propagated embeddings.

    Args:
        n_users, n_items: number of ids; ids run from 0.
        train_users, train_items: the interactions that make the graph, (N,) int64 each.
        embedding_dim: width d of the embeddings.
        n_layers: number of propagation layers.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        train_users: Tensor,
        train_items: Tensor,
        *,
        embedding_dim: int = 64,
        n_layers: int = 3,
    ) -> None:
        super().__init__()
        self.n_users = n_users
        self.n_items = n_items
        self.n_layers = n_layers
        self.user_embedding = nn.Embedding(n_users, embedding_dim)
        self.item_embedding = nn.Embedding(n_items, embedding_dim)
        nn.init.xavier_uniform_(self.user_embedding.weight)
        nn.init.xavier_uniform_(self.item_embedding.weight)
        adjacency = normalised_adjacency(train_users, train_items, n_users, n_items)
        # what each layer multiplies with; a method may put another graph into its place
        self.graphs: list[Callable[[Tensor], Tensor]] = [
            partial(symmetric_product, adjacency)
        ] * n_layers

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Final embeddings of users, (n_users, d), and of items, (n_items, d).

        e = 1/(L+1) Σ_l A^l e0, for layers l = 0..L (He et al. 2020, Eqs. 4 and 8).
        """
        layer = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        total = layer
        for depth in range(self.n_layers):
            layer = self.graphs[depth](layer)
            total = total + layer
        mean = total / (self.n_layers + 1)
        return mean[: self.n_users], mean[self.n_users :]

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of the pairs (users[k], items[k]), (B,)."""
        user_vectors, item_vectors = self.propagate()
        return (F.embedding(users, user_vectors) * F.embedding(items, item_vectors)).sum(dim=1)

    def score_all_items(self, users: Tensor) -> Tensor:
        """Scores of every item for each of the users, (U, n_items)."""
        user_vectors, item_vectors = self.propagate()
        return user_vectors[users] @ item_vectors.T


def bpr_loss(model: nn.Module, batch: Triple) -> Tensor:
    """Bayesian personalised ranking loss of each triple, unreduced.

    L_k = -ln sigmoid(score(u_k, i_k) - score(u_k, j_k)), shape (B,).

    Positives and negatives go through the model in one call, so a graph model propagates once.

    Args:
        model: any module with ``model(users, items) -> scores``.
        batch: users u, positives i, negatives j, (B,) int64 each.

    Source: Rendle et al., BPR, UAI 2009; He et al. 2020, Eq. 15 without the penalty.
    """
    users, positives, negatives = batch
    scores = model(torch.cat([users, users]), torch.cat([positives, negatives]))
    positive_scores, negative_scores = scores.chunk(2)
    return F.softplus(negative_scores - positive_scores)


def ego_l2(model: LightGCN, batch: Triple) -> Tensor:
    """The L2 term of LightGCN on the batch's layer-0 embeddings, a scalar.

    1/(2B) Σ_k ( |e_u|² + |e_i|² + |e_j|² ), still to be multiplied with its coefficient.

    Source: He et al. 2020, Eq. 15, per batch as in the authors' code.
    """
    users, positives, negatives = batch
    rows = (
        model.user_embedding(users),
        model.item_embedding(positives),
        model.item_embedding(negatives),
    )
    return sum((row.square().sum() for row in rows), torch.zeros(())) / (2 * len(users))
