"""Training runs for one process or several: the same batches, cut among those that there are."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.models.lightgcn import bpr_loss
from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser, Variants
from sgdl_wrap.model.tables import LARGE
from tests.support.models_zoo import (
    MLPScorer,
    TinyData,
    labelled_epoch,
    seeded,
    tiny_data,
    triple_epoch,
)

EPOCHS = 5
# switches after the second epoch; every memorized sample guides, so that no draw depends on ranks
CONFIG = DenoiserConfig(
    history_length=2, ranking="full", guidance_size=None, guidance_interval=2,
    variants=Variants(gumbel_draws=8),
)
SOON = CONFIG.but(noise_rate_shift=0.6)  # also where less noise is found
# M of all the epochs lived is not M of the most of them; switches after the second epoch, too
SLOW = SOON.but(history_length=3)
# how two ranks are tried against one
FOLLOWING: dict[str, dict[str, Any]] = {
    "none": {"config": CONFIG.but(denoising_scheduler="none")},
    "lstm": {},
    "mlp": {"config": CONFIG.but(denoising_scheduler="mlp")},
    "top_f": {"config": CONFIG.but(denoising_scheduler="top_f")},
    "cosine": {  # as the paper has it; a factor that is rounding must not decide
        "config": CONFIG.but(
            similarity="paper", memorized_data="switch", weight_inputs=("loss",),
            weight_normalization="none",
        )
    },
    "weights as they are": {"config": CONFIG.but(weight_normalization="none")},
    "even weights": {"config": CONFIG.but(weighting_entropy=0.5)},
    "even weights as they are": {
        "config": CONFIG.but(weighting_entropy=0.5, weight_normalization="none")
    },
    "labelled": {"labelled": True},
    "labelled steady": {"labelled": True, "config": SLOW},
    "global scaling": {"config": SOON.but(loss_normalization="global")},
    "M of now": {"config": CONFIG.but(memorized_data="current")},
    "M alone": {"config": CONFIG.but(denoising_learning=False)},
    "history read": {
        "config": CONFIG.but(weight_inputs=("loss", "smoothed_loss", "memorization_rate"))
    },
    "large sparse table": {"large": True, "config": SOON},
    "unused parameters": {"engine": {"find_unused_parameters": True}, "unused": True},
    "M on one rank": {"memorized_first": True},
    "users none": {"divide": "users", "config": CONFIG.but(denoising_scheduler="none")},
    "users lstm": {"divide": "users"},
    "users far apart": {"divide": "users", "far": 2**61},
    "rows far apart": {"far": 10**9},
    "users labelled": {"divide": "users", "labelled": True, "config": SOON},
    "users labelled steady": {"divide": "users", "labelled": True, "config": SLOW},
    "users global scaling": {"divide": "users", "config": SOON.but(loss_normalization="global")},
}
# what two ranks save, to go on as they are, or divided anew, or as one process
SAVED: dict[str, dict[str, Any]] = {
    "saved_rows": {"divide": "rows"},
    "saved_users": {"divide": "users"},
    "saved_far": {"divide": "users", "far": 10**9},
    "saved_steady": {"divide": "users", "labelled": True, "config": SLOW},
}
SAVED_AT = 13  # mid-epoch, in Phase II, before a step that keeps new guidance
DIVIDED_ANEW = {"rows": "rows", "users": "parity"}


class Scorer(MLPScorer):
    """Also has a parameter that no loss reaches, or large tables with sparse gradients.

    Users come by ids that are `far` apart and off, or as they are.
    """

    def __init__(self, data: TinyData, *, unused: bool, large: bool, far: int) -> None:
        super().__init__(data.n_users, data.n_items)
        self.far = far
        if unused:
            self.spare = nn.Parameter(torch.ones(3))
        if large:  # enough to be moved by rows on one process
            self.user = nn.Embedding(LARGE // self.user.embedding_dim, 8, sparse=True)


    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return super().forward((users - self.far) // 3 if self.far else users, items)


def labelled_loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    users, items, labels = batch
    return nn.functional.binary_cross_entropy_with_logits(
        model(users, items), labels.double(), reduction="none"
    )


@dataclass
class Run:
    """One process of a training run.

    Args:
        size, rank: processes, and which of them this is; one alone trains on whole batches.
        divide: "rows" cuts each batch in parts, every rank knowing all interactions; "users" and
            "parity" give each rank its own users' interactions and rows.
        labelled: pointwise, with negatives; else pairwise.
        engine: arguments of DistributedDataParallel.
        unused, large: of the model.
        far: if above 0, the ids of users are this and three times as much as else.
        memorized_first: puts M's rows before the others, so that the last rank has none.
    """

    size: int = 1
    rank: int = 0
    divide: str = "rows"
    labelled: bool = False
    config: DenoiserConfig = CONFIG
    engine: dict[str, Any] = field(default_factory=dict)
    unused: bool = False
    large: bool = False
    far: int = 0
    memorized_first: bool = False
    loss_fn: Any = None
    score_fn: Any = None

    def __post_init__(self) -> None:
        self.data: TinyData = tiny_data()
        with seeded(5):
            self.bare = Scorer(
                self.data, unused=self.unused, large=self.large, far=self.far
            ).double()
        self.model: nn.Module = self.bare
        if self.size > 1:
            self.model = DistributedDataParallel(self.bare, **self.engine)
        kind = torch.optim.SGD if self.large else torch.optim.Adam  # Adam takes no sparse ones
        self.optimizer = kind(self.model.parameters(), lr=0.02 if kind is torch.optim.Adam else 2)
        self.denoiser = SelfGuidedDenoiser(
            self.model,
            self.optimizer,
            self.loss_fn or (labelled_loss if self.labelled else bpr_loss),
            interactions=self.pairs(),
            n_items=self.data.n_items,
            config=self.config,
            score_fn=self.score_fn,
        )
        self.step = 0

    def pairs(self) -> tuple[Tensor, Tensor]:
        """What this rank hands over."""
        users, items = self.data.tensors()
        if self.divide == "rows" or self.size == 1:
            return self._renumbered(users), items
        own = self._owner(users) == self.rank
        return self._renumbered(users[own]), items[own]

    def _renumbered(self, users: Tensor) -> Tensor:
        return self.far + 3 * users if self.far else users

    def _owner(self, users: Tensor) -> Tensor:
        return users % 2 if self.divide == "parity" else users * 2 // self.data.n_users

    def batches(self, epoch: int) -> list[Any]:
        """This process's part of each batch of an epoch, counted from 0."""
        return [(self._renumbered(users), *rest) for users, *rest in self._batches(epoch)]

    def _batches(self, epoch: int) -> list[Any]:
        make = labelled_epoch if self.labelled else triple_epoch
        whole = make(self.data, epoch)
        if self.divide == "rows":
            return [self._part(batch) for batch in whole]
        # rank 0's rows before rank 1's, and as many of each, as on two ranks
        columns = [torch.cat(column) for column in zip(*whole, strict=True)]
        owner = self._owner(columns[0])
        size = 50 if self.labelled else 25
        own = (0, 1) if self.size == 1 else (self.rank,)
        parts = [zip(*(c[owner == rank].split(size) for c in columns), strict=True) for rank in own]
        return [
            tuple(torch.cat(c) for c in zip(*step, strict=True))
            for step in zip(*parts, strict=True)
        ]

    def _part(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        guided = self.denoiser._epochs.self_guided
        if self.memorized_first and guided is not None:
            ids = self.data.ids(batch[0], batch[1]).numpy()
            order = torch.from_numpy(np.argsort(~guided.is_memorized(ids), kind="stable"))
            batch = tuple(column[order] for column in batch)
        return tuple(column.chunk(self.size)[self.rank] for column in batch)

    def train(self, until: int) -> None:
        """Up to so many steps in all."""
        while self.step < until:
            epoch, place = divmod(self.step, len(self.batches(0)))
            batch = self.batches(epoch)[place]
            self.denoiser.before_step(batch)
            self.denoiser.step(batch)
            self.step += 1
            if self.step % len(self.batches(0)) == 0:
                self.denoiser.end_epoch()

    def accumulate(self, epoch: int) -> dict[str, Any]:
        """An epoch in which the optimizer steps after every second batch; what came of it."""
        for place, batch in enumerate(self.batches(epoch)):
            waiting = self.size > 1 and place % 2 == 0
            with self.model.no_sync() if waiting else nullcontext():
                self.denoiser.before_step(batch)
                self.denoiser.weighted_loss(batch).backward()
            if place % 2:
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.denoiser.end_epoch()
        return self.checkpoint()

    def finish(self) -> dict[str, Any]:
        """Trains to the end; what came of it."""
        self.train(EPOCHS * len(self.batches(0)))
        return self.checkpoint()

    def checkpoint(self) -> dict[str, Any]:
        return {
            "model": self.bare.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "denoiser": self.denoiser.state_dict(),
            "step": self.step,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        self.bare.load_state_dict(saved["model"])
        # Adam keeps the tensors that it is given
        self.optimizer.load_state_dict(copy.deepcopy(saved["optimizer"]))
        self.denoiser.load_state_dict(saved["denoiser"])
        self.step = saved["step"]
