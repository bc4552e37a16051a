"""LightGCN, denoised, in a loop of one's own: ``python -m examples.lightgcn``.

Pairwise: triples of user, observed item and sampled negative, the BPR loss, and the model's own
L2 term, which `step` adds unweighted.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from bench.data.load import load_data
from bench.models.lightgcn import LightGCN, bpr_loss, ego_l2
from bench.training.batches import TripleBatches
from bench.training.fit import rankings
from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser

L2 = 1e-4


def main(arguments: list[str] | None = None) -> None:
    """Trains, and prints each epoch and what came of it."""
    parser = argparse.ArgumentParser(prog="python -m examples.lightgcn", description=__doc__)
    parser.add_argument("--data", default="generated", metavar="PATH", help="as the quickstart's")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--plain", action="store_true", help="the same without denoising")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data = load_data(options.data)
    print(data.describe())

    torch.manual_seed(0)
    users, items = torch.from_numpy(data.train_users), torch.from_numpy(data.train_items)
    model = LightGCN(data.n_users, data.n_items, users, items)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batches = TripleBatches(
        data.train_users, data.train_items, data.n_items,
        batch_size=512, generator=np.random.default_rng(0),
    )  # fmt: skip
    denoiser = SelfGuidedDenoiser(
        model, optimizer, bpr_loss, interactions=(users, items), n_items=data.n_items,
        config=DenoiserConfig(history_length=6),  # its best epoch comes before the tenth
        enabled=not options.plain,
    )  # fmt: skip
    validation, test = rankings(data)
    for epoch in range(1, options.epochs + 1):
        for batch in batches:
            denoiser.before_step(batch)
            denoiser.step(batch, penalty=L2 * ego_l2(model, batch))
        denoiser.end_epoch()
        found = validation.of_model(model)
        print(f"epoch {epoch}: {denoiser.phase.value}, validation NDCG@20 {found['ndcg@20']:.4f}")
    print("test: " + ", ".join(f"{k} {v:.4f}" for k, v in test.of_model(model).items()))
    if not options.plain:
        print(f"switch after epoch {denoiser.memorization_point}, noise share (low, high) "
              f"{denoiser.noise_share}")


if __name__ == "__main__":
    main()
