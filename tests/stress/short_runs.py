"""Short runs through both phases, of many kinds of models, losses and batches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser
from tests.support.models_zoo import (
    assert_identical,
    labelled_epoch,
    seeded,
    stream_states,
    tiny_batchnorm,
    tiny_data,
    tiny_lightgcn,
    tiny_neumf,
    triple_epoch,
    without,
)

DATA = tiny_data()
EPOCHS, PER_EPOCH = 3, 4
STEPS = EPOCHS * PER_EPOCH
Columns = tuple[Tensor, Tensor, Tensor]


class Factors(nn.Module):
    """Matrix factorization."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(DATA.n_users, 8), nn.Embedding(DATA.n_items, 8)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.user(users) * self.item(items)).sum(-1)


def factors() -> nn.Module:
    with seeded(5):
        return Factors()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "factors": factors,
    "neumf": lambda: tiny_neumf(DATA, dropout=0.3),
    "lightgcn": lambda: tiny_lightgcn(DATA),
    "batchnorm": lambda: tiny_batchnorm(DATA),
}


class NanGradient(torch.autograd.Function):
    """The identity, whose gradient is NaN where a row is spoiled."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, spoiled: Tensor) -> Tensor:
        ctx.save_for_backward(spoiled)
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (spoiled,) = ctx.saved_tensors
        return torch.where(spoiled, torch.nan, 1.0) * gradient, None


def as_it_is(columns: Columns, step: int) -> Any:
    """A batch is a tuple of three tensors."""
    return columns


def read_tuple(batch: Any) -> Columns:
    """Three columns of a tuple, a list, or a dict of any three."""
    columns = list(batch.values()) if isinstance(batch, dict) else list(batch)
    return tuple(torch.as_tensor(column) for column in columns[:3])  # type: ignore[return-value]


@dataclass(frozen=True)
class Setup:
    """What a short run is made of.

    Args:
        model: one of MODELS.
        pointwise: whether a batch has labels in the place of negatives.
        config: of the denoiser.
        draws: the global stream that the loss draws from, "torch" or "numpy"; "" for none.
        score_draws: whether the scores draw from torch's.
        explicit: whether epochs end by calls.
        penalty: whether each step has one.
        layout: makes the batch of a step of its three columns.
        read: takes the three columns out of it again.
        pair_fn: of the denoiser.
    """

    model: str = "factors"
    pointwise: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    draws: str = ""
    score_draws: bool = False
    explicit: bool = False
    penalty: bool = False
    layout: Callable[[Columns, int], Any] = as_it_is
    read: Callable[[Any], Columns] = read_tuple
    pair_fn: Callable[[Any], Any] | None = None


class ShortRun:
    """A model, its optimizer and its denoiser, all fresh; the same for the same set-up."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.model = MODELS[setup.model]()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        self.before_loss: Callable[[], Any] = lambda: None  # what a section breaks
        self.after_loss: Callable[[Tensor], Any] = lambda losses: losses
        self.before_score: Callable[[], Any] = lambda: None
        self.denoiser = SelfGuidedDenoiser(
            self.model, self.optimizer, self.losses,
            interactions=DATA.tensors(), n_items=DATA.n_items, score_fn=self.scores,
            pair_fn=setup.pair_fn, explicit_epochs=setup.explicit,
            config=DenoiserConfig().but(
                **{"history_length": 1, "noise_rate": 0.9, "guidance_interval": 2, **setup.config}
            ),
        )  # fmt: skip

    def losses(self, model: nn.Module, batch: Any) -> Any:
        self.before_loss()
        return self.after_loss(losses(self.setup, model, batch))

    def scores(self, model: nn.Module, users: Tensor, items: Tensor) -> Tensor:
        self.before_score()
        scores: Tensor = model(users, items)
        if self.setup.score_draws:
            scores = scores + 0.1 * torch.rand(len(users))
        return scores

    def batch(self, step: int) -> Any:
        """The batch of a step; a new object at each call."""
        epoch, place = divmod(step, PER_EPOCH)
        layout = labelled_epoch if self.setup.pointwise else triple_epoch
        return self.setup.layout(layout(DATA, epoch)[place], step)

    def penalty(self) -> Tensor | None:
        return penalty(self.model) if self.setup.penalty else None

    def parameters(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def training(self) -> dict[str, bool]:
        return {name: module.training for name, module in self.model.named_modules()}

    def everything(self) -> dict[str, Any]:
        """All that must be alike between two runs, but for the clock."""
        streams = stream_states()
        return copy.deepcopy({
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "denoiser": without(self.denoiser.state_dict(), "seconds"),
            "history": without([record.as_dict() for record in self.denoiser.history], "seconds"),
            "training": self.training(),
            "streams": streams,
        })  # fmt: skip


def losses(setup: Setup, model: nn.Module, batch: Any) -> Tensor:
    """Per-sample losses, without a run."""
    users, items, third = setup.read(batch)
    if setup.pointwise:
        found = F.binary_cross_entropy_with_logits(
            model(users, items), third.float(), reduction="none"
        )
    else:
        found = -F.logsigmoid(model(users, items) - model(users, third))
    if setup.draws == "torch":
        found = found * (0.9 + 0.2 * torch.rand(len(found)))
    elif setup.draws == "numpy":
        import numpy as np

        found = found * torch.from_numpy(0.9 + 0.2 * np.random.rand(len(found))).float()  # noqa: NPY002
    if isinstance(batch, dict) and "spoiled" in batch:
        found = NanGradient.apply(found, batch["spoiled"])
    return found


def penalty(model: nn.Module) -> Tensor:
    """0.001 |θ|^2."""
    return 0.001 * torch.stack([(p * p).sum() for p in model.parameters()]).sum()


def difference(found: Any, expected: Any) -> str:
    """Where two trees of tensors and plain values differ, in a line; "" where they do not."""
    try:
        assert_identical(found, expected)
    except AssertionError as error:
        return " ".join(str(error).split())[:90]
    return ""
