"""Lightning: a LightningModule as anyone writes it, plain and denoised, on clicks of known noise.

    python -m examples.lightning_example

What the second run has more than the first is one callback. Needs the extra `lightning`.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from bench.data.interaction_data import InteractionData
from bench.data.planted_preferences import generate
from bench.models.lightgcn import bpr_loss
from bench.speed.models import MatrixFactorization
from bench.training.fit import rankings
from sgdl_wrap import DenoiserConfig
from sgdl_wrap.integrations.lightning import SelfGuidedCallback


class Recommender(LightningModule):
    """Matrix factorisation with the pairwise loss; nothing in it knows of denoising."""

    def __init__(self, data: InteractionData) -> None:
        super().__init__()
        self.data = data
        self.net = MatrixFactorization(data.n_users, data.n_items, embedding_dim=32)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """The mean loss, as ever."""
        loss = bpr_loss(self.net, batch).mean()
        self.log("loss", loss)
        return loss

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Adds a negative to each pair."""
        users, items = batch
        return users, items, torch.randint_like(items, self.data.n_items)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The train pairs in random order."""
        pairs = TensorDataset(*train_pairs(self.data))
        return DataLoader(pairs, batch_size=512, shuffle=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.005)


def train_pairs(data: InteractionData) -> tuple[Tensor, Tensor]:
    """The observed training pairs."""
    return torch.from_numpy(data.train_users), torch.from_numpy(data.train_items)


def fit(data: InteractionData, epochs: int, seed: int, *callbacks: Callback) -> Recommender:
    """One training run; its last checkpoint goes where it is thrown away."""
    seed_everything(seed, verbose=False)
    recommender = Recommender(data)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=epochs, callbacks=[*callbacks, ModelCheckpoint(folder)], accelerator="cpu",
            devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        started = time.perf_counter()
        trainer.fit(recommender)
    found = rankings(data)[1](
        lambda users: (recommender.net.user(users) @ recommender.net.item.weight.T).detach()
    )
    scores = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
    print(f"{scores}, {time.perf_counter() - started:.0f} s", flush=True)
    return recommender


def main(arguments: list[str] | None = None) -> None:
    """Trains both and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--history-length", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = generate()

    print("plain:", end=" ", flush=True)
    fit(data, options.epochs, options.seed)

    print("denoised:", end=" ", flush=True)
    guided = SelfGuidedCallback(
        bpr_loss,
        interactions=train_pairs(data),
        n_items=data.n_items,
        model="net",
        config=DenoiserConfig(history_length=options.history_length),
    )
    fit(data, options.epochs, options.seed, guided)
    denoiser = guided.denoiser
    if denoiser is None or denoiser.noise_rate is None:
        return
    users, items = train_pairs(data)
    weights = denoiser.sample_weights((users, items, torch.randint(data.n_items, items.shape)))
    print(f"memorization point: {denoiser.memorization_point}")
    print(f"noise rate {denoiser.noise_rate:.3f}, in truth {data.train_noise_rate:.3f}")
    print(f"weights tell clean from noise with AUC {roc_auc_score(data.train_clean, weights):.3f}")


if __name__ == "__main__":
    main()
