"""Ctrl-C at any line of load_checkpoint: every part is as it was, or every part is loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from sgdl_wrap import StateError, load_checkpoint, save_checkpoint
from tests.support.interrupts import Interrupt
from tests.support.models_zoo import assert_identical, seeded, without
from tests.support.resume_in_fresh_process import Run


class Parts:
    """A run and a generator; what is loaded, and what is to be seen of it."""

    def __init__(self, steps: int) -> None:
        with seeded(17):
            self.run = Run("neumf tuple")
            self.run.train(steps)
        self.generator = torch.Generator().manual_seed(steps)

    def named(self) -> dict[str, Any]:
        return {
            "model": self.run.model,
            "optimizer": self.run.optimizer,
            "generator": self.generator,
            "denoiser": self.run.denoiser,
        }

    def seen(self) -> Any:
        states = {
            name: part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
            for name, part in self.named().items()
        }
        return copy.deepcopy(without(states, "seconds"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    place, parts = tmp_path_factory.mktemp("saved") / "run.pt", Parts(10)
    save_checkpoint(place, **parts.named())
    return place, parts.seen()


def is_same(found: Any, expected: Any) -> bool:
    try:
        assert_identical(found, expected)
    except AssertionError:
        return False
    return True


def lines_of(place: Path, *names: str) -> int:
    parts = Parts(3)
    with Interrupt(-1, *names) as interrupt:
        load_checkpoint(place, **parts.named())
    return interrupt.lines


def interrupted(place: Path, loaded: Any, points: range, *names: str) -> list[bool]:
    """Whether all was loaded, by the line of the interrupt."""
    parts = Parts(3)
    before, outcomes = parts.seen(), []
    for at in points:
        with Interrupt(at, *names) as interrupt:
            load_checkpoint(place, **parts.named())
        found = parts.seen()
        outcomes.append(is_same(found, loaded))
        if outcomes[-1]:
            parts = Parts(3)
        else:
            assert_identical(found, before)
        assert interrupt.lines >= at
    return outcomes


def test_at_every_line_of_loading_itself(saved: tuple[Path, Any]) -> None:
    place, loaded = saved
    total = lines_of(place, "checkpoint.py")
    outcomes = interrupted(place, loaded, range(1, total + 1), "checkpoint.py")
    assert outcomes == sorted(outcomes)  # as it was, then loaded
    assert outcomes.count(False) > 50
    assert outcomes[-1]


def test_at_lines_of_all_that_takes_part(saved: tuple[Path, Any]) -> None:
    place, loaded = saved
    total = lines_of(place)
    outcomes = interrupted(place, loaded, range(1, total + 1, total // 60))
    assert outcomes.count(False) > 50


def test_at_every_line_when_a_part_does_not_fit(saved: tuple[Path, Any]) -> None:
    """Also amid putting back what the parts before it have taken."""
    place, _ = saved
    parts = Parts(3)
    named = parts.named()
    named["optimizer"] = torch.optim.Adam([next(parts.run.model.parameters())])
    before, raised = parts.seen(), 0
    for at in range(1, 1000):
        try:
            with Interrupt(at, "checkpoint.py") as interrupt:
                load_checkpoint(place, **named)
        except StateError:
            raised += 1
        assert_identical(parts.seen(), before)
        if interrupt.lines < at:
            break
    assert raised == 1  # the last time, without an interrupt


class Stubborn:
    """Has no state, takes what was in the file, and refuses to be without one again."""

    def __init__(self, value: int | None = None) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {} if self.value is None else {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state
        self.value = state["value"]


def test_a_part_that_refuses_its_own_state_keeps_no_other_from_its_own(tmp_path: Path) -> None:
    generator, linear = torch.Generator().manual_seed(1), torch.nn.Linear(2, 2)
    save_checkpoint(tmp_path / "run.pt", one=Stubborn(1), generator=generator, model=linear)
    generator.manual_seed(2)
    expected = generator.get_state()
    with pytest.raises(StateError, match=r"^Expected the model of the checkpoint .* to fit, got "):
        load_checkpoint(
            tmp_path / "run.pt", one=Stubborn(), generator=generator, model=torch.nn.Linear(3, 3)
        )
    assert torch.equal(generator.get_state(), expected)


def test_whatever_a_part_raises_is_a_state_error(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run.pt", one=Stubborn())
    with pytest.raises(StateError, match=r"^Expected the one of the checkpoint .* AssertionError"):
        load_checkpoint(tmp_path / "run.pt", one=Stubborn())
