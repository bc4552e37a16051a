"""How each example model is trained: its loss, its batches, its penalty, its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from bench.data.interaction_data import InteractionData
from bench.models.cdae import CDAE, pair_l2
from bench.models.lightgcn import LightGCN, bpr_loss, ego_l2
from bench.models.neumf import NeuMF, bce_loss
from bench.models.ngcf import NGCF, ngcf_l2
from bench.training.batches import Batch, LabelledBatches, TripleBatches, WholeUserBatches


@dataclass(frozen=True)
class Recipe:
    """A model with all that its ordinary training needs, and the one setting of the denoiser that
    depends on how many epochs that takes."""

    name: str
    build: Callable[[InteractionData], nn.Module]
    loss_fn: Callable[[nn.Module, Batch], Tensor]
    """Per-sample losses of a batch, (B,), unreduced."""
    batches: Callable[[InteractionData, int, np.random.Generator], Iterable[Batch]]
    """Given data, batch size and generator: an iterable of which each pass is one epoch."""
    penalty_fn: Callable[[nn.Module, Batch], Tensor] | None
    """The regulariser before its coefficient l2, a scalar, or None."""
    pointwise: bool
    """Whether the third entry of a batch is a label, and not a negative item."""
    learning_rate: float
    batch_size: int
    epochs: int
    l2: float
    history_length: int = 20
    """Epochs of memorization history: a model that is done within few epochs needs a short one."""
    graph: bool = False
    """Whether the model passes its embeddings through a list `graphs`, one a layer."""


def _build_lightgcn(data: InteractionData) -> nn.Module:
    train_users = torch.from_numpy(data.train_users)
    train_items = torch.from_numpy(data.train_items)
    return LightGCN(data.n_users, data.n_items, train_users, train_items)


def _triples(
    data: InteractionData, batch_size: int, generator: np.random.Generator
) -> Iterable[Batch]:
    return TripleBatches(
        data.train_users, data.train_items, data.n_items, batch_size=batch_size, generator=generator
    )


def _ego_l2(model: nn.Module, batch: Batch) -> Tensor:
    return ego_l2(cast(LightGCN, model), batch)


def _build_neumf(data: InteractionData) -> nn.Module:
    return NeuMF(data.n_users, data.n_items)


def _labelled_pairs(
    data: InteractionData, batch_size: int, generator: np.random.Generator
) -> Iterable[Batch]:
    return LabelledBatches(
        data.train_users,
        data.train_items,
        data.n_items,
        negatives_per_positive=4,
        batch_size=batch_size,
        generator=generator,
    )


def _build_cdae(data: InteractionData) -> nn.Module:
    train_users = torch.from_numpy(data.train_users)
    train_items = torch.from_numpy(data.train_items)
    return CDAE(data.n_users, data.n_items, train_users, train_items)


def _whole_users(
    data: InteractionData, batch_size: int, generator: np.random.Generator
) -> Iterable[Batch]:
    return WholeUserBatches(
        data.train_users,
        data.train_items,
        data.n_items,
        negatives_per_positive=4,
        batch_size=batch_size,
        generator=generator,
    )


def _pair_l2(model: nn.Module, batch: Batch) -> Tensor:
    return pair_l2(cast(CDAE, model), batch)


def _build_ngcf(data: InteractionData) -> nn.Module:
    train_users = torch.from_numpy(data.train_users)
    train_items = torch.from_numpy(data.train_items)
    return NGCF(data.n_users, data.n_items, train_users, train_items, node_dropout=0.1)


def _ngcf_l2(model: nn.Module, batch: Batch) -> Tensor:
    return ngcf_l2(cast(NGCF, model), batch)


# Settings for data of the size of MovieLens-100K. Widths, layers and dropout are those of
# Sec. 4.1.4 of the SGDL paper; its batches of 128 give way to larger ones, with rates, penalties
# and epochs chosen on validation for plain training.
LIGHTGCN = Recipe(
    name="LightGCN",
    build=_build_lightgcn,
    loss_fn=bpr_loss,
    batches=_triples,
    penalty_fn=_ego_l2,
    pointwise=False,
    learning_rate=0.005,
    batch_size=2048,
    epochs=300,
    l2=1e-3,
    graph=True,
)
NEUMF = Recipe(
    name="NeuMF",
    build=_build_neumf,
    loss_fn=bce_loss,
    batches=_labelled_pairs,
    penalty_fn=None,
    pointwise=True,
    learning_rate=0.001,
    batch_size=1024,
    epochs=30,
    l2=0.0,
    history_length=10,
)
CDAE_RECIPE = Recipe(
    name="CDAE",
    build=_build_cdae,
    loss_fn=bce_loss,
    batches=_whole_users,
    penalty_fn=_pair_l2,
    pointwise=True,
    learning_rate=0.001,
    batch_size=4096,
    epochs=60,
    l2=1e-3,
)
NGCF_RECIPE = Recipe(
    name="NGCF",
    build=_build_ngcf,
    loss_fn=bpr_loss,
    batches=_triples,
    penalty_fn=_ngcf_l2,
    pointwise=False,
    learning_rate=0.002,
    batch_size=2048,
    epochs=100,
    l2=1e-3,
    graph=True,
)
RECIPES = {"lightgcn": LIGHTGCN, "neumf": NEUMF, "cdae": CDAE_RECIPE, "ngcf": NGCF_RECIPE}

# The generated data has a third of the interactions and patterns that are learned sooner.
RECIPES_FOR_GENERATED_DATA = {
    "lightgcn": replace(
        LIGHTGCN, learning_rate=0.01, batch_size=512, epochs=20, l2=1e-4, history_length=6
    ),
    "neumf": replace(NEUMF, learning_rate=0.002, epochs=12),
    "cdae": replace(
        CDAE_RECIPE, learning_rate=0.002, batch_size=1024, epochs=25, history_length=10
    ),
    "ngcf": replace(NGCF_RECIPE, batch_size=512, epochs=20, history_length=10),
}
