"""A run that is never lost: ``python -m examples.resume``, interrupted and started again.

A checkpoint is saved after each epoch. Start it, kill it, start it again: it goes on with the
epoch it was killed in, and ends with the numbers of a run that nobody disturbed. The batches of an
epoch are drawn from the generator that the checkpoint holds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from bench.data.interaction_data import InteractionData
from bench.data.planted_preferences import generate
from bench.models.lightgcn import bpr_loss
from bench.speed.models import MatrixFactorization
from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser, load_checkpoint, save_checkpoint


def main(arguments: list[str] | None = None) -> None:
    """Trains from where the checkpoint left off, or from the start."""
    parser = argparse.ArgumentParser(prog="python -m examples.resume", description=__doc__)
    parser.add_argument("--checkpoint", default="run.pt", metavar="FILE")
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data = generate()
    random = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = MatrixFactorization(data.n_users, data.n_items, embedding_dim=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    denoiser = SelfGuidedDenoiser(
        model, optimizer, bpr_loss,
        interactions=(data.train_users, data.train_items), n_items=data.n_items,
        config=DenoiserConfig(history_length=6),
    )  # fmt: skip
    parts = {"denoiser": denoiser, "model": model, "optimizer": optimizer, "random": random}
    done = 0
    if Path(options.checkpoint).exists():
        done = load_checkpoint(options.checkpoint, **parts)["epochs"]
        print(f"goes on after epoch {done}")
    for epoch in range(done + 1, options.epochs + 1):
        for batch in triples(data, random):
            denoiser.before_step(batch)
            denoiser.step(batch)
        record = denoiser.end_epoch()
        save_checkpoint(options.checkpoint, **parts, epochs=epoch)
        if record is not None:
            print(f"epoch {epoch}: {record.phase.value}, loss {record.loss:.6f}", flush=True)


def triples(data: InteractionData, random: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
    """An epoch's batches: users, observed items, random ones."""
    users, items = torch.from_numpy(data.train_users), torch.from_numpy(data.train_items)
    for rows in torch.randperm(len(users), generator=random).split(512):
        negatives = torch.randint(data.n_items, rows.shape, generator=random)
        yield users[rows], items[rows], negatives


if __name__ == "__main__":
    main()
