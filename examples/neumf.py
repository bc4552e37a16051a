"""NeuMF, denoised, in a loop of one's own: ``python examples/neumf.py``, `--plain` without.

Pointwise: observed pairs and four sampled negatives each, with labels and binary cross-entropy.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser
from sgdl_wrap.testing import Clicks, planted_clicks

Batch = tuple[Tensor, Tensor, Tensor]


class NeuMF(nn.Module):
    """logit(u, i) = h · [p_u * q_i ; MLP(p'_u, q'_i)] (He et al., WWW 2017, Eq. 12)."""

    def __init__(self, n_users: int, n_items: int, dim: int = 32) -> None:
        super().__init__()
        self.gmf_user, self.gmf_item = nn.Embedding(n_users, dim), nn.Embedding(n_items, dim)
        self.mlp_user, self.mlp_item = nn.Embedding(n_users, dim), nn.Embedding(n_items, dim)
        self.mlp = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim // 2), nn.ReLU(),
            nn.Linear(dim // 2, dim // 4), nn.ReLU(),
        )  # fmt: skip
        self.output = nn.Linear(dim + dim // 4, 1)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits of pairs, (B,)."""
        gmf = self.gmf_user(users) * self.gmf_item(items)
        mlp = self.mlp(torch.cat([self.mlp_user(users), self.mlp_item(items)], dim=1))
        return self.output(torch.cat([gmf, mlp], dim=1)).squeeze(1)


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    """Binary cross-entropy of each pair, (B,): the denoiser takes the mean."""
    users, items, labels = batch
    return F.binary_cross_entropy_with_logits(model(users, items), labels, reduction="none")


def batches(clicks: Clicks) -> Iterator[Batch]:
    """An epoch: each click with label 1, and four random items for it with label 0."""
    users = clicks.users.repeat(5)
    items = torch.cat([clicks.items, torch.randint(clicks.n_items, (4 * len(clicks.items),))])
    labels = (torch.arange(len(users)) < len(clicks.users)).float()
    for rows in torch.randperm(len(users)).split(1024):
        yield users[rows], items[rows], labels[rows]


@torch.no_grad()
def all_scores(model: NeuMF, clicks: Clicks) -> Tensor:
    """Logits of every item for every user, (n_users, n_items)."""
    items = torch.arange(clicks.n_items)
    rows = [model(torch.full_like(items, user), items) for user in range(clicks.n_users)]
    return torch.stack(rows)


def main(arguments: list[str] | None = None) -> None:
    """Trains, and prints each epoch and what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--plain", action="store_true", help="the same without denoising")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    clicks = planted_clicks()

    torch.manual_seed(0)
    model = NeuMF(clicks.n_users, clicks.n_items)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    denoiser = SelfGuidedDenoiser(
        model, optimizer, loss_fn,
        interactions=(clicks.users, clicks.items), n_items=clicks.n_items,
        config=DenoiserConfig(history_length=10),  # NeuMF is done within few epochs
        enabled=not options.plain,
    )  # fmt: skip
    for epoch in range(1, options.epochs + 1):
        for batch in batches(clicks):
            denoiser.before_step(batch)
            denoiser.step(batch)
        denoiser.end_epoch()
        found = clicks.ndcg(all_scores(model, clicks))
        print(f"epoch {epoch}: {denoiser.phase.value}, NDCG@20 {found:.4f}", flush=True)
    if not options.plain:
        print(f"switch after epoch {denoiser.memorization_point}, noise share "
              f"(low, high) {denoiser.noise_share}, in truth {clicks.is_noise.float().mean():.2f}")


if __name__ == "__main__":
    main()
