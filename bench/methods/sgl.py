"""SGL: two views of the graph with edges dropped at random, whose embeddings are to agree.

Source: Wu et al., Self-supervised Graph Learning for Recommendation, SIGIR 2021: edge dropout
(Sec. 3.1), the InfoNCE loss (Sec. 3.2) and the joint objective (Sec. 3.3), with the published code
where the text is silent.

Departures:

1. The joint objective sums over a batch; here it is a mean, as in all the methods compared. Both
   terms scale alike, so λ1 means the same; the L2 term keeps the scale of the model's own recipe.
2. The paper contrasts every node with every other one; a step contrasts the users and the
   positive items of its batch, with all users, or all items, as the others. So does the code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.data.interaction_data import InteractionData
from bench.methods.method import Epochs, Method
from bench.models.lightgcn import LightGCN, normalised_adjacency
from bench.models.ngcf import NGCF
from bench.models.symmetric_product import SymmetricMatrix, symmetric_product
from bench.training.batches import Batch
from bench.training.fit import Training, plain_epoch
from bench.training.recipes import Recipe

GraphModel = LightGCN | NGCF
Product = Callable[[Tensor], Tensor]


def view(
    data: InteractionData, drop_rate: float, generator: np.random.Generator
) -> SymmetricMatrix:
    """The graph without a random share of its edges, normalised by the degrees that are left.

    Each interaction stays with probability 1 - drop_rate, for both of its directions.

    Source: Wu et al. 2021, Sec. 3.1, edge dropout: (V, M * E) with a mask M of the edges.
    """
    kept = generator.random(len(data.train_users)) >= drop_rate
    users, items = (
        torch.from_numpy(ids[kept]) for ids in (data.train_users, data.train_items)
    )
    return normalised_adjacency(users, items, data.n_users, data.n_items)


def info_nce(first: Tensor, second: Tensor, nodes: Tensor, temperature: float) -> Tensor:
    """-ln( exp(s(z'_n, z''_n)/τ) / Σ_v exp(s(z'_n, z''_v)/τ) ) of each node, (B,); s the cosine.

    Args:
        first, second: z' and z'', the nodes' embeddings in two views, (n, d) each.
        nodes: n, which of them are contrasted with all, (B,) int64; repeated ones cost nothing.

    Source: Wu et al. 2021, Sec. 3.2.
    """
    distinct, places = torch.unique(nodes, return_inverse=True)
    ours, theirs = F.normalize(first, dim=1)[distinct], F.normalize(second, dim=1)
    losses = F.cross_entropy(ours @ theirs.T / temperature, distinct, reduction="none")
    return losses[places]


@contextmanager
def _over(model: GraphModel, graph: Product) -> Iterator[None]:
    own = model.graphs
    model.graphs = [graph] * len(own)
    try:
        yield
    finally:
        model.graphs = own


@dataclass(frozen=True)
class SGL(Method):
    """Trains on the model's own loss plus the contrast of two views, drawn anew each epoch."""

    weight: float = 0.02
    """λ1. Paper: tuned among 0.005 to 1; on data as dense as MovieLens-100K less is better."""
    temperature: float = 0.2
    """τ. Paper: tuned among 0.1 to 1, and 0.2 is its choice."""
    drop_rate: float = 0.1
    """ρ, the share of edges that a view lacks. Paper: tuned among 0 to 0.5."""

    def supports(self, recipe: Recipe) -> bool:
        """Graph models alone."""
        return recipe.graph

    def start(self, training: Training) -> Epochs:
        """Ordinary epochs on the joint loss."""
        generator = np.random.default_rng([training.seed, 2])

        def run_epoch() -> None:
            views = [
                partial(symmetric_product, view(training.data, self.drop_rate, generator))
                for _ in range(2)
            ]
            plain_epoch(
                training.model,
                training.optimizer,
                lambda model, batch: training.recipe.loss_fn(model, batch)
                + self.weight * self.contrast(model, batch, views),
                training.penalty_fn,
                training.batches,
            )

        return Epochs(run_epoch)

    def contrast(self, model: nn.Module, batch: Batch, views: list[Product]) -> Tensor:
        """The InfoNCE loss of each sample's user plus that of its positive item, (B,)."""
        graph_model, (users, positives, _) = cast(GraphModel, model), batch
        embeddings = []
        for graph in views:
            with _over(graph_model, graph):
                embeddings.append(graph_model.propagate())
        (users_1, items_1), (users_2, items_2) = embeddings
        return info_nce(users_1, users_2, users, self.temperature) + info_nce(
            items_1, items_2, positives, self.temperature
        )
