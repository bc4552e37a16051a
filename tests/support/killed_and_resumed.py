"""Kills a run that saves after every step again and again; used by test_checkpoint.py.

    python -m tests.support.killed_and_resumed FOLDER

trains once undisturbed, then kills runs with SIGKILL at random points, resumes each in a new
process from the file that it left, and trains to the end. Every run is a fork of this process,
which has imported everything and trained nothing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import sklearn.mixture  # noqa: F401  (else every fork imports it)
import torch
import torch._dynamo  # as the first optimizer step does

from sgdl_wrap import load_checkpoint, save_checkpoint
from tests.support.resume_in_fresh_process import EPOCHS, STEPS_PER_EPOCH, Run

KILLS = 20
END = EPOCHS * STEPS_PER_EPOCH
_NEVER = 1 << 62


class CallCounter:
    """Counts calls of functions, those of training or those of saving, and dies at one."""

    def __init__(self, *, saving: bool, dies_at: int = _NEVER) -> None:
        self.saving = saving
        self.dies_at = dies_at
        self.calls = 0
        self._inside = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if frame.f_code is save_checkpoint.__code__ and event in ("call", "return"):
            self._inside = event == "call"
        if event in ("call", "c_call") and self._inside is self.saving:
            self.calls += 1
            if self.calls >= self.dies_at:
                os.kill(os.getpid(), signal.SIGKILL)


def train(place: Path) -> None:
    """From the checkpoint if there is one, to the end; saves after every step."""
    torch.manual_seed(17)
    run = Run("neumf tuple")
    everything = {
        "denoiser": run.denoiser,
        "model": run.model,
        "optimizer": run.optimizer,
        "random": torch.default_generator,
    }
    if place.exists():
        run.step = load_checkpoint(place, **everything)["step"]
    while run.step < END:
        run.train(run.step + 1)
        save_checkpoint(place, **everything, step=run.step)


def forked(work: Callable[[], None]) -> int:
    """Runs `work` in a process of its own; its exit status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def counted(place: Path, counter: CallCounter) -> None:
    sys.setprofile(counter)
    train(place)
    sys.setprofile(None)
    place.with_suffix(".calls").write_text(str(counter.calls))


def main(folder: Path) -> None:
    totals = []
    for saving in (False, True):
        place = folder / f"whole-{saving}.pt"
        if forked(lambda place=place, saving=saving: counted(place, CallCounter(saving=saving))):
            raise SystemExit("the undisturbed run failed")
        totals.append(int(place.with_suffix(".calls").read_text()))
    generator = torch.Generator().manual_seed(0)
    kills: list[dict[str, Any]] = []
    ended = litter = 0
    while len(kills) < KILLS or (folder / f"killed-{ended}.pt").exists():
        place = folder / f"killed-{ended}.pt"
        saving = len(kills) % 2 == 1
        point = int(torch.randint(1, totals[saving] // 6, (), generator=generator))
        counter = CallCounter(saving=saving, dies_at=point if len(kills) < KILLS else _NEVER)
        status = forked(lambda place=place, counter=counter: counted(place, counter))
        if status == 0:
            ended += 1
        elif os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            left = load_checkpoint(place)["step"] if place.exists() else 0
            found = len(list(folder.glob("*.partial-*")))
            kills.append({"run": ended, "saving": saving, "step": left, "partial": found > litter})
            litter = found
        else:
            raise SystemExit("a resumed run failed")
    (folder / "kills.json").write_text(json.dumps(kills))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
