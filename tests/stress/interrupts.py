"""Ctrl-C at a random line of the library, during one call of a short run through both phases.

Right after it, training flags and autograd are as before the call, and parameters as before or
after the whole of it. The same call is then made again; an OrderError says that the interrupted one
was done. The run then ends bit for bit as an undisturbed one, but for the clock.
"""

from __future__ import annotations

import copy
import functools
import os
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import sgdl_wrap
from sgdl_wrap import OrderError, Phase, load_checkpoint, save_checkpoint
from tests.stress.short_runs import EPOCHS, PER_EPOCH, Setup, ShortRun, difference
from tests.stress.trials import Trials, Wrong, told
from tests.support.models_zoo import seeded

TRIES = 500
PACKAGE = str(Path(sgdl_wrap.__file__).parent) + os.sep
SETUPS = (
    Setup("factors"),
    Setup("factors", config={"guidance_interval": 1, "history_length": 2}),
    Setup("factors", pointwise=True, explicit=True),
    Setup("factors", penalty=True, draws="torch", score_draws=True),
    Setup("factors", config={"denoising_scheduler": "mlp", "history_length": 3}),
    Setup("factors", pointwise=True, draws="torch", config={"guidance_interval": 1}),
    Setup("factors", draws="numpy", config={"weight_inputs": ("loss", "smoothed_loss")}),
    Setup("neumf", pointwise=True, config={"guidance_interval": 1}),
    Setup("neumf", pointwise=True, explicit=True, penalty=True, config={"history_length": 2}),
    Setup("neumf", pointwise=True, score_draws=True, config={"history_length": 3}),
    Setup("lightgcn"),
    Setup("lightgcn", explicit=True, config={"guidance_interval": 1}),
    Setup("lightgcn", config={"noise_rate": None, "switch_timeout": 1}),
    Setup("lightgcn", score_draws=True, config={"history_length": 2, "ranking": "full"}),
    Setup("batchnorm", pointwise=True),
    Setup("batchnorm", pointwise=True, draws="torch", config={"guidance_interval": 1}),
    Setup("batchnorm", explicit=True, penalty=True, config={"history_length": 2}),
)  # fmt: skip
# how often a call is chosen
OFTEN = {
    "before_step": 3, "step": 3, "end_epoch": 2, "load_state_dict": 1, "load_checkpoint": 1,
    "save_checkpoint": 1, "state_dict": 1,
}  # fmt: skip
DONE = {  # what a repeated call says where the interrupted one was done
    "before_step": "got a second before_step",
    "step": "got step alone",
}
Call = tuple[str, Callable[[], Any]]


class Script:
    """A run as a list of calls, in which it is saved and put back once in each way."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.run = ShortRun(setup)
        self.place = folder / f"run-{os.getpid()}.pt"
        self.kept: dict[str, Any] = {}
        self.calls: list[Call] = []
        for step in range(EPOCHS * PER_EPOCH):
            batch = self.run.batch(step)
            self._add("before_step", self.run.denoiser.before_step, batch)
            self.calls.append(("step", functools.partial(self._step, batch)))
            if setup.explicit and step % PER_EPOCH == PER_EPOCH - 1:
                self._add("end_epoch", self.run.denoiser.end_epoch)
            if step == 1:
                self._add("save_checkpoint", self._save)
            if step in (2, 7):
                self._add("load_checkpoint", self._load)
            if step == 6:
                self._add("save_checkpoint", self._save)
            if step == 8:
                self._add("state_dict", self._keep)
            if step == 10:
                self._add("load_state_dict", self._put_back)

    def _add(self, name: str, call: Callable[..., Any], *arguments: Any) -> None:
        self.calls.append((name, functools.partial(call, *arguments)))

    def _step(self, batch: Any) -> Any:
        return self.run.denoiser.step(batch, self.run.penalty())

    def _everything(self) -> dict[str, Any]:
        return {
            "denoiser": self.run.denoiser, "model": self.run.model,
            "optimizer": self.run.optimizer, "random": torch.default_generator,
        }  # fmt: skip

    def _save(self) -> None:
        save_checkpoint(self.place, **self._everything())

    def _load(self) -> None:
        load_checkpoint(self.place, **self._everything())

    def _keep(self) -> None:
        self.kept = copy.deepcopy(self.run.denoiser.state_dict())

    def _put_back(self) -> None:
        self.run.denoiser.load_state_dict(self.kept)


class Tracer:
    """Counts lines of the library, and interrupts at one of them.

    Attributes:
        lines: (file, line) of each, in order.
        came: where the interrupt came; "" before.
    """

    def __init__(self, at: int = -1) -> None:
        self.at = at
        self.count = 0
        self.lines: list[tuple[str, int]] = []
        self.came = ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            name = frame.f_code.co_filename
            if self.at < 0:
                self.lines.append((name, frame.f_lineno))
            elif self.count == self.at:
                self.came = f"{name[len(PACKAGE):]}:{frame.f_lineno} {frame.f_code.co_name}"
                raise KeyboardInterrupt
            self.count += 1
        return self._line

    def traced(self, call: Callable[[], Any]) -> None:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            call()
        finally:
            sys.settrace(before)


@dataclass
class Undisturbed:
    """What a script does if nothing disturbs it."""

    lines: list[list[tuple[str, int]]] = field(default_factory=list)  # of each call
    parameters: list[dict[str, Any]] = field(default_factory=list)  # before each, and at the end
    end: dict[str, Any] = field(default_factory=dict)


def undisturbed(setup: Setup, folder: Path) -> Undisturbed:
    found = Undisturbed()
    for traced in (False, True):  # what happens once in a process happens in the first
        with seeded(17):
            script = Script(setup, folder)
            for _, call in script.calls:
                found.parameters.append(script.run.parameters())
                tracer = Tracer()
                tracer.traced(call) if traced else call()
                found.lines.append(tracer.lines)
            found.parameters.append(script.run.parameters())
            end = script.run.everything()
        if traced and difference(end, found.end):
            raise RuntimeError(f"tracing alone changes the run of {setup}")
        if script.run.denoiser.phase is not Phase.SELF_GUIDED:
            raise RuntimeError(f"no Phase II in the run of {setup}")
        if not traced:
            found = Undisturbed(end=end)
    return found


def prepare(seed: int, tries: int | None) -> Trials:
    """Every trial draws a set-up, a call and a line of it."""
    folder = tempfile.TemporaryDirectory(prefix="stress-interrupts-")
    references: dict[int, Undisturbed] = {}

    def drawn(number: int) -> tuple[random.Random, int]:
        draw = random.Random(f"interrupts {seed} {number}")
        return draw, draw.randrange(len(SETUPS))

    def reference(which: int) -> Undisturbed:
        if which not in references:
            references[which] = undisturbed(SETUPS[which], Path(folder.name))
        return references[which]

    def trial(number: int) -> None:
        draw, which = drawn(number)
        _interrupted(SETUPS[which], reference(which), Path(folder.name), draw)

    numbers = range(TRIES if tries is None else tries)
    for number in numbers:  # each trial has a process of its own, but not a reference
        reference(drawn(number)[1])
    return Trials(numbers, trial, alone=True)


def _interrupted(setup: Setup, expected: Undisturbed, folder: Path, draw: random.Random) -> None:
    with seeded(17):
        script = Script(setup, folder)
        names = [name for name, _ in script.calls]
        kinds = sorted(set(names))
        kind = draw.choices(kinds, [OFTEN[name] for name in kinds])[0]
        chosen = draw.choice([place for place, name in enumerate(names) if name == kind])
        lines = expected.lines[chosen]
        at = draw.randrange(len(lines))
        if draw.random() < 0.5:  # a line of a long loop is drawn by its place, too, not its turns
            line = draw.choice(sorted(set(lines)))
            at = draw.choice([n for n, other in enumerate(lines) if other == line])
        tracer = Tracer(at)
        where = ""
        for place, (name, call) in enumerate(script.calls):
            if place != chosen:
                try:
                    call()
                except Exception as error:
                    if where:
                        what = f"{where}: {told(error)}"
                        raise Wrong(f"{kind}: a later call fails", what) from error
                    raise
                continue
            flags = script.run.training()
            try:
                tracer.traced(call)
            except KeyboardInterrupt:
                done = False
            except Exception as error:
                where = f"{tracer.came} in call {place}, {kind}, of set-up {SETUPS.index(setup)}"
                raise Wrong(f"{kind}: another error", f"{where}: {told(error)}") from error
            else:
                done = True  # in a destructor, where Python itself swallows it
            where = f"{tracer.came} in call {place}, {kind}, of set-up {SETUPS.index(setup)}"
            if not tracer.came:
                raise RuntimeError(f"no line {at} in call {place} of set-up {SETUPS.index(setup)}")
            if flags != script.run.training():
                raise Wrong(f"{kind}: training flags", where)
            if not torch.is_grad_enabled():
                raise Wrong(f"{kind}: gradients are off", where)
            found = script.run.parameters()
            either = [difference(found, p) for p in expected.parameters[place : place + 2]]
            if all(either):
                raise Wrong(f"{kind}: parameters neither of before nor after", where)
            if not done:
                _again(name, call, where)
        ended = difference(script.run.everything(), expected.end)
    if ended:
        raise Wrong(f"{kind}: ends differently", f"{where}: {ended}")


def _again(name: str, call: Callable[[], Any], where: str) -> None:
    try:
        call()
    except OrderError as error:
        if name not in DONE or DONE[name] not in str(error):
            raise Wrong(f"{name}: cannot be called again", f"{where}: {told(error)}") from error
    except Exception as error:
        raise Wrong(f"{name}: cannot be called again", f"{where}: {told(error)}") from error


