"""A run that is never lost: ``python examples/resume.py``, interrupted and started again.

A checkpoint is saved after each epoch. Start it, kill it, start it again: it goes on with the
epoch it was killed in, and ends with the numbers of a run that nobody disturbed. The batches of an
epoch are drawn from the generator that the checkpoint holds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser, load_checkpoint, save_checkpoint
from sgdl_wrap.testing import Clicks, planted_clicks


class MatrixFactorization(nn.Module):
    """score(u, i) = p_u · q_i."""

    def __init__(self, n_users: int, n_items: int, dim: int = 32) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(n_users, dim), nn.Embedding(n_items, dim)
        nn.init.normal_(self.user.weight, std=0.1)
        nn.init.normal_(self.item.weight, std=0.1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.user(users) * self.item(items)).sum(dim=-1)


def bpr(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """The pairwise loss, one value per sample."""
    users, positives, negatives = batch
    return -F.logsigmoid(model(users, positives) - model(users, negatives))


def main(arguments: list[str] | None = None) -> None:
    """Trains from where the checkpoint left off, or from the start."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="run.pt", metavar="FILE")
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    clicks = planted_clicks()
    random = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = MatrixFactorization(clicks.n_users, clicks.n_items)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    denoiser = SelfGuidedDenoiser(
        model, optimizer, bpr,
        interactions=(clicks.users, clicks.items), n_items=clicks.n_items,
        config=DenoiserConfig(history_length=6),
    )  # fmt: skip
    parts = {"denoiser": denoiser, "model": model, "optimizer": optimizer, "random": random}
    done = 0
    if Path(options.checkpoint).exists():
        done = load_checkpoint(options.checkpoint, **parts)["epochs"]
        print(f"goes on after epoch {done}")
    for epoch in range(done + 1, options.epochs + 1):
        for batch in triples(clicks, random):
            denoiser.before_step(batch)
            denoiser.step(batch)
        record = denoiser.end_epoch()
        save_checkpoint(options.checkpoint, **parts, epochs=epoch)
        if record is not None:
            print(f"epoch {epoch}: {record.phase.value}, loss {record.loss:.6f}", flush=True)


def triples(clicks: Clicks, random: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
    """An epoch's batches: users, observed items, random ones."""
    for rows in torch.randperm(len(clicks.users), generator=random).split(512):
        negatives = torch.randint(clicks.n_items, rows.shape, generator=random)
        yield clicks.users[rows], clicks.items[rows], negatives


if __name__ == "__main__":
    main()
