"""How much the scheduler's two gradient factors tell: ``python -m bench.study.similarity_spread``.

Trains LightGCN for some epochs in float64 and prints, for several assumed learning rates, the
spread of the paper's cosine (Eq. 10) and of the alignment that this library takes instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from bench.data.folder_reader import read_folder
from bench.data.planted_preferences import generate
from bench.training.fit import plain_epoch
from bench.training.recipes import LIGHTGCN
from sgdl_wrap.model.gradients import (
    assumed_update,
    gradient_cosines,
    gradient_products,
    vector_jacobian,
)
from sgdl_wrap.model.twin import Lookahead


def main() -> None:
    """Reads the arguments, trains, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder with train.tsv, valid.tsv, test.tsv")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--samples", type=int, default=64)
    arguments = parser.parse_args()
    data = read_folder(Path(arguments.data)) if arguments.data else generate(seed=0)

    torch.manual_seed(0)
    model = LIGHTGCN.build(data).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=LIGHTGCN.learning_rate)
    batches = LIGHTGCN.batches(data, LIGHTGCN.batch_size, np.random.default_rng(0))
    for _ in range(arguments.epochs):
        plain_epoch(model, optimizer, LIGHTGCN.loss_fn, None, batches)
    training, held = [batch for _, batch in zip(range(2), batches, strict=False)]
    guidance = tuple(column[: arguments.samples] for column in held)

    lookahead = Lookahead(model, LIGHTGCN.loss_fn)
    theta = lookahead.parameters
    losses = LIGHTGCN.loss_fn(model, training)
    uniform = torch.full_like(losses, 1 / len(losses))
    step = vector_jacobian(losses, theta, uniform, differentiable=False)
    here = LIGHTGCN.loss_fn(model, guidance)
    for lr in (5e-4, 5e-3, 5e-2, 5.0):
        virtual = assumed_update(theta, step, lr)
        there = lookahead.losses(virtual, guidance)
        gap = 1 - gradient_cosines(here, theta, there, virtual)
        print(f"eta_1 {lr:7g}   1 - cosine: median {gap.median():9.1e}  max {gap.max():9.1e}")
    guidance_gradient = torch.autograd.grad(there.mean(), virtual)
    norm = torch.stack([g.square().sum() for g in guidance_gradient]).sum().sqrt()
    ones = torch.ones_like(losses).requires_grad_()
    linked = vector_jacobian(losses, theta, ones, differentiable=True)
    alignment = gradient_products(linked, ones, [g / norm for g in guidance_gradient])
    low, high = alignment.min(), alignment.max()
    print(f"alignment with guidance gradient: {low:.3f} to {high:.3f}, std {alignment.std():.3f}")


if __name__ == "__main__":
    main()
