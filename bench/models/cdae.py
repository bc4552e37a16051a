"""CDAE: an autoencoder of each user's corrupted interactions, with a node for the user.

Source: Wu et al., Collaborative Denoising Auto-Encoders for Top-N Recommender Systems, WSDM 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LabelledPairs = tuple[Tensor, Tensor, Tensor]


class CDAE(nn.Module):
    """CDAE: logit(u, i) = w'_i · z_u + b'_i, with z_u = sigmoid(Σ_{j ∈ ỹ_u} w_j + v_u + b).

    ỹ_u is the corrupted row of u: in training each of u's train items is left out with
    probability q, and the sum over the others is scaled by 1/(1-q) (Wu et al. 2016, Eqs. 6, 9 and
    10); in evaluation it is the whole row. The loss is on pairs, so the model keeps the rows
    itself, as one flat list of items, and encodes each distinct user of a call once: all pairs of
    a user in a batch see the same corruption. Weights start by Xavier, biases at 0.

    Args:
        n_users, n_items: number of ids; ids run from 0.
        train_users, train_items: the interactions that make the rows, (N,) int64 each; a pair
            given twice counts once.
        hidden_dim: width d of the hidden layer.
        dropout: q, the probability of leaving out an item of a row, in [0, 1).
    """

    row_starts: Tensor
    row_items: Tensor

    def __init__(
        self,
        n_users: int,
        n_items: int,
        train_users: Tensor,
        train_items: Tensor,
        *,
        hidden_dim: int = 100,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(
                f"Expected dropout in [0, 1), got {dropout}. Choose a probability such as 0.5."
            )
        self.n_items = n_items
        self.dropout = dropout
        self.input_items = nn.Embedding(n_items, hidden_dim)
        self.user_nodes = nn.Embedding(n_users, hidden_dim)
        self.output_items = nn.Embedding(n_items, hidden_dim)
        for table in (self.input_items, self.user_nodes, self.output_items):
            nn.init.xavier_uniform_(table.weight)
        self.hidden_bias = nn.Parameter(torch.zeros(hidden_dim))
        self.output_bias = nn.Parameter(torch.zeros(n_items))
        # rows [[4, 7], [], [2]] -> row_starts [0, 2, 2, 3], row_items [4, 7, 2]
        pairs = torch.unique(train_users * n_items + train_items)
        ends = torch.bincount(pairs // n_items, minlength=n_users).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends])
        self.register_buffer("row_starts", starts, persistent=False)
        self.register_buffer("row_items", pairs % n_items, persistent=False)

    def encode(self, users: Tensor) -> Tensor:
        """Hidden layers z_u of the users, corrupted while training, (U, d).

        Draws one number per item of the rows from torch's global stream while training.
        """
        rows, items = self._rows(users)
        scale = 1.0
        if self.training and self.dropout > 0:
            kept = torch.rand(len(items), device=items.device) >= self.dropout
            rows, items = rows[kept], items[kept]
            scale = 1 / (1 - self.dropout)
        vectors = self.input_items(items)
        # Not EmbeddingBag, which sums without (nnz, d) in memory: it has no second derivative.
        summed = vectors.new_zeros(len(users), vectors.shape[1]).index_add(0, rows, vectors)
        hidden: Tensor = scale * summed + self.user_nodes(users) + self.hidden_bias
        return hidden.sigmoid()

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits of the pairs (users[k], items[k]), (B,)."""
        distinct, places = torch.unique(users, return_inverse=True)
        hidden = F.embedding(places, self.encode(distinct))
        logits: Tensor = (hidden * self.output_items(items)).sum(dim=1) + self.output_bias[items]
        return logits

    def score_all_items(self, users: Tensor) -> Tensor:
        """Logits of every item for each of the users, (U, n_items)."""
        return self.encode(users) @ self.output_items.weight.T + self.output_bias

    def _rows(self, users: Tensor) -> tuple[Tensor, Tensor]:
        # users [0, 2] of the rows above -> rows [0, 0, 1], items [4, 7, 2]
        starts = self.row_starts[users]
        counts = self.row_starts[users + 1] - starts
        rows = torch.repeat_interleave(counts)
        before = counts.cumsum(0) - counts
        places = torch.arange(len(rows), device=rows.device) - before[rows] + starts[rows]
        return rows, self.row_items[places]


def pair_l2(model: CDAE, batch: LabelledPairs) -> Tensor:
    """The L2 term of CDAE on what the batch's pairs touch besides the rows, a scalar.

    1/(2B) Σ_k ( |v_u|² + |w'_i|² + b'_i² ), still to be multiplied with its coefficient.

    Source: Wu et al. 2016, Eq. 8, per batch instead of over all parameters.
    """
    users, items, _ = batch
    # Each row once, times how often it occurs: a batch of whole users names few of them.
    distinct_users, of_users = torch.unique(users, return_counts=True)
    distinct_items, of_items = torch.unique(items, return_counts=True)
    user_squares = model.user_nodes(distinct_users).square().sum(dim=1)
    item_squares = model.output_items(distinct_items).square().sum(dim=1)
    item_squares = item_squares + model.output_bias[distinct_items].square()
    total: Tensor = (of_users * user_squares).sum() + (of_items * item_squares).sum()
    return total / (2 * len(users))
