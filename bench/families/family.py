"""What a family of recommenders is to the bench."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from bench.data.interaction_data import InteractionData


@dataclass(frozen=True)
class Settings:
    """Where the tuning of a family begins, on data of the size of MovieLens-100K."""

    learning_rate: float
    l2: float
    batch_size: int
    epochs: int
    patience: int
    history_length: int = 20


@dataclass(frozen=True)
class Family:
    """A model with all that its ordinary training needs.

    Attributes:
        build: the model; the caller has seeded torch. It has ``score_all_items(users)``, (U,) to
            (U, n_items).
        batches: given data, batch size and generator: each pass over it is an epoch.
        loss_fn: per-sample losses of a batch, (B,).
        penalty_fn: what is multiplied by l2, a scalar; None is Adam's `weight_decay` in its place.
        score_fn, pair_fn: as the denoiser takes them.
        sequential: whether the order of a user's rows counts.
    """

    name: str
    build: Callable[[InteractionData], nn.Module]
    batches: Callable[[InteractionData, int, np.random.Generator], Iterable[Any]]
    loss_fn: Callable[[nn.Module, Any], Tensor]
    penalty_fn: Callable[[nn.Module, Any], Tensor] | None
    settings: Settings
    score_fn: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None
    pair_fn: Callable[[Any], tuple[Tensor, ...]] | None = None
    sequential: bool = False


def triples(
    data: InteractionData, batch_size: int, generator: np.random.Generator
) -> Iterable[Any]:
    """(users, positives, negatives), each pair once a pass."""
    from bench.training.batches import TripleBatches

    return TripleBatches(
        data.train_users, data.train_items, data.n_items, batch_size=batch_size,
        generator=generator,
    )


def labelled(
    data: InteractionData, batch_size: int, generator: np.random.Generator
) -> Iterable[Any]:
    """(users, items, labels), each pair once a pass, with four unobserved ones."""
    from bench.training.batches import LabelledBatches

    return LabelledBatches(
        data.train_users, data.train_items, data.n_items, negatives_per_positive=4,
        batch_size=batch_size, generator=generator,
    )
