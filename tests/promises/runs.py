"""Small runs, plain and denoised, of any model and loss; the public interface alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import DenoiserConfig, Phase, SelfGuidedDenoiser

N_USERS, N_ITEMS = 20, 30
CELLS = torch.randperm(N_USERS * N_ITEMS, generator=torch.Generator().manual_seed(0))[:160].sort()
USERS, ITEMS = CELLS.values // N_ITEMS, CELLS.values % N_ITEMS
WATCHING = DenoiserConfig(history_length=20)
AUDITING = DenoiserConfig(history_length=2, audit_only=True)
LEARNING = DenoiserConfig(history_length=1, noise_rate=0.9, guidance_interval=1)

Batch = dict[str, Tensor]


class Factors(nn.Module):
    """A matrix factorisation, always drawn alike."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(N_USERS, 4), nn.Embedding(N_ITEMS, 4)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.5 * torch.randn(p.shape, generator=generator))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.user(users) * self.item(items)).sum(-1)


class Steep(torch.autograd.Function):
    """The identity, with a gradient that is NaN."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor) -> Tensor:
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.nan


def bpr(model: nn.Module, batch: Batch) -> Tensor:
    return F.softplus(model(batch["user"], batch["other"]) - model(batch["user"], batch["item"]))


def bce(model: nn.Module, batch: Batch) -> Tensor:
    scores = model(batch["user"], batch["item"])
    return F.binary_cross_entropy_with_logits(scores, batch["label"], reduction="none")


def epoch(number: int, size: int = 50, *, labelled: bool = False) -> list[Batch]:
    """The batches of one pass: triples, or positives beside as many drawn items with labels."""
    generator = torch.Generator().manual_seed(100 + number)
    found = []
    for rows in torch.randperm(len(USERS), generator=generator).split(size):
        drawn = torch.randint(N_ITEMS, (len(rows),), generator=generator)
        if labelled:
            found.append({
                "user": USERS[rows].repeat(2),
                "item": torch.cat([ITEMS[rows], drawn]),
                "label": torch.cat([torch.ones(len(rows)), torch.zeros(len(rows))]),
            })  # fmt: skip
        else:
            found.append({"user": USERS[rows], "item": ITEMS[rows], "other": drawn})
    return found


def epochs(count: int, **how: Any) -> list[list[Batch]]:
    return [epoch(number, **how) for number in range(count)]


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.05)


def denoiser(
    model: nn.Module, loss_fn: Callable[..., Any] = bpr, **arguments: Any
) -> SelfGuidedDenoiser:
    arguments.setdefault("config", WATCHING)
    return SelfGuidedDenoiser(
        model, arguments.pop("optimizer", None) or adam(model), loss_fn,
        interactions=(USERS, ITEMS), n_items=N_ITEMS, **arguments,
    )  # fmt: skip


def train(wrapped: SelfGuidedDenoiser, batches: Iterable[Any]) -> None:
    for batch in batches:
        wrapped.before_step(batch)
        wrapped.step(batch)


def until_learning(wrapped: SelfGuidedDenoiser, **how: Any) -> list[Batch]:
    """Trains to the middle of the second epoch, in Phase II; what is left of that epoch."""
    train(wrapped, epoch(0, **how))
    first, *rest = epoch(1, **how)
    train(wrapped, [first])
    assert wrapped.phase is Phase.SELF_GUIDED
    return rest


def train_plainly(model: nn.Module, loss_fn: Callable[..., Tensor], passes: Any) -> None:
    optimizer = adam(model)
    for batches in passes:
        for batch in batches:
            optimizer.zero_grad()
            loss_fn(model, batch).mean().backward()
            optimizer.step()


def users_streams() -> Any:
    """Where the global streams of torch, numpy and Python stand, comparable with ``==``."""
    _, keys, *rest = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), keys.tolist(), rest, random.getstate()
