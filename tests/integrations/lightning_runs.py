"""A LightningModule as users have it, its batches, and its trainer; used by test_lightning*.py."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from sgdl_wrap import DenoiserConfig
from sgdl_wrap.integrations.lightning import SelfGuidedCallback
from tests.promises.test_training_features import ITEMS, N_ITEMS, USERS, Factors, bpr, in_lists
from tests.support.models_zoo import seeded

MARKS = [
    # Lightning asks torch's tree specs by a name that torch has retired
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    # it advises loaders with workers, and validation loaders, which these runs do without
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to"),
]
BATCHES = len(in_lists(0))
SOON = DenoiserConfig(
    history_length=1, noise_rate=0.9, guidance_interval=2, meta_lr=0.05,
    evidence_weights=False,  # of so few pairs no noise is sure
)


class DroppedOut(Factors):
    """Draws masks, and keeps running statistics that a second forward would move."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.3)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        joined = self.norm(self.top(self.user(users) + self.item(items)))
        return (self.drop(joined) * self.item(items)).sum(-1)


class Ranker(LightningModule):
    """What any user writes; nothing in it knows of denoising."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.losses: list[float] = []

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return self.net(users, items)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = bpr(self.net, batch).mean()
        self.log("loss", loss)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", bpr(self.net, batch).mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
        }


class Regularised(Ranker):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + self.penalty()

    def penalty(self) -> Tensor:
        return 0.01 * self.net.user.weight.square().sum()


class Given:
    """A loader of the batches given; Lightning would take a list of them for several loaders."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class Batches:
    """A loader that knows where it is, as Lightning wants it to go on amid an epoch."""

    def __init__(self) -> None:
        self.given = 0

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[Any]:
        while True:
            epoch, place = divmod(self.given, BATCHES)
            self.given += 1
            yield in_lists(epoch)[place]
            if place + 1 == BATCHES:
                return

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.given = state["given"]


def callback(config: DenoiserConfig | None = SOON, **arguments: Any) -> SelfGuidedCallback:
    settings: dict[str, Any] = {
        "interactions": (USERS, ITEMS), "n_items": N_ITEMS, "config": config, "model": "net",
    }  # fmt: skip
    return SelfGuidedCallback(arguments.pop("loss_fn", bpr), **{**settings, **arguments})


def trainer(*callbacks: Callback, epochs: int = 4, **arguments: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    return Trainer(max_epochs=epochs, callbacks=list(callbacks), **{**settings, **arguments})


def ranker(kind: type[Ranker] = Ranker, net: type[nn.Module] = Factors) -> Ranker:
    with seeded(3):
        return kind(net())


def fit(
    module: LightningModule, *callbacks: Callback, ckpt_path: Path | None = None, **arguments: Any
) -> Trainer:
    """Trains from a fixed global stream, which is the caller's again after."""
    runner = trainer(*callbacks, **arguments)
    with seeded(4):
        runner.fit(module, Batches(), ckpt_path=ckpt_path)
    return runner


def outcome(module: LightningModule, runner: Trainer) -> dict[str, Any]:
    """What training ends with."""
    return copy.deepcopy({
        "module": dict(module.state_dict()),
        "optimizer": runner.optimizers[0].state_dict(),
    })
