"""What a case trains: data, model, loss, optimizer, and a pool of batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bench.data.folder_reader import read_folder
from bench.data.interaction_data import InteractionData
from bench.data.planted_preferences import generate
from bench.models.lightgcn import LightGCN, bpr_loss, ego_l2
from bench.models.neumf import NeuMF, bce_loss
from bench.speed.cases import Case, RandomPairs
from bench.speed.models import MatrixFactorization, TwoTower
from bench.training.batches import Batch
from bench.training.recipes import LIGHTGCN

LossFn = Callable[[nn.Module, Batch], Tensor]
NEGATIVES_PER_POSITIVE = 4  # of the pointwise batches, as in bench/training/recipes.py
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "SGD": torch.optim.SGD,
    "SparseAdam": torch.optim.SparseAdam,
}


@dataclass
class Workload:
    """One case, built. Every variant of a training step starts from the same parameters.

    Attributes:
        data_name: what the data is.
        users, items: the observed pairs, (N,) int64 each.
        initial: the model as it starts; variants train copies.
        batches: the pool that every variant goes round.
    """

    case: Case
    data_name: str
    n_users: int
    n_items: int
    users: Tensor
    items: Tensor
    initial: nn.Module
    batches: list[Batch]

    @property
    def loss_fn(self) -> LossFn:
        """Per-sample losses of a batch, (B,)."""
        return bce_loss if self.case.pointwise else bpr_loss

    @property
    def steps_per_epoch(self) -> float:
        """Batches that hold every observed pair once."""
        samples = len(self.users) * (1 + NEGATIVES_PER_POSITIVE * self.case.pointwise)
        return samples / self.case.batch_size

    def start(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """A model of its own with an optimizer."""
        model = copy.deepcopy(self.initial)
        optimizer = OPTIMIZERS[self.case.optimizer](
            list(model.parameters()), lr=self.case.learning_rate
        )
        return model, optimizer

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """LightGCN's L2 term; the other models have none."""
        if not isinstance(model, LightGCN):
            return None
        return LIGHTGCN.l2 * ego_l2(model, batch)

    def observed_batches(self, size: int = 8192) -> Iterator[Batch]:
        """Every observed pair once, without the negatives that the denoiser does not watch."""
        for start in range(0, len(self.users), size):
            users, items = self.users[start : start + size], self.items[start : start + size]
            if self.case.pointwise:
                yield users, items, torch.ones(len(users))
            else:
                yield users, items, torch.randint(self.n_items, (len(users),))


def build(case: Case, folder: str | None) -> Workload:
    """The workload of a case; the same arguments give the same one.

    Args:
        folder: train.tsv, valid.tsv and test.tsv for the cases without random pairs; None
            generates data of the same size.
    """
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    if case.pairs is not None:
        name = "random"
        n_users, n_items = case.pairs.n_users, case.pairs.n_items
        users, items = _random_pairs(case.pairs, rng)
    else:
        data = read_folder(folder) if folder else _generated(case)
        name, n_users, n_items = data.name, data.n_users, data.n_items
        users, items = torch.from_numpy(data.train_users), torch.from_numpy(data.train_items)
    return Workload(
        case=case,
        data_name=name,
        n_users=n_users,
        n_items=n_items,
        users=users,
        items=items,
        initial=_model(case, n_users, n_items, users, items),
        batches=[_batch(case, users, items, n_items, rng) for _ in range(case.pool)],
    )


def _generated(case: Case) -> InteractionData:
    if case.toy:
        return generate(0, n_users=60, n_items=120, interactions_per_user=20)
    # 497 users, 1683 items, about 66.9k train interactions: as MovieLens-100K after its split
    return generate(0, n_users=497, n_items=1683, interactions_per_user=124)


def _random_pairs(pairs: RandomPairs, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    # a few collide and are left out
    keys = np.unique(rng.integers(pairs.n_users * pairs.n_items, size=pairs.n_pairs))
    return torch.from_numpy(keys // pairs.n_items), torch.from_numpy(keys % pairs.n_items)


def _model(case: Case, n_users: int, n_items: int, users: Tensor, items: Tensor) -> nn.Module:
    if case.model == "neumf":
        return NeuMF(n_users, n_items)
    if case.model == "lightgcn":
        return LightGCN(n_users, n_items, users, items)
    if case.model == "two-tower":
        return TwoTower(n_users, n_items)
    return MatrixFactorization(n_users, n_items, sparse=case.optimizer == "SparseAdam")


def _batch(
    case: Case, users: Tensor, items: Tensor, n_items: int, rng: np.random.Generator
) -> Batch:
    """A batch as the bench's loaders make it, but that a negative may be an observed item."""
    size = min(case.batch_size, len(users))
    if not case.pointwise:
        rows = torch.from_numpy(rng.choice(len(users), size, replace=False))
        negatives = torch.from_numpy(rng.integers(n_items, size=size))
        return users[rows], items[rows], negatives
    n_positive = max(1, size // (1 + NEGATIVES_PER_POSITIVE))
    n_negative = size - n_positive
    positive = torch.from_numpy(rng.choice(len(users), n_positive, replace=False))
    negative = torch.from_numpy(rng.integers(len(users), size=n_negative))
    drawn = torch.from_numpy(rng.integers(n_items, size=n_negative))
    order = torch.from_numpy(rng.permutation(size))
    labels = torch.zeros(size)
    labels[:n_positive] = 1
    return (
        torch.cat([users[positive], users[negative]])[order],
        torch.cat([items[positive], drawn])[order],
        labels[order],
    )
