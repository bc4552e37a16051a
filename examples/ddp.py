"""Trains matrix factorisation on several processes, denoised, on clicks whose noise is known.

    torchrun --nproc-per-node 2 -m examples.ddp

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
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from bench.data.interaction_data import InteractionData
from bench.data.planted_preferences import generate
from bench.models.lightgcn import bpr_loss
from bench.speed.models import MatrixFactorization
from bench.training.fit import rankings
from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser

BATCH_SIZE = 512  # of all processes together


def main(arguments: list[str] | None = None) -> None:
    """Trains, and prints on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__)
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
    data = generate()
    users, items = torch.from_numpy(data.train_users), torch.from_numpy(data.train_items)
    torch.manual_seed(0)  # the same model everywhere
    recommender = MatrixFactorization(data.n_users, data.n_items, embedding_dim=32).to(device)
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
        model, optimizer, bpr_loss, interactions=(users, items), n_items=data.n_items, config=config
    )
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for rows in loader:
            negatives = torch.randint(data.n_items, rows[0].shape)
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
        report(recommender, denoiser, data)


def report(
    recommender: MatrixFactorization, denoiser: SelfGuidedDenoiser, data: InteractionData
) -> None:
    """What came of it; one process asks, the others need not."""
    device = next(recommender.parameters()).device
    found = rankings(data)[1](
        lambda ids: (recommender.user(ids.to(device)) @ recommender.item.weight.T).cpu()
    )
    print(", ".join(f"{name} {value:.4f}" for name, value in found.items()))
    users, items = torch.from_numpy(data.train_users), torch.from_numpy(data.train_items)
    negatives = torch.randint(data.n_items, items.shape)
    batch = tuple(column.to(device) for column in (users, items, negatives))
    weights = denoiser.sample_weights(batch).cpu()
    print(f"memorization point: {denoiser.memorization_point}")
    print(f"weights tell clean from noise with AUC {roc_auc_score(data.train_clean, weights):.3f}")


if __name__ == "__main__":
    main()
