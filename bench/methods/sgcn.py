"""SGCN: graph convolutions whose edges pass a learned stochastic binary mask, one a layer.

Source: Chen et al., Structured Graph Convolutional Networks with Stochastic Masks for Recommender
Systems, SIGIR 2021, Sec. 3: layer l multiplies with A * Z^(l), Z^(l) ~ Bernoulli(σ(Φ^(l))); to
the loss come β times the number of edges that are kept (sparsity) and γ times the nuclear norms of
A * Z^(l) (low rank); Φ is learned together with the embeddings.

Departures:

1. The paper differentiates through the binary masks by the ARM estimator, from two evaluations of
   the loss: unbiased, but every edge is told the same difference of two numbers. Here by a
   straight-through estimator: Z = 1[s > 1/2] in the forward pass, s = σ((Φ + logit u)/τ) in the
   backward pass, u uniform. Z is the same Bernoulli variable; its gradient is each edge's own, and
   biased.
2. The nuclear norm is taken of the expected graph A * σ(Φ), and by its gradient W = U V^T at the
   last refresh, which is every few epochs: <W, A * σ(Φ)> touches it there from below. Where the
   paper approximates the singular value decomposition, this one is exact, of the smaller side.
3. β and γ are per edge: the sparsity term is the mean of σ(Φ) over edges, the nuclear norm is
   divided by its value for the graph without masks.
4. In evaluation each layer multiplies with the expected graph, which for LightGCN, linear as it is,
   gives the mean of its embeddings over masks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import cast

import torch
from torch import Tensor, nn

from bench.data.interaction_data import InteractionData
from bench.methods.method import Epochs, Method
from bench.models.lightgcn import LightGCN
from bench.models.masked_product import MaskableGraph, masked_product
from bench.models.ngcf import NGCF
from bench.training.batches import Batch
from bench.training.fit import Training, plain_epoch
from bench.training.recipes import Recipe

GraphModel = LightGCN | NGCF


class StochasticMask(nn.Module):
    """(A * Z) x with a mask Z drawn at each call while training, (A * σ(Φ)) x in evaluation.

    Draws from torch's global stream, as dropout does.

    Args:
        graph: A and its edges.
        kept_at_first: σ(Φ) of every edge before anything is learned.
        tau: τ of the straight-through gradient.
    """

    def __init__(self, graph: MaskableGraph, *, kept_at_first: float, tau: float) -> None:
        super().__init__()
        self.graph = graph
        self.tau = tau
        logit = torch.logit(torch.tensor(kept_at_first))
        self.logits = nn.Parameter(logit.repeat(len(graph.values)))

    def kept(self) -> Tensor:
        """σ(Φ), the probability that each edge is kept, (E,)."""
        return torch.sigmoid(self.logits)

    def draw(self) -> Tensor:
        """Z, 0 or 1 for each edge, 1 with probability σ(Φ), (E,); its gradient is that of s."""
        noise = torch.logit(torch.rand_like(self.logits), eps=1e-6)
        soft = torch.sigmoid((self.logits + noise) / self.tau)
        hard = (soft > 0.5).to(soft)
        return hard + (soft - soft.detach())

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, d), of vectors (n, d)."""
        mask = self.draw() if self.training else self.kept()
        return masked_product(self.graph, vectors, mask)


def nuclear_norm(
    graph: MaskableGraph, mask: Tensor, n_users: int, n_items: int
) -> tuple[float, Tensor]:
    """|R|_* of the masked user-item matrix R_ui = a_ui m_ui, and its gradient at the edges.

    By the eigenvalues λ of the Gram matrix G of the smaller side: |R|_* = Σ sqrt(λ), and U V^T =
    G^(-1/2) R; directions of λ = 0 have none. The adjacency holds R twice, so has twice the norm.

    Args:
        mask: (E,).

    Returns:
        The norm, and (U V^T)_ui of each edge, (E,) float32.
    """
    matrix = torch.zeros(n_users, n_items)
    matrix[graph.edge_users, graph.edge_items] = (graph.values * mask).detach()
    small = matrix if n_users <= n_items else matrix.T
    values, directions = torch.linalg.eigh(small @ small.T)
    present = values > values[-1] * 1e-6
    roots, directions = values[present].sqrt(), directions[:, present]
    gradient = (directions / roots) @ (directions.T @ small)
    if n_users > n_items:
        gradient = gradient.T
    return float(roots.sum()), gradient[graph.edge_users, graph.edge_items]


@dataclass(frozen=True)
class SGCN(Method):
    """Trains the embeddings and the masks together, on the model's own loss and the two terms."""

    sparsity: float = 0.01
    """β, of the mean probability that an edge is kept."""
    low_rank: float = 0.01
    """γ, of the nuclear norm in units of the unmasked graph's."""
    kept_at_first: float = 0.9
    """Probability that an edge is kept before anything is learned."""
    tau: float = 0.5
    """Temperature of the straight-through gradient."""
    refresh: int = 5
    """Epochs between two decompositions."""

    def supports(self, recipe: Recipe) -> bool:
        """Graph models alone."""
        return recipe.graph

    def changed(self, recipe: Recipe) -> Recipe:
        """The recipe with a mask in each layer of its model, learned by the model's optimizer."""

        def build(data: InteractionData) -> nn.Module:
            model = cast(GraphModel, recipe.build(data))
            users, items = torch.from_numpy(data.train_users), torch.from_numpy(data.train_items)
            graph = MaskableGraph(users, items, data.n_users, data.n_items)
            model.masks = nn.ModuleList(
                StochasticMask(graph, kept_at_first=self.kept_at_first, tau=self.tau)
                for _ in model.graphs
            )
            model.graphs = list(model.masks)
            return model

        return replace(recipe, build=build)

    def start(self, training: Training) -> Epochs:
        """Ordinary epochs on the loss with the two terms."""
        data, epochs = training.data, count()
        masks = [cast(StochasticMask, mask) for mask in cast(nn.ModuleList, training.model.masks)]
        graph = masks[0].graph
        ones = torch.ones_like(graph.values)
        whole, _ = nuclear_norm(graph, ones, data.n_users, data.n_items)
        slopes: list[Tensor] = []

        def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
            terms = [
                self.sparsity * kept.mean() + self.low_rank * (slope * graph.values @ kept) / whole
                for kept, slope in zip((mask.kept() for mask in masks), slopes, strict=True)
            ]
            return training.recipe.loss_fn(model, batch) + torch.stack(terms).sum()

        def run_epoch() -> None:
            if next(epochs) % self.refresh == 0:
                slopes[:] = [
                    nuclear_norm(graph, mask.kept(), data.n_users, data.n_items)[1]
                    for mask in masks
                ]
            plain_epoch(
                training.model, training.optimizer, loss_fn, training.penalty_fn, training.batches
            )

        return Epochs(run_epoch)
