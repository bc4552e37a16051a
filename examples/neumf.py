"""NeuMF, denoised, in a loop of one's own: ``python -m examples.neumf``.

Pointwise: observed pairs and four sampled negatives each, with labels and binary cross-entropy.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from bench.data.load import load_data
from bench.models.neumf import NeuMF, bce_loss
from bench.training.batches import LabelledBatches
from bench.training.fit import rankings
from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser


def main(arguments: list[str] | None = None) -> None:
    """Trains, and prints each epoch and what came of it."""
    parser = argparse.ArgumentParser(prog="python -m examples.neumf", description=__doc__)
    parser.add_argument("--data", default="generated", metavar="PATH", help="as the quickstart's")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--plain", action="store_true", help="the same without denoising")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data = load_data(options.data)
    print(data.describe())

    torch.manual_seed(0)
    model = NeuMF(data.n_users, data.n_items)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    batches = LabelledBatches(
        data.train_users, data.train_items, data.n_items,
        negatives_per_positive=4, batch_size=1024, generator=np.random.default_rng(0),
    )  # fmt: skip
    denoiser = SelfGuidedDenoiser(
        model, optimizer, bce_loss,
        interactions=(data.train_users, data.train_items), n_items=data.n_items,
        config=DenoiserConfig(history_length=10),  # NeuMF is done within few epochs
        enabled=not options.plain,
    )  # fmt: skip
    validation, test = rankings(data)
    for epoch in range(1, options.epochs + 1):
        for batch in batches:
            denoiser.before_step(batch)
            denoiser.step(batch)
        denoiser.end_epoch()
        found = validation.of_model(model)
        print(f"epoch {epoch}: {denoiser.phase.value}, validation NDCG@20 {found['ndcg@20']:.4f}")
    print("test: " + ", ".join(f"{k} {v:.4f}" for k, v in test.of_model(model).items()))
    if not options.plain:
        print(f"switch after epoch {denoiser.memorization_point}, noise share (low, high) "
              f"{denoiser.noise_share}")


if __name__ == "__main__":
    main()
