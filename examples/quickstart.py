"""Trains a recommender as usual and denoised, side by side: ``python -m examples.quickstart``.

In your own training loop the change is this::

    denoiser = SelfGuidedDenoiser(model, optimizer, loss_fn,               # 1
                                  interactions=(train_users, train_items))
    for epoch in range(epochs):
        for batch in loader:
            denoiser.before_step(batch)                                    # 2
            denoiser.step(batch)  # instead of zero_grad, backward, step   # 3

`loss_fn(model, batch)` returns one loss per sample. This file needs `sgdl_wrap` and nothing else:
copy it and start from there.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser
from sgdl_wrap.testing import Clicks, planted_clicks


class MatrixFactorization(nn.Module):
    """score(u, i) = p_u · q_i: any recommender would do."""

    def __init__(self, n_users: int, n_items: int, dim: int = 32) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(n_users, dim), nn.Embedding(n_items, dim)
        nn.init.normal_(self.user.weight, std=0.1)
        nn.init.normal_(self.item.weight, std=0.1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.user(users) * self.item(items)).sum(dim=-1)


def bpr(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The pairwise loss, one value per sample."""
    users, positives, negatives = batch
    return -F.logsigmoid(model(users, positives) - model(users, negatives))


def train(clicks: Clicks, epochs: int, seed: int, *, denoise: bool) -> SelfGuidedDenoiser:
    """Trains, and prints what the epoch that is best on validation has on the test pairs."""
    held = torch.rand(len(clicks.users), generator=torch.Generator().manual_seed(seed)) < 0.1
    to_train = replace(  # every tenth click, noise among them, is the validation set
        clicks, users=clicks.users[~held], items=clicks.items[~held],
        is_noise=clicks.is_noise[~held],
        test_users=clicks.users[held], test_items=clicks.items[held],
    )  # fmt: skip
    torch.manual_seed(seed)
    model = MatrixFactorization(clicks.n_users, clicks.n_items)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    denoiser = SelfGuidedDenoiser(
        model, optimizer, bpr, interactions=(to_train.users, to_train.items),
        n_items=clicks.n_items, config=DenoiserConfig(seed=seed), enabled=denoise,
    )  # fmt: skip
    best = (-1.0, 0, 0.0)
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(to_train.users)).split(512):
            negatives = torch.randint(clicks.n_items, rows.shape)
            batch = (to_train.users[rows], to_train.items[rows], negatives)
            denoiser.before_step(batch)
            denoiser.step(batch)
        denoiser.end_epoch()
        with torch.no_grad():
            scores = model.user.weight @ model.item.weight.T
        last = clicks.ndcg(scores)
        best = max(best, (to_train.ndcg(scores), epoch, last))
    name = "denoised" if denoise else "plain"
    print(f"{name:<10}{best[2]:>12.4f}{best[1]:>12}{last:>16.4f}", flush=True)
    return denoiser


def findings(denoiser: SelfGuidedDenoiser, clicks: Clicks) -> str:
    """What the denoiser found out; where it is known, beside the truth."""
    lines = [f"switch after epoch {denoiser.memorization_point}"]
    if denoiser.noise_share is not None:
        low, high = denoiser.noise_share
        lines[0] += f"; noise share between {low:.2f} and {high:.2f}"
    if clicks.is_noise.any():
        lines[0] += f", in truth {clicks.is_noise.double().mean():.2f}"
        audit = denoiser.report()  # every click, the most suspicious first
        noisy = clicks.noise_of(audit["user"], audit["item"])
        suspicion = np.nan_to_num(audit["suspicion"])  # NaN: nothing is known of the click
        lines.append(f"suspicion finds the noise with AUC {roc_auc_score(noisy, suspicion):.3f}")
        weights = np.nan_to_num(audit["weight"], nan=1.0)
        lines.append(f"mean weight of clean clicks {weights[~noisy].mean():.2f}, of noise "
                     f"{weights[noisy].mean():.2f}")  # fmt: skip
    return "\n".join(lines)


def read(path: Path, least_clean_rating: float) -> Clicks:
    """Clicks from a file with user, item and, if known, a rating in each line.

    Comma or tab apart; a first line whose rating is no number is a header. A fifth of the clicks
    that are not noise are the test pairs.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    table = [row for row in csv.reader(lines, delimiter="\t" if "\t" in lines[0] else ",") if row]
    ratings = np.full(len(table), np.inf)
    if len(table[0]) > 2:
        if not table[0][2].replace(".", "", 1).isdigit():
            del table[0]
        ratings = np.array([float(row[2]) for row in table])
    names = [np.unique([row[column] for row in table], return_inverse=True) for column in (0, 1)]
    users, items = (torch.from_numpy(ids) for _, ids in names)
    noise = torch.from_numpy(ratings < least_clean_rating)
    test = ~noise & (torch.rand(len(users), generator=torch.Generator().manual_seed(0)) < 0.2)
    return Clicks(
        users[~test], items[~test], noise[~test], users[test], items[test],
        n_users=len(names[0][0]), n_items=len(names[1][0]),
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description="Train as usual and denoised, side by side.")
    parser.add_argument(
        "--data", type=Path, metavar="FILE",
        help="user, item and, if known, rating in each line (default: generated clicks)",
    )  # fmt: skip
    parser.add_argument(
        "--least-clean-rating", type=float, default=3.0, metavar="RATING",
        help="a rating below is noise; training does not see it (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", metavar="FILE", help="draws the run; needs matplotlib")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # more do not help models of this size
    if options.data is None:
        clicks = planted_clicks(seed=options.seed)
    else:
        clicks = read(options.data, options.least_clean_rating)
    print(f"{clicks.n_users:,} users, {clicks.n_items:,} items, {len(clicks.users):,} clicks\n")
    print("             NDCG@20    at epoch    at the end")
    train(clicks, options.epochs, options.seed, denoise=False)
    denoiser = train(clicks, options.epochs, options.seed, denoise=True)
    print(f"\n{findings(denoiser, clicks)}")
    if options.picture:
        from sgdl_wrap.report.pictures import draw_page

        draw_page(denoiser).savefig(options.picture, dpi=150)


if __name__ == "__main__":
    main()
