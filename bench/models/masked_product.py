"""The product with a symmetric sparse matrix whose entries are masked, differentiable in the mask.

One mask value an edge, for both of its directions, so the masked matrix stays symmetric and its
gradient by the vectors is the masked product of the incoming gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.models.lightgcn import normalised_adjacency


class MaskableGraph:
    """The normalised adjacency of a user-item graph with its edges numbered.

    Args:
        users, items: the interactions, (N,) int64 each; a pair given twice is one edge.
        n_users, n_items: number of ids; ids run from 0.

    Attributes:
        edge_users, edge_items: ends of edge e, (E,) int64 each, sorted by user, then item.
        values: a_e, the adjacency's entry of edge e, (E,) float32.
    """

    def __init__(self, users: Tensor, items: Tensor, n_users: int, n_items: int) -> None:
        csr = normalised_adjacency(users, items, n_users, n_items).csr(
            torch.device("cpu"), torch.float32
        )
        self.starts, self.columns = csr.crow_indices(), csr.col_indices()
        entries = csr.values()
        rows = torch.repeat_interleave(self.starts.diff())
        upper = rows < n_users  # users come first: their rows hold each edge once, in order
        self.edge_users, self.edge_items = rows[upper], self.columns[upper] - n_users
        self.values = entries[upper]
        # the edge of each entry: rows [0 1], columns [2 3 | 2] -> edges 0 1 | 2 | and 0 2 | 1 below
        keys = torch.where(
            upper,
            rows * n_items + self.columns - n_users,
            self.columns * n_items + rows - n_users,
        )
        self.edges = torch.searchsorted(keys[upper], keys)

    def __deepcopy__(self, memo: dict[int, Any]) -> MaskableGraph:
        return self  # never changes

    def times(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """(A * M) x, (n, d); without a graph in the vectors.

        Args:
            vectors: x, (n, d) float32.
            mask: of each edge, (E,) float32.
        """
        return F.embedding_bag(
            self.columns,
            vectors.contiguous(),
            self.starts,
            mode="sum",
            per_sample_weights=(self.values * mask)[self.edges],
            include_last_offset=True,
        )


class _MaskedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, mask: Tensor, graph: MaskableGraph) -> Tensor:
        ctx.save_for_backward(vectors, mask)
        ctx.graph = graph
        return graph.times(vectors, mask)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        vectors, mask = ctx.saved_tensors
        by_vectors = ctx.graph.times(gradient, mask) if ctx.needs_input_grad[0] else None
        by_mask = None
        if ctx.needs_input_grad[1]:
            with torch.enable_grad():
                leaf = mask.detach().requires_grad_()
                # torch 2.4 takes a gradient by the mask only beside one by the vectors
                product = ctx.graph.times(vectors.detach().requires_grad_(), leaf)
                (by_mask,) = torch.autograd.grad(product, leaf, gradient)
        return by_vectors, by_mask, None


def masked_product(graph: MaskableGraph, vectors: Tensor, mask: Tensor) -> Tensor:
    """(A * M) x with M_ui = M_iu the mask of edge (u, i), differentiable once in x and in the mask.

    Args:
        graph: A and its edges.
        vectors: x, (n, d) float32.
        mask: (E,) float32.

    Returns:
        (n, d). Its gradient by the mask of edge (u, i) is a_ui (g_u · x_i + g_i · x_u).
    """
    product: Tensor = _MaskedProduct.apply(vectors, mask, graph)  # type: ignore[no-untyped-call]
    return product
