"""A run saved before each of its steps and taken up by objects that know nothing else.

Both go on to the end, and are alike bit for bit but for the clock: so is a third that was never
saved. If a set-up has an odd batch, it is the one right after the save: NaN gradients, or negatives
of 0 and 1 alone. The number of a trial is 100 * set-up + step.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap import NonFiniteError
from tests.stress.short_runs import (
    PER_EPOCH,
    STEPS,
    Columns,
    Setup,
    ShortRun,
    difference,
)
from tests.stress.trials import Trials, Wrong, told
from tests.support.models_zoo import seeded

Odd = Callable[[Any], Any]  # makes the batch after the save of an ordinary one


@dataclass
class Clicks:
    """A batch of the user's own class."""

    who: Tensor
    liked: Tensor
    other: Tensor
    source: str = "log"


def as_dict(columns: Columns, step: int) -> Any:
    return dict(zip(("user", "item", "other"), columns, strict=True))


def as_labelled_dict(columns: Columns, step: int) -> Any:
    return dict(zip(("user", "item", "label"), columns, strict=True))


def as_arrays(columns: Columns, step: int) -> Any:
    return tuple(column.numpy() for column in columns)


def as_list(columns: Columns, step: int) -> Any:
    return list(columns)


def alternating(*layouts: Callable[[Columns, int], Any]) -> Callable[[Columns, int], Any]:
    return lambda columns, step: layouts[step % len(layouts)](columns, step)


def as_tuple(columns: Columns, step: int) -> Any:
    return columns


def one_row_first(columns: Columns, step: int) -> Any:
    return tuple(column[:1] for column in columns) if step == 0 else columns


def repeating(columns: Columns, step: int) -> Any:
    return tuple(torch.cat([column, column[:7], column[:3]]) for column in columns)


def as_spoilable(columns: Columns, step: int) -> Any:
    return {**as_dict(columns, step), "spoiled": torch.zeros(len(columns[0]), dtype=torch.bool)}


def as_labelled_spoilable(columns: Columns, step: int) -> Any:
    spoiled = torch.zeros(len(columns[0]), dtype=torch.bool)
    return {**as_labelled_dict(columns, step), "spoiled": spoiled}


def read_clicks(batch: Any) -> Columns:
    return batch.who, batch.liked, batch.other


def spoiled(batch: Any) -> Any:
    """NaN gradients of finite losses."""
    return {**batch, "spoiled": torch.ones(len(batch["user"]), dtype=torch.bool)}


def half_spoiled(batch: Any) -> Any:
    return {**batch, "spoiled": torch.arange(len(batch["user"])) % 2 == 0}


def of_zero_and_one(batch: Any) -> Any:
    """Negatives that look like labels."""
    if isinstance(batch, dict):
        return {**batch, "other": batch["other"] % 2}
    return type(batch)((*batch[:2], batch[2] % 2))


def one_row(batch: Any) -> Any:
    return tuple(column[:1] for column in batch)


SMOOTHED = {
    "weight_inputs": ("smoothed_loss", "loss", "memorization_rate", "observed"),
    "similarity": "paper", "denoising_scheduler": "mlp", "noise_rate": None, "switch_timeout": 1,
}  # fmt: skip
EACH = {"guidance_interval": 1}
SKIPS = {"on_nonfinite": "skip"}
SETUPS: tuple[tuple[str, Setup, Odd | None], ...] = (
    ("NaN gradients, skip", Setup(layout=as_spoilable, config=SKIPS), spoiled),
    ("NaN gradients, raise", Setup(layout=as_spoilable), spoiled),
    (
        "NaN gradients, pointwise",
        Setup("neumf", pointwise=True, layout=as_labelled_spoilable, config={**SKIPS, **EACH}),
        half_spoiled,
    ),
    ("NaN gradients of some, raise", Setup(layout=as_spoilable, config=EACH), half_spoiled),
    ("negatives 0 and 1", Setup(), of_zero_and_one),
    ("negatives 0 and 1, lightgcn", Setup("lightgcn", config=EACH), of_zero_and_one),
    ("tuples and dicts", Setup(layout=alternating(as_tuple, as_dict)), None),
    ("tuples and dicts, each", Setup(layout=alternating(as_tuple, as_dict), config=EACH), None),
    ("arrays and tensors", Setup(layout=alternating(as_tuple, as_arrays), config=EACH), None),
    ("lists and tuples", Setup(layout=alternating(as_list, as_tuple), config=EACH), None),
    (
        "three layouts",
        Setup(layout=alternating(as_list, as_dict, as_arrays), config={"guidance_interval": 3}),
        of_zero_and_one,
    ),
    ("one row first", Setup(layout=one_row_first), None),
    ("a row alone", Setup("lightgcn", config=EACH), one_row),
    ("dropout", Setup("neumf", pointwise=True, config={"history_length": 2}), None),
    ("batchnorm", Setup("batchnorm", pointwise=True, config=EACH), None),
    ("smoothed", Setup("neumf", pointwise=True, layout=as_labelled_dict, config=SMOOTHED), None),
    ("numpy's stream", Setup(draws="numpy", config=EACH), None),
    ("torch's stream", Setup(draws="torch", score_draws=True, penalty=True), None),
    ("audit only", Setup("lightgcn", config={"audit_only": True}), None),
    ("repeats", Setup(layout=repeating), None),
    ("explicit epochs", Setup("lightgcn", explicit=True, config={"history_length": 2}), None),
    (
        "a dataclass",
        Setup(
            layout=lambda columns, step: Clicks(*columns), read=read_clicks,
            pair_fn=lambda batch: (batch.who, batch.liked), config=EACH,
        ),
        None,
    ),
)  # fmt: skip


def prepare(seed: int, tries: int | None) -> Trials:
    """Every step of every set-up; of them `tries`."""
    numbers = [
        100 * which + step
        for which, (_, _, odd) in enumerate(SETUPS)
        for step in range(odd is of_zero_and_one, STEPS)  # of a first batch nobody can tell
    ]
    if tries is not None and tries < len(numbers):
        numbers = sorted(random.Random(f"resume {seed}").sample(numbers, tries))
    return Trials(numbers, _resumed, alone=True)


def _resumed(number: int) -> None:
    which, at = divmod(number, 100)
    name, setup, odd = SETUPS[which]
    what = f"{name}, step {at}"
    with seeded(17):
        never_saved = Going(setup, odd, at)
        never_saved.go(0, STEPS)
        expected = never_saved.run.everything(), never_saved.lost
    with seeded(17):
        saved = Going(setup, odd, at)
        saved.go(0, at)
        state = _through_a_file(saved.checkpoint())
        saved.go(at, STEPS)
        found = saved.run.everything(), saved.lost
    if told_wrong := difference(found, expected):
        raise Wrong("saving changes the run", f"{what}: {told_wrong}")
    with seeded(18):
        resumed = Going(setup, odd, at)
        resumed.restore(state)
        try:
            resumed.go(at, STEPS)
        except Exception as error:
            raise Wrong("does not go on", f"{what}: {told(error)}") from error
        found = resumed.run.everything(), [*saved.lost[:at], *resumed.lost]
    if told_wrong := difference(found, expected):
        raise Wrong("ends differently", f"{what}: {told_wrong}")


class Going:
    """A run whose batch at a step is odd.

    Attributes:
        lost: the losses of the steps.
    """

    def __init__(self, setup: Setup, odd: Odd | None, at: int) -> None:
        self.run = ShortRun(setup)
        self.odd, self.at = odd, at
        self.lost: list[Tensor] = []

    def go(self, start: int, end: int) -> None:
        run = self.run
        for step in range(start, end):
            batch = run.batch(step)
            if step == self.at and self.odd is not None:
                batch = self.odd(batch)
            try:
                run.denoiser.before_step(batch)
                self.lost.append(run.denoiser.step(batch, run.penalty()))
            except NonFiniteError:  # the user goes on with the next one
                self.lost.append(torch.tensor(torch.nan))
            if run.setup.explicit and step % PER_EPOCH == PER_EPOCH - 1:
                run.denoiser.end_epoch()

    def checkpoint(self) -> dict[str, Any]:
        _, keys, *rest = np.random.get_state()  # noqa: NPY002
        return {
            "model": self.run.model.state_dict(),
            "optimizer": self.run.optimizer.state_dict(),
            "denoiser": self.run.denoiser.state_dict(),
            "torch": torch.get_rng_state(),
            "numpy": [torch.from_numpy(keys), *rest],
            "random": random.getstate(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.run.model.load_state_dict(state["model"])
        self.run.optimizer.load_state_dict(state["optimizer"])
        self.run.denoiser.load_state_dict(state["denoiser"])
        torch.set_rng_state(state["torch"])
        keys, *rest = state["numpy"]
        np.random.set_state(("MT19937", keys.numpy(), *rest))  # noqa: NPY002
        random.setstate(state["random"])


def _through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    read: dict[str, Any] = torch.load(file, weights_only=True)
    return read
