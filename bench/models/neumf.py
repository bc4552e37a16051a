"""NeuMF: matrix factorisation and a multilayer perceptron, fused in the last layer.

Source: He et al., Neural Collaborative Filtering, WWW 2017.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LabelledPairs = tuple[Tensor, Tensor, Tensor]
_USERS_AT_ONCE = 16  # times n_items hidden vectors of 32: 3 MB for 1,683 items


class NeuMF(nn.Module):
    """NeuMF: logit(u, i) = h · [ p_u * q_i ; MLP(p'_u, q'_i) ] (He et al. 2017, Eq. 12).

    The two towers have embeddings of their own. Weights start by Xavier, as in Sec. 4.1.4 of the
    SGDL paper, biases at 0.

    Args:
        n_users, n_items: number of ids; ids run from 0.
        embedding_dim: width d of each embedding; the perceptron narrows 2d -> d -> d/2 -> d/4.
        n_layers: number of layers of the perceptron.
        dropout: probability of dropping a hidden unit of the perceptron.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        *,
        embedding_dim: int = 32,
        n_layers: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_items = n_items
        self.gmf_user = nn.Embedding(n_users, embedding_dim)
        self.gmf_item = nn.Embedding(n_items, embedding_dim)
        self.mlp_user = nn.Embedding(n_users, embedding_dim)
        self.mlp_item = nn.Embedding(n_items, embedding_dim)
        # embedding_dim 32, n_layers 3 -> widths [64, 32, 16, 8]
        widths = [2 * embedding_dim // 2**depth for depth in range(n_layers + 1)]
        layers: list[nn.Module] = []
        for width, next_width in pairwise(widths):
            layers += [nn.Linear(width, next_width), nn.ReLU(), nn.Dropout(dropout)]
        self.mlp = nn.Sequential(*layers)
        self.output = nn.Linear(embedding_dim + widths[-1], 1)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits of the pairs (users[k], items[k]), (B,)."""
        gmf = self.gmf_user(users) * self.gmf_item(items)
        mlp = self.mlp(torch.cat([self.mlp_user(users), self.mlp_item(items)], dim=1))
        logits: Tensor = self.output(torch.cat([gmf, mlp], dim=1))
        return logits.squeeze(1)

    def score_all_items(self, users: Tensor) -> Tensor:
        """Logits of every item for each of the users, (U, n_items).

        The same as `forward` over all pairs, at a tenth of its cost: the first layer is linear in
        [p'_u, q'_i], so each user and each item passes it once, and a few users at a time keep
        the hidden layers in the processor's cache.
        """
        first, *rest = self.mlp
        assert isinstance(first, nn.Linear)
        user_part, item_part = first.weight.chunk(2, dim=1)
        item_hidden = F.linear(self.mlp_item.weight, item_part, first.bias)
        gmf_weight = self.output.weight[0, : self.gmf_item.embedding_dim]
        mlp_weight = self.output.weight[0, self.gmf_item.embedding_dim :]
        logits = []
        for few in torch.split(users, _USERS_AT_ONCE):
            hidden = F.linear(self.mlp_user(few), user_part)[:, None] + item_hidden
            for layer in rest:
                hidden = layer(hidden)
            gmf = (self.gmf_user(few) * gmf_weight) @ self.gmf_item.weight.T
            logits.append(gmf + hidden @ mlp_weight + self.output.bias)
        return torch.cat(logits)


def bce_loss(model: nn.Module, batch: LabelledPairs) -> Tensor:
    """Binary cross-entropy of each labelled pair, unreduced.

    L_k = -y_k ln sigmoid(x_k) - (1 - y_k) ln(1 - sigmoid(x_k)), x_k the logit, shape (B,).

    Args:
        model: any module with ``model(users, items) -> logits``.
        batch: users and items, (B,) int64 each, and labels, (B,) float, 1 observed, 0 not.

    Source: He et al. 2017, Eq. 7.
    """
    users, items, labels = batch
    return F.binary_cross_entropy_with_logits(model(users, items), labels, reduction="none")
