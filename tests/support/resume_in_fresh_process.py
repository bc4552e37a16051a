"""Goes on from saved checkpoints in a process that knows nothing else; used by test_resume.py.

    python -m tests.support.resume_in_fresh_process FOLDER

loads each checkpoint of FOLDER/CASE with weights_only=True, trains to the end, and saves what
came out beside it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.lightgcn import bpr_loss
from bench.models.neumf import bce_loss
from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser, Variants
from tests.support.models_zoo import (
    labelled_epoch,
    tiny_data,
    tiny_lightgcn,
    tiny_neumf,
    triple_epoch,
)

EPOCHS = 5
STEPS_PER_EPOCH = 4


@dataclass
class TripleBatch:
    """A batch of the user's own class, with something beside its tensors."""

    who: Tensor
    liked: Tensor
    other: Tensor
    source: str = "log"


class Run:
    """One training run, from its start or from a checkpoint."""

    def __init__(self, case: str, **changes: Any) -> None:
        self.case = case
        self.data = tiny_data()
        self.optimizer: torch.optim.Optimizer
        self.model: nn.Module
        if case.startswith("neumf"):
            self.model = tiny_neumf(self.data, dropout=0.3)
        else:
            self.model = tiny_lightgcn(self.data)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        config = DenoiserConfig(
            history_length=2, guidance_size=20, guidance_interval=2,
            evidence_weights=False,  # of so few pairs no noise is sure
            # the first mixtures are unsure; so all agree on the switch
            variants=Variants(gumbel_draws=8, noise_rate_shift=0.28),
        )  # fmt: skip
        if case.endswith("dict"):
            config = config.but(
                weight_inputs=("smoothed_loss", "loss", "memorization_rate", "observed"),
                weight_normalization="mean",
                similarity="paper",
                denoising_scheduler="mlp",
            )
        arguments: dict[str, Any] = {
            "interactions": self.data.tensors(), "n_items": self.data.n_items, "config": config
        }
        if case == "neumf dict":
            arguments["pair_fn"] = lambda batch: (
                batch["pair"][0], batch["pair"][1], batch["clicked"] > 0
            )
        elif case == "lightgcn dataclass":
            arguments["pair_fn"] = lambda batch: (batch.who, batch.liked)
        arguments.update(changes)
        self.denoiser = SelfGuidedDenoiser(self.model, self.optimizer, self._losses, **arguments)
        self.step = 0

    def _losses(self, model: nn.Module, batch: Any) -> Tensor:
        if self.case == "neumf dict":
            return bce_loss(model, (*batch["pair"], batch["clicked"]))
        if self.case == "lightgcn dataclass":
            return bpr_loss(model, (batch.who, batch.liked, batch.other))
        return (bpr_loss if self.case.startswith("lightgcn") else bce_loss)(model, batch)

    def batch(self) -> Any:
        epoch, place = divmod(self.step, STEPS_PER_EPOCH)
        if self.case.startswith("lightgcn"):
            columns = triple_epoch(self.data, epoch)[place]
            return TripleBatch(*columns) if self.case == "lightgcn dataclass" else columns
        columns = labelled_epoch(self.data, epoch)[place]
        if self.case == "neumf dict":
            return {"pair": columns[:2], "clicked": columns[2], "source": "log"}
        return columns

    def train(self, until: int) -> None:
        while self.step < until:
            batch = self.batch()
            self.denoiser.before_step(batch)
            self.denoiser.step(batch)
            self.step += 1

    def checkpoint(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "denoiser": self.denoiser.state_dict(),
            "torch": torch.get_rng_state(),
            "step": self.step,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.denoiser.load_state_dict(saved["denoiser"])
        torch.set_rng_state(saved["torch"])
        self.step = saved["step"]


def main(folder: Path) -> None:
    for path in sorted(folder.glob("*/step-*.pt")):
        run = Run(path.parent.name)
        run.restore(torch.load(path, weights_only=True))
        run.train(EPOCHS * STEPS_PER_EPOCH)
        torch.save(run.checkpoint(), path.with_name(path.name.replace("step", "resumed")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
