"""A whole run around a model of one's own, to copy: ``python examples/wrap_your_own.py``.

The model here is a factorization machine over user, item and a feature of each. What depends on
it stands between the lines: the model, the batch, and three functions that say what the denoiser
cannot guess. All else is an ordinary loop and three lines more. The data are generated, with the
noise known, so that the end can say how well it was found.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser
from sgdl_wrap.testing import planted_clicks

# ------------------------------------------------------------------ yours


class FactorizationMachine(nn.Module):
    """b + Σ w_f + Σ_{f<g} <v_f, v_g> over the fields of a sample (Rendle 2010)."""

    def __init__(self, sizes: list[int], dim: int = 32) -> None:
        super().__init__()
        self.register_buffer("first", torch.tensor([0, *sizes[:-1]]).cumsum(0))
        self.vectors = nn.Embedding(sum(sizes), dim)  # no EmbeddingBag: docs/limits.md
        self.linear = nn.Embedding(sum(sizes), 1)
        self.bias = nn.Parameter(torch.zeros(()))
        nn.init.normal_(self.vectors.weight, std=0.1)
        nn.init.zeros_(self.linear.weight)

    def forward(self, fields: Tensor) -> Tensor:
        """Scores of samples, (B,), from their fields, (B, number of fields) int64."""
        rows = fields + self.first
        vectors = self.vectors(rows)
        pairs = vectors.sum(1).square() - vectors.square().sum(1)
        return self.bias + self.linear(rows).sum((1, 2)) + pairs.sum(1) / 2


def loss_fn(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """One loss per sample: the reduction is the denoiser's."""
    return F.binary_cross_entropy_with_logits(
        model(batch["fields"]), batch["clicked"], reduction="none"
    )


def pair_fn(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Which pair each sample is, and whether it was observed."""
    return batch["fields"][:, 0], batch["fields"][:, 1], batch["clicked"] > 0


# ------------------------------------------------------------------ the loop


def main(arguments: list[str] | None = None) -> None:
    """Trains, and prints each epoch and the most suspicious clicks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    clicks = planted_clicks()
    users, items = clicks.users, clicks.items
    age = torch.arange(clicks.n_users) % 5  # features: your tables, by user and by item
    shelf = torch.arange(clicks.n_items) % 12

    def fields(users: Tensor, items: Tensor) -> Tensor:
        return torch.stack([users, items, age[users], shelf[items]], dim=1)

    torch.manual_seed(0)
    model = FactorizationMachine([clicks.n_users, clicks.n_items, 5, 12])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    denoiser = SelfGuidedDenoiser(
        model, optimizer, loss_fn, interactions=(users, items), n_items=clicks.n_items,
        pair_fn=pair_fn,
        score_fn=lambda model, users, items: model(fields(users, items)),
        config=DenoiserConfig(history_length=10),
    )  # fmt: skip
    for _ in range(options.epochs):
        all_users, clicked = users.repeat(5), torch.zeros(5 * len(users))
        all_items = torch.cat([items, torch.randint(clicks.n_items, (4 * len(items),))])
        clicked[: len(items)] = 1  # and four random items for each
        for rows in torch.randperm(len(all_users)).split(1024):
            batch = {"fields": fields(all_users[rows], all_items[rows]), "clicked": clicked[rows]}
            denoiser.before_step(batch)
            denoiser.step(batch)
        record = denoiser.end_epoch()
        if record is not None:
            print(f"epoch {record.epoch}: {record.phase.value}, loss {record.loss:.4f}, "
                  f"{record.memorized_ratio:.3f} memorized")
    audit = denoiser.report()  # every click, the most suspicious first
    noisy = clicks.noise_of(audit["user"], audit["item"])
    print(f"switch after epoch {denoiser.memorization_point}; noise among the 500 most suspicious: "
          f"{noisy[:500].mean():.2f}, among all: {noisy.mean():.2f}")


if __name__ == "__main__":
    main()
