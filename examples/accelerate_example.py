"""Accelerate: prepare, accumulate, backward and checkpoints, denoised, on clicks of known noise.

    python examples/accelerate_example.py
    accelerate launch --cpu --num_processes 2 examples/accelerate_example.py

Half-way everything is saved, thrown away and loaded again. Needs the extra `accelerate`.
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser
from sgdl_wrap.integrations.accelerate import register_denoiser
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


class Training:
    """Everything that a run consists of."""

    def __init__(self, clicks: Clicks, config: DenoiserConfig, seed: int) -> None:
        self.accelerator = Accelerator(gradient_accumulation_steps=2)
        set_seed(seed)
        model = MatrixFactorization(clicks.n_users, clicks.n_items)
        loader = DataLoader(
            TensorDataset(clicks.users, clicks.items),
            BATCH_SIZE // self.accelerator.num_processes, shuffle=True,
        )  # fmt: skip
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(model, optimizer, loader)
        set_seed(seed, device_specific=True)  # other negatives on every process
        self.clicks = clicks

        self.denoiser = SelfGuidedDenoiser(  # around what prepare returned
            self.model, self.optimizer, bpr, interactions=(clicks.users, clicks.items),
            n_items=clicks.n_items, config=config,
        )  # fmt: skip
        register_denoiser(self.accelerator, self.denoiser)

    def epoch(self) -> None:
        """One pass over the loader."""
        for users, items in self.loader:
            batch = (users, items, torch.randint_like(items, self.clicks.n_items))
            with self.accelerator.accumulate(self.model):
                with self.accelerator.autocast():
                    self.denoiser.before_step(batch)
                    loss = self.denoiser.weighted_loss(batch)
                self.accelerator.backward(loss)
                self.optimizer.step()
                self.optimizer.zero_grad()
        record = self.denoiser.end_epoch()  # on every process
        if record is not None:
            self.accelerator.print(
                f"epoch {record.epoch}: {record.phase.value}, {record.memorized_ratio:.3f} "
                f"memorized, loss {record.loss:.4f}"
            )


def main(arguments: list[str] | None = None) -> None:
    """Trains half, saves, loads into new objects, trains the rest, and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--history-length", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    clicks = planted_clicks()
    config = DenoiserConfig(history_length=options.history_length)

    with tempfile.TemporaryDirectory() as own:
        training = Training(clicks, config, options.seed)
        folder = broadcast_object_list([own])[0]  # the main process's
        half = options.epochs // 2
        for _ in range(half):
            training.epoch()
        training.accelerator.save_state(folder)
        training.accelerator.wait_for_everyone()

        training = Training(clicks, config, options.seed)
        training.accelerator.load_state(folder)
        training.accelerator.wait_for_everyone()
    for _ in range(half, options.epochs):
        training.epoch()
    if training.accelerator.is_main_process:
        report(training)
    training.accelerator.end_training()


def report(training: Training) -> None:
    """What came of it; one process asks, the others need not."""
    clicks, denoiser = training.clicks, training.denoiser
    device = training.accelerator.device
    model = training.accelerator.unwrap_model(training.model)
    print(f"NDCG@20 {clicks.ndcg(model.user.weight @ model.item.weight.T):.4f}")
    negatives = torch.randint(clicks.n_items, clicks.items.shape)
    batch = tuple(column.to(device) for column in (clicks.users, clicks.items, negatives))
    weights = denoiser.sample_weights(batch).cpu()
    print(f"memorization point: {denoiser.memorization_point}")
    print(f"weights tell clean from noise with AUC {roc_auc_score(~clicks.is_noise, weights):.3f}")


if __name__ == "__main__":
    main()
