"""A matrix factorisation of 20 users and 30 items, its interactions and its batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import DenoiserConfig
from tests.support.models_zoo import seeded

N_USERS, N_ITEMS = 20, 30
# Phase II after the first epoch; of so few pairs no noise is sure, so that g weighs alone
SOON = DenoiserConfig(history_length=1, noise_rate=0.9, evidence_weights=False)


class Factors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(N_USERS, 4)
        self.item = nn.Embedding(N_ITEMS, 4)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.user(users) * self.item(items)).sum(-1)


def bpr(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    users, positives, negatives = batch
    return F.softplus(model(users, negatives) - model(users, positives))


def interactions() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    cells = torch.randperm(N_USERS * N_ITEMS, generator=generator)[:160].sort().values
    return cells // N_ITEMS, cells % N_ITEMS


def batches(size: int, seed: int = 1) -> list[tuple[Tensor, Tensor, Tensor]]:
    users, items = interactions()
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(users), generator=generator).split(size)
    return [
        (users[r], items[r], torch.randint(N_ITEMS, (len(r),), generator=generator)) for r in rows
    ]


def made(kind: type[nn.Module]) -> Any:
    with seeded(3):
        return kind()
