"""Lightning: a LightningModule as anyone writes it, plain and denoised, on clicks of known noise.

    python examples/lightning_example.py

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
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from sgdl_wrap import DenoiserConfig
from sgdl_wrap.integrations.lightning import SelfGuidedCallback
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


class Recommender(LightningModule):
    """Matrix factorisation with the pairwise loss; nothing in it knows of denoising."""

    def __init__(self, clicks: Clicks) -> None:
        super().__init__()
        self.clicks = clicks
        self.net = MatrixFactorization(clicks.n_users, clicks.n_items)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """The mean loss, as ever."""
        loss = bpr(self.net, batch).mean()
        self.log("loss", loss)
        return loss

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Adds a negative to each pair."""
        users, items = batch
        return users, items, torch.randint_like(items, self.clicks.n_items)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The train pairs in random order."""
        pairs = TensorDataset(self.clicks.users, self.clicks.items)
        return DataLoader(pairs, batch_size=512, shuffle=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.005)


def fit(clicks: Clicks, epochs: int, seed: int, *callbacks: Callback) -> Recommender:
    """One training run; its last checkpoint goes where it is thrown away."""
    seed_everything(seed, verbose=False)
    recommender = Recommender(clicks)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=epochs, callbacks=[*callbacks, ModelCheckpoint(folder)], accelerator="cpu",
            devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        started = time.perf_counter()
        trainer.fit(recommender)
    found = clicks.ndcg(recommender.net.user.weight @ recommender.net.item.weight.T)
    print(f"NDCG@20 {found:.4f}, {time.perf_counter() - started:.0f} s", flush=True)
    return recommender


def main(arguments: list[str] | None = None) -> None:
    """Trains both and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--history-length", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    clicks = planted_clicks()

    print("plain:", end=" ", flush=True)
    fit(clicks, options.epochs, options.seed)

    print("denoised:", end=" ", flush=True)
    guided = SelfGuidedCallback(
        bpr,
        interactions=(clicks.users, clicks.items),
        n_items=clicks.n_items,
        model="net",
        config=DenoiserConfig(history_length=options.history_length),
    )
    fit(clicks, options.epochs, options.seed, guided)
    denoiser = guided.denoiser
    if denoiser is None or denoiser.noise_rate is None:
        return
    negatives = torch.randint(clicks.n_items, clicks.items.shape)
    weights = denoiser.sample_weights((clicks.users, clicks.items, negatives))
    print(f"memorization point: {denoiser.memorization_point}")
    print(f"noise rate {denoiser.noise_rate:.3f}, in truth {clicks.is_noise.float().mean():.3f}")
    print(f"weights tell clean from noise with AUC {roc_auc_score(~clicks.is_noise, weights):.3f}")


if __name__ == "__main__":
    main()
