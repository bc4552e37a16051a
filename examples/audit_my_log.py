"""How noisy is my log, and which rows? ``python examples/audit_my_log.py --data ratings.csv``.

Trains a recommender as usual while the denoiser watches, prints the noise share and the most
suspicious clicks, and writes all of them to a CSV file. Without `--data` the clicks are generated,
and it also prints how well the ranking finds the noise among them.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser
from sgdl_wrap.report.audit import Audit
from sgdl_wrap.testing import planted_clicks

COLUMNS = ("suspicion", "loss", "memorization_rate")
Names = NDArray[np.str_]


class MatrixFactorization(nn.Module):
    """score(u, i) = p_u · q_i."""

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


def watch(
    users: Tensor, items: Tensor, n_users: int, n_items: int, epochs: int
) -> SelfGuidedDenoiser:
    """A denoiser that watched a plain training on these clicks."""
    torch.manual_seed(0)
    model = MatrixFactorization(n_users, n_items)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    denoiser = SelfGuidedDenoiser(
        model, optimizer, bpr, interactions=(users, items), n_items=n_items,
        config=DenoiserConfig(audit_only=True),
    )  # fmt: skip
    for _ in range(epochs):
        for rows in torch.randperm(len(users)).split(512):
            batch = (users[rows], items[rows], torch.randint(n_items, rows.shape))
            denoiser.before_step(batch)
            denoiser.step(batch)
        denoiser.end_epoch()
    return denoiser


def read(path: Path) -> tuple[Names, Names, Tensor, Tensor]:
    """Names of users and of items, and the clicks as places in them.

    A line has user and item first, comma or tab apart. A first line with the word "user" in it is
    a header. A pair counts once.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    table = [row for row in csv.reader(lines, delimiter="\t" if "\t" in lines[0] else ",") if row]
    pairs = [(row[0], row[1]) for row in table["user" in lines[0].lower() :]]
    pairs = list(dict.fromkeys(pairs))
    users, items = (np.unique(column, return_inverse=True) for column in zip(*pairs, strict=True))
    return users[0], items[0], torch.from_numpy(users[1]), torch.from_numpy(items[1])


def write(audit: Audit, user_names: Names, item_names: Names, path: str) -> None:
    """All clicks, the most suspicious first, with the names that the log has."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", *COLUMNS])
        for row in audit:
            names = user_names[row["user"]], item_names[row["item"]]
            writer.writerow([*names, *(row[column] for column in COLUMNS)])


def main(arguments: list[str] | None = None) -> None:
    """Audits the log that the command line names and prints what it finds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="user and item in each line (default: generated)"
    )
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--top", type=int, default=10, help="clicks that are printed")
    parser.add_argument("--out", default="audit.csv", metavar="FILE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    clicks = planted_clicks() if options.data is None else None
    if clicks is not None:
        users, items = clicks.users, clicks.items
        user_names = np.arange(clicks.n_users).astype(str)
        item_names = np.arange(clicks.n_items).astype(str)
    else:
        user_names, item_names, users, items = read(options.data)
    print(f"{len(user_names):,} users, {len(item_names):,} items, {len(users):,} clicks")
    denoiser = watch(users, items, len(user_names), len(item_names), options.epochs)
    if denoiser.noise_share is not None:
        low, high = denoiser.noise_share
        print(f"noise share between {low:.2f} and {high:.2f}")

    audit = denoiser.report()  # every click, the most suspicious first
    print("\nuser  item  suspicion  loss  memorization rate")
    for row in audit[: options.top]:
        print(f"{user_names[row['user']]:>4}  {item_names[row['item']]:>4}  "
              f"{row['suspicion']:9.3f}  {row['loss']:4.2f}  {row['memorization_rate']:.2f}")
    if clicks is not None:
        noisy = clicks.noise_of(audit["user"], audit["item"])
        suspicion = np.nan_to_num(audit["suspicion"])  # NaN: nothing is known of the click
        print(f"\nnoise is {noisy.mean():.2f} of all clicks and {noisy[:1000].mean():.2f} of the "
              f"first 1,000; AUC {roc_auc_score(noisy, suspicion):.3f}")
    write(audit, user_names, item_names, options.out)
    print(f"\nAll of them: {options.out}")


if __name__ == "__main__":
    main()
