"""A training run under Accelerate, alone or on two processes; used by test_accelerate.py.

    torchrun --nproc-per-node 2 -m tests.integrations.accelerate_runs FOLDER

goes through the cases of two processes and leaves what came of them in FOLDER.
"""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from sgdl_wrap import (
    DenoiserConfig,
    DenoiserError,
    SelfGuidedDenoiser,
    Variants,
    load_checkpoint,
    save_checkpoint,
)
from sgdl_wrap.integrations.accelerate import register_denoiser
from tests.promises.test_training_features import ITEMS, N_ITEMS, USERS, Factors, bpr
from tests.support.models_zoo import assert_identical, seeded, without
from tests.support.resealed import resealed

EPOCHS, STEPS, SIZE = 4, 4, 40  # the batches of all processes together
SOON = DenoiserConfig(
    history_length=1, noise_rate=0.9, guidance_interval=2, meta_lr=0.05,
    evidence_weights=False,  # of so few pairs no noise is sure
)
# every memorized sample guides, so that no draw depends on the number of processes
TOGETHER = DenoiserConfig(
    history_length=1, noise_rate=0.9, guidance_interval=2, meta_lr=0.05,
    ranking="full", guidance_size=None, variants=Variants(gumbel_draws=8),
)  # fmt: skip
REFUSED = ("missing", "torn", "mixed", "foreign")  # checkpoints, by what is wrong in them


class Run:
    """The loop of docs/accelerate.md.

    Args:
        config: None trains plainly.
        processes: among how many a batch is divided.
        share: batches accumulated before a step.
        double: a model in float64, where two orders of summation are near each other.
    """

    def __init__(
        self,
        config: DenoiserConfig | None = SOON,
        *,
        processes: int = 1,
        share: int = 1,
        precision: str = "no",
        double: bool = False,
    ) -> None:
        self.accelerator = Accelerator(
            cpu=True,
            mixed_precision=precision,
            gradient_accumulation_steps=share,
            step_scheduler_with_optimizer=False,  # else one step for each process
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        )
        with seeded(3):
            model = Factors().double() if double else Factors()
        negatives = torch.randint(N_ITEMS, ITEMS.shape, generator=torch.Generator().manual_seed(5))
        with seeded(6):  # the sampler takes its seed from the global stream
            loader = DataLoader(
                TensorDataset(USERS, ITEMS, negatives), SIZE // processes, shuffle=True
            )
            optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            self.model, self.optimizer, self.loader, self.schedule = self.accelerator.prepare(
                model, optimizer, loader, schedule
            )
        self.denoiser: SelfGuidedDenoiser | None = None
        if config is not None:
            self.denoiser = SelfGuidedDenoiser(
                self.model, self.optimizer, bpr, interactions=(USERS, ITEMS), n_items=N_ITEMS,
                config=config,
            )  # fmt: skip
            register_denoiser(self.accelerator, self.denoiser)
        self.step = 0

    def train(self, until: int = EPOCHS * STEPS) -> None:
        while self.step < until:
            epoch, place = divmod(self.step, STEPS)
            self.loader.set_epoch(epoch)
            batches = self.accelerator.skip_first_batches(self.loader, place)
            if place:
                batches.set_epoch(epoch)
            for batch in batches:
                with self.accelerator.accumulate(self.model):
                    self.accelerator.backward(self.loss(batch))
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                self.step += 1
                if self.step == until and self.step % STEPS:
                    return
            if self.denoiser is not None:
                self.denoiser.end_epoch()
            self.schedule.step()

    def loss(self, batch: Any) -> Tensor:
        with self.accelerator.autocast():
            if self.denoiser is None:
                return bpr(self.model, batch).mean()
            self.denoiser.before_step(batch)
            return self.denoiser.weighted_loss(batch)

    def outcome(self) -> dict[str, Any]:
        return copy.deepcopy(
            {
                "model": dict(self.accelerator.unwrap_model(self.model).state_dict()),
                "optimizer": self.optimizer.state_dict(),
            }
        )

    def followed(self) -> dict[str, Any]:
        assert self.denoiser is not None
        return {**self.outcome(), "denoiser": copy.deepcopy(self.denoiser.state_dict())}

    def everything(self) -> dict[str, Any]:
        assert self.denoiser is not None
        return {**self.outcome(), "denoiser": without(self.denoiser.state_dict(), "seconds")}


def reset() -> None:
    """Accelerate's state is one for the process."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    AcceleratorState._reset_state()
    GradientState._reset_state()
    PartialState._reset_state()


def lay_out(folder: Path) -> None:
    """Checkpoints of which something is not as save_state left it, with rank 1's file at fault."""
    shutil.copytree(folder / "alone", folder / "stale", dirs_exist_ok=True)
    for name in REFUSED:
        shutil.copytree(folder / "step-10", folder / name)
    (folder / "missing" / "denoiser-1.pt").unlink()
    torn = folder / "torn" / "denoiser-1.pt"
    torn.write_bytes(torn.read_bytes()[:-100])
    shutil.copy(folder / "step-5" / "denoiser-1.pt", folder / "mixed")
    parts = load_checkpoint(folder / "foreign" / "denoiser-1.pt")
    parts["denoiser"]["config"]["meta_lr"] = 1.0
    parts["denoiser"] = resealed(parts["denoiser"])
    save_checkpoint(folder / "foreign" / "denoiser-1.pt", **parts)


def refusals(run: Run, folder: Path) -> None:
    """What each process says to those checkpoints, and where one of them cannot write."""
    rank = run.accelerator.process_index
    before = run.everything()
    for name in REFUSED:
        said = refusal(lambda name=name: run.accelerator.load_state(str(folder / name)))
        (folder / f"{name}-{rank}.txt").write_text(said)
    assert_identical(run.everything(), before)
    full = OSError(28, "No space left on device")
    with mock.patch("os.fsync", side_effect=full if rank == 1 else None):
        said = refusal(lambda: run.accelerator.save_state(str(folder / "full")))
    (folder / f"full-{rank}.txt").write_text(said)


def refusal(action: Callable[[], object]) -> str:
    try:
        action()
    except DenoiserError as error:
        return str(error)
    return "nothing was refused"


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    together = Run(TOGETHER, processes=2, double=True)
    together.train(5)
    together.accelerator.save_state(str(folder / "stale"))
    together.train()
    run = Run(processes=2)
    rank = run.accelerator.process_index
    torch.save(together.followed(), folder / f"together-{rank}.pt")
    run.train(5)
    run.accelerator.save_state(str(folder / "step-5"))
    run.train(10)
    run.accelerator.save_state(str(folder / "step-10"))
    run.accelerator.wait_for_everyone()
    if rank == 0:
        lay_out(folder)
    run.accelerator.wait_for_everyone()
    run.train()
    torch.save(run.everything(), folder / f"whole-{rank}.pt")
    again = Run(processes=2)
    again.accelerator.load_state(str(folder / "step-10"))
    again.step = 10
    again.train()
    torch.save(again.everything(), folder / f"resumed-{rank}.pt")
    refusals(again, folder)
    alone = Run(TOGETHER, processes=2, double=True)
    alone.accelerator.load_state(str(folder / "stale"))
    torch.save(alone.everything(), folder / f"merged-{rank}.pt")
    alone.step = 10
    alone.train()
    torch.save(alone.followed(), folder / f"alone-{rank}.pt")
    bare = alone.accelerator.unwrap_model(alone.model)
    said = refusal(
        lambda: register_denoiser(alone.accelerator, SelfGuidedDenoiser(
            bare, alone.optimizer, bpr, interactions=(USERS, ITEMS), n_items=N_ITEMS,
        ))
    )  # fmt: skip
    (folder / f"refused-{rank}.txt").write_text(said)
    run.accelerator.wait_for_everyone()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
