"""Plain and denoised training where the noise is known: ``python -m examples.see_the_gain``.

Two of five clicks are random. What counts is not the clicks: of the ten items that a model
recommends to each user, how many are in the user's taste. Plain training has the setting that is
best for it among the 12 of GRID, which ``--tune`` finds anew; denoised training has one of the 12.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import SelfGuidedDenoiser

SEEDS, EPOCHS = range(5), 60
N_USERS, N_ITEMS, CLICKS, NOISE = 100, 500, 8000, 0.4


class Setting(NamedTuple):
    """What is tuned."""

    lr: float
    weight_decay: float


GRID = [Setting(*pair) for pair in product((0.003, 0.005, 0.01), (1e-4, 2e-4, 4e-4, 6e-4))]
PLAIN, DENOISED = Setting(0.003, 4e-4), Setting(0.005, 2e-4)
NAMES = {False: "plain", True: "denoised"}


class MatrixFactorization(nn.Module):
    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(N_USERS, dim), nn.Embedding(N_ITEMS, dim)
        for table in self.parameters():
            nn.init.normal_(table, std=0.1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.user(users) * self.item(items)).sum(-1)


def bpr(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    users, positives, negatives = batch
    return -F.logsigmoid(model(users, positives) - model(users, negatives))


def clicks(seed: int) -> Tensor:
    """Distinct pairs (user, item), (N, 2): most in the user's taste, the others anywhere."""
    generator = torch.Generator().manual_seed(seed)
    users = torch.randint(N_USERS, (CLICKS,), generator=generator)
    liked = 5 * users + torch.randint(50, (CLICKS,), generator=generator)
    anything = torch.randint(N_ITEMS, (CLICKS,), generator=generator)
    noisy = torch.rand(CLICKS, generator=generator) < NOISE
    return torch.stack([users, torch.where(noisy, anything, liked) % N_ITEMS], 1).unique(dim=0)


def in_taste(users: Tensor, items: Tensor) -> Tensor:
    """The truth: whether items are among the 50 that their users like."""
    return (items - 5 * users) % N_ITEMS < 50


@torch.no_grad()
def hits(model: MatrixFactorization, pairs: Tensor) -> float:
    """The share of the ten best items that a user has not clicked which are in the user's taste."""
    scores = model.user.weight @ model.item.weight.T
    scores[pairs[:, 0], pairs[:, 1]] = -torch.inf
    best = scores.topk(10).indices
    return in_taste(torch.arange(N_USERS)[:, None], best).float().mean().item()


def train(seed: int, *, denoise: bool, setting: Setting) -> tuple[list[float], SelfGuidedDenoiser]:
    """The hits after each epoch, and the denoiser."""
    pairs = clicks(seed)
    torch.manual_seed(seed)
    model = MatrixFactorization()
    optimizer = torch.optim.Adam(model.parameters(), **setting._asdict())
    denoiser = SelfGuidedDenoiser(
        model, optimizer, bpr, interactions=(pairs[:, 0], pairs[:, 1]), enabled=denoise
    )
    found = []
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(pairs)).split(512):
            batch = (pairs[rows, 0], pairs[rows, 1], torch.randint(N_ITEMS, rows.shape))
            denoiser.before_step(batch)
            denoiser.step(batch)
        found.append(hits(model, pairs))
    return found, denoiser


def tuned(seeds: Sequence[int]) -> Setting:
    """Plain training's best setting by the mean of the last epoch's hits; prints all of them."""
    found = {}
    for setting in GRID:
        found[setting] = mean(train(n, denoise=False, setting=setting)[0][-1] for n in seeds)
        print(f"plain, {_named(setting)}: {found[setting]:.1%}", flush=True)
    return max(found, key=found.__getitem__)


def draw(curves: dict[bool, list[list[float]]], switch: int, path: Path) -> None:
    """The hits by epoch, a thin line a seed and a thick one their mean."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    grey = "#808080"  # readable on white and on black
    style = {"svg.fonttype": "none", "svg.hashsalt": "sgdl-wrap", "font.size": 10, "text.color":
             grey, "axes.labelcolor": grey, "axes.edgecolor": grey, "xtick.color": grey,
             "ytick.color": grey, "font.family": "sans-serif"}  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        epochs = range(1, EPOCHS + 1)
        for (denoise, runs), color in zip(curves.items(), ("#E8743B", "#2F8FD8"), strict=True):
            for run in runs:
                axes.plot(epochs, run, color=color, linewidth=0.7, alpha=0.5)
            means = [mean(values) for values in zip(*runs, strict=True)]
            axes.plot(epochs, means, color=color, linewidth=2.5)
            axes.annotate(f"{NAMES[denoise]} {means[-1]:.0%}", (EPOCHS, means[-1]), color=color,
                          xytext=(6, 0), textcoords="offset points", va="center")
        axes.axvline(switch, color=grey, linewidth=1, linestyle=":")
        axes.annotate("switch", (switch, 0), xytext=(4, 4), textcoords="offset points")
        axes.set(xlabel="epoch", ylim=(0, 0.8), xlim=(0, EPOCHS))
        axes.set_ylabel("recommendations in the user's taste")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, transparent=True, metadata={"Date": None})


def main(arguments: list[str] | None = None) -> None:
    """Trains both kinds on each seed, and prints what came of it."""
    parser = argparse.ArgumentParser(prog="python -m examples.see_the_gain")
    parser.add_argument("--tune", action="store_true", help="find plain training's setting anew")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the hits by epoch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[*SEEDS], metavar="N")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = {False: tuned(options.seeds) if options.tune else PLAIN, True: DENOISED}
    curves: dict[bool, list[list[float]]] = {False: [], True: []}
    denoiser: Any = None
    print("share of the ten recommended items that are in the user's taste")
    for seed in options.seeds:
        for denoise, runs in curves.items():
            hits_by_epoch, denoiser = train(seed, denoise=denoise, setting=settings[denoise])
            runs.append(hits_by_epoch)
        plain, denoised = curves[False][-1][-1], curves[True][-1][-1]
        print(f"seed {seed}: plain {plain:.1%}, denoised {denoised:.1%}", flush=True)
    if len(options.seeds) > 1:
        last = {denoise: [run[-1] for run in runs] for denoise, runs in curves.items()}
        print("mean and deviation: " + ", ".join(
            f"{NAMES[denoise]} {mean(found):.1%} ± {stdev(found):.1%}"
            for denoise, found in last.items()
        ))  # fmt: skip
    print(", ".join(f"{NAMES[denoise]} with {_named(s)}" for denoise, s in settings.items()))
    print(denoiser)
    if options.chart is not None:
        draw(curves, denoiser.memorization_point, options.chart)


def _named(setting: Setting) -> str:
    return f"lr {setting.lr} and weight decay {setting.weight_decay}"


if __name__ == "__main__":
    main()
