"""Accelerate: prepare, accumulate, backward and checkpoints, denoised, on clicks of known noise.

    python -m examples.accelerate_example
    accelerate launch --cpu --num_processes 2 -m examples.accelerate_example

Half-way everything is saved, thrown away and loaded again. Needs the extra `accelerate`.
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader, TensorDataset

from bench.data.interaction_data import InteractionData
from bench.data.planted_preferences import generate
from bench.models.lightgcn import bpr_loss
from bench.speed.models import MatrixFactorization
from bench.training.fit import rankings
from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser
from sgdl_wrap.integrations.accelerate import register_denoiser

BATCH_SIZE = 512  # of all processes together


class Training:
    """Everything that a run consists of."""

    def __init__(self, data: InteractionData, config: DenoiserConfig, seed: int) -> None:
        self.accelerator = Accelerator(gradient_accumulation_steps=2)
        set_seed(seed)
        model = MatrixFactorization(data.n_users, data.n_items, embedding_dim=32)
        users, items = torch.from_numpy(data.train_users), torch.from_numpy(data.train_items)
        loader = DataLoader(
            TensorDataset(users, items), BATCH_SIZE // self.accelerator.num_processes, shuffle=True
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(model, optimizer, loader)
        set_seed(seed, device_specific=True)  # other negatives on every process
        self.data = data

        self.denoiser = SelfGuidedDenoiser(  # around what prepare returned
            self.model, self.optimizer, bpr_loss, interactions=(users, items),
            n_items=data.n_items, config=config,
        )  # fmt: skip
        register_denoiser(self.accelerator, self.denoiser)

    def epoch(self) -> None:
        """One pass over the loader."""
        for users, items in self.loader:
            batch = (users, items, torch.randint_like(items, self.data.n_items))
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--history-length", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    data = generate()
    config = DenoiserConfig(history_length=options.history_length)

    with tempfile.TemporaryDirectory() as own:
        training = Training(data, config, options.seed)
        folder = broadcast_object_list([own])[0]  # the main process's
        half = options.epochs // 2
        for _ in range(half):
            training.epoch()
        training.accelerator.save_state(folder)
        training.accelerator.wait_for_everyone()

        training = Training(data, config, options.seed)
        training.accelerator.load_state(folder)
        training.accelerator.wait_for_everyone()
    for _ in range(half, options.epochs):
        training.epoch()
    if training.accelerator.is_main_process:
        report(training)
    training.accelerator.end_training()


def report(training: Training) -> None:
    """What came of it; one process asks, the others need not."""
    data, denoiser = training.data, training.denoiser
    device = training.accelerator.device
    model = training.accelerator.unwrap_model(training.model)
    found = rankings(data)[1](
        lambda users: (model.user(users.to(device)) @ model.item.weight.T).detach().cpu()
    )
    print(", ".join(f"{name} {value:.4f}" for name, value in found.items()))
    users, items = torch.from_numpy(data.train_users), torch.from_numpy(data.train_items)
    batch = tuple(
        column.to(device) for column in (users, items, torch.randint(data.n_items, items.shape))
    )
    weights = denoiser.sample_weights(batch).cpu()
    print(f"memorization point: {denoiser.memorization_point}")
    print(f"weights tell clean from noise with AUC {roc_auc_score(data.train_clean, weights):.3f}")


if __name__ == "__main__":
    main()
