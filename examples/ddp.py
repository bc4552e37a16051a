"""Trains matrix factorisation on several processes, denoised, on clicks whose noise is known.

    torchrun --nproc-per-node 2 examples/ddp.py

The loop is that of any DistributedDataParallel training. Every process hands the denoiser all
train pairs, and gets its part of them from a DistributedSampler, another one each epoch. Started
without torchrun, it trains on one process.
"""

from __future__ import annotations

import argparse
import gc
import os

import torch
import torch.distributed as dist
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser
from sgdl_wrap.testing import Clicks, planted_clicks

BATCH_SIZE = 512  # of all processes together


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
    """Trains, and prints on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--history-length", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of batches and negatives")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    train(options.epochs, DenoiserConfig(history_length=options.history_length), options.seed)
    if dist.is_initialized():
        gc.collect()  # torch's wrapper refers to itself, and must not outlive the group
        dist.barrier()  # no process leaves while others still talk
        dist.destroy_process_group()


def train(epochs: int, config: DenoiserConfig, seed: int) -> None:
    """One denoised training run."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clicks = planted_clicks()
    users, items = clicks.users, clicks.items
    torch.manual_seed(0)  # the same model everywhere
    recommender = MatrixFactorization(clicks.n_users, clicks.n_items).to(device)
    model: nn.Module = recommender
    if dist.is_initialized():
        model = DistributedDataParallel(recommender)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    pairs = TensorDataset(users, items)
    sampler: DistributedSampler[tuple[Tensor, ...]]
    sampler = DistributedSampler(pairs, size, rank, seed=seed)
    loader = DataLoader(pairs, BATCH_SIZE // size, sampler=sampler)
    torch.manual_seed(seed + rank)  # other negatives everywhere

    denoiser = SelfGuidedDenoiser(
        model, optimizer, bpr, interactions=(users, items), n_items=clicks.n_items, config=config
    )
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for rows in loader:
            negatives = torch.randint(clicks.n_items, rows[0].shape)
            batch = tuple(column.to(device) for column in (*rows, negatives))
            denoiser.before_step(batch)
            denoiser.step(batch)
        record = denoiser.end_epoch()  # on every process
        if rank == 0 and record is not None:
            print(
                f"epoch {record.epoch}: {record.phase.value}, {record.memorized_ratio:.3f} "
                f"memorized, noise rate {record.noise_rate:.3f}, loss {record.loss:.4f}",
                flush=True,
            )
    if rank == 0:
        report(recommender, denoiser, clicks)


def report(recommender: MatrixFactorization, denoiser: SelfGuidedDenoiser, clicks: Clicks) -> None:
    """What came of it; one process asks, the others need not."""
    device = next(recommender.parameters()).device
    print(f"NDCG@20 {clicks.ndcg(recommender.user.weight @ recommender.item.weight.T):.4f}")
    negatives = torch.randint(clicks.n_items, clicks.items.shape)
    batch = tuple(column.to(device) for column in (clicks.users, clicks.items, negatives))
    weights = denoiser.sample_weights(batch).cpu()
    print(f"memorization point: {denoiser.memorization_point}")
    print(f"weights tell clean from noise with AUC {roc_auc_score(~clicks.is_noise, weights):.3f}")


if __name__ == "__main__":
    main()
