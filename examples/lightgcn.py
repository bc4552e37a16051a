"""LightGCN, denoised, in a loop of one's own: ``python examples/lightgcn.py``, `--plain` without.

Pairwise: triples of user, observed item and random item, the BPR loss, and the model's own
L2 term, which `step` adds unweighted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import SelfGuidedDenoiser
from sgdl_wrap.testing import Clicks, planted_clicks

L2 = 1e-4
Batch = tuple[Tensor, Tensor, Tensor]


class LightGCN(nn.Module):
    """score(u, i) = e_u · e_i, with e = (E + A E + A² E + A³ E) / 4 (He et al., SIGIR 2020).

    A is the adjacency of users and items by the training clicks, divided by the roots of both
    degrees.
    """

    def __init__(self, users: Tensor, items: Tensor, n_users: int, n_items: int) -> None:
        super().__init__()
        self.n_users = n_users
        self.nodes = nn.Embedding(n_users + n_items, 64)
        nn.init.xavier_uniform_(self.nodes.weight)
        clicks = torch.stack([users, n_users + items])
        edges = torch.cat([clicks, clicks.flip(0)], dim=1)  # both ways
        degree = torch.bincount(edges[0], minlength=n_users + n_items).float()
        values = (degree[edges[0]] * degree[edges[1]]).rsqrt()
        size = (n_users + n_items,) * 2
        graph = torch.sparse_coo_tensor(edges, values, size, check_invariants=True).coalesce()
        self.register_buffer("graph", graph)

    def propagate(self) -> Tensor:
        """Vectors of all users, then of all items, (n_users + n_items, 64)."""
        layers = [self.nodes.weight]
        for _ in range(3):
            layers.append(self.graph @ layers[-1])
        return torch.stack(layers).mean(dim=0)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of pairs, (B,)."""
        vectors = self.propagate()
        return (vectors[users] * vectors[self.n_users + items]).sum(dim=1)


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    """The BPR loss of each triple, (B,); both items in one call, so that it propagates once."""
    users, positives, negatives = batch
    scores = model(torch.cat([users, users]), torch.cat([positives, negatives]))
    positive, negative = scores.chunk(2)
    return F.softplus(negative - positive)


def penalty(model: LightGCN, batch: Batch) -> Tensor:
    """The L2 term on the vectors that the batch starts from, a scalar."""
    users, positives, negatives = batch
    rows = model.nodes(torch.cat([users, model.n_users + torch.cat([positives, negatives])]))
    return L2 * rows.square().sum() / (2 * len(users))


def batches(clicks: Clicks) -> Iterator[Batch]:
    """An epoch: each click, with one random item."""
    for rows in torch.randperm(len(clicks.users)).split(512):
        negatives = torch.randint(clicks.n_items, rows.shape)
        yield clicks.users[rows], clicks.items[rows], negatives


@torch.no_grad()
def all_scores(model: LightGCN) -> Tensor:
    """Scores of every item for every user, (n_users, n_items)."""
    vectors = model.propagate()
    return vectors[: model.n_users] @ vectors[model.n_users :].T


def main(arguments: list[str] | None = None) -> None:
    """Trains, and prints each epoch and what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--plain", action="store_true", help="the same without denoising")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    clicks = planted_clicks()

    torch.manual_seed(0)
    model = LightGCN(clicks.users, clicks.items, clicks.n_users, clicks.n_items)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    denoiser = SelfGuidedDenoiser(
        model, optimizer, loss_fn,
        interactions=(clicks.users, clicks.items), n_items=clicks.n_items,
        enabled=not options.plain,
    )  # fmt: skip
    for epoch in range(1, options.epochs + 1):
        for batch in batches(clicks):
            denoiser.before_step(batch)
            denoiser.step(batch, penalty=penalty(model, batch))
        denoiser.end_epoch()
        found = clicks.ndcg(all_scores(model))
        print(f"epoch {epoch}: {denoiser.phase.value}, NDCG@20 {found:.4f}", flush=True)
    if not options.plain:
        print(f"switch after epoch {denoiser.memorization_point}, noise share "
              f"(low, high) {denoiser.noise_share}, in truth {clicks.is_noise.float().mean():.2f}")


if __name__ == "__main__":
    main()
