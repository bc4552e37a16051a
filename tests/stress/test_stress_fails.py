"""The stress command finds what is broken: one mutant of the library for each of its sections."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sgdl_wrap import SelfGuidedDenoiser, save_checkpoint
from tests.stress import bits, interrupts, writers
from tests.stress.__main__ import survey

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="trials are forks")


def draws_more_than_it_says(patch: pytest.MonkeyPatch) -> None:
    """A call that draws before it is done draws again when it is repeated."""
    names: dict[str, Any] = {"step": SelfGuidedDenoiser.step, "torch": torch}
    lines = "def drawing(*arguments):\n    torch.rand(1)\n" + "    arguments = arguments\n" * 400
    source = lines + "    return step(*arguments)\n"
    exec(compile(source, interrupts.PACKAGE + "mutant.py", "exec"), names)
    patch.setattr(SelfGuidedDenoiser, "step", names["drawing"])


def loads_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SelfGuidedDenoiser, "load_state_dict", lambda self, state: None)


def takes_all_for_whole(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(bits, "load_checkpoint", lambda place, **parts: bits.REST)


def raises_what_nobody_documents(patch: pytest.MonkeyPatch) -> None:
    def report(self: SelfGuidedDenoiser) -> None:
        raise KeyError("a column")

    patch.setattr(SelfGuidedDenoiser, "report", report)


def leaves_litter(patch: pytest.MonkeyPatch) -> None:
    def save(place: Path, **parts: Any) -> None:
        own = place.with_name(f"{os.getpid()}.pt")
        save_checkpoint(own, **parts)
        os.replace(own, place)
        own.touch()

    patch.setattr(writers, "save_checkpoint", save)


MUTANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "bits": (takes_all_for_whole, "loads other values"),
    "interrupts": (draws_more_than_it_says, "step: ends differently"),
    "writers": (leaves_litter, "litter"),
    "sequences": (raises_what_nobody_documents, "undocumented KeyError"),
    "states": (loads_nothing, "loads another value"),
    "resume": (loads_nothing, "ends differently"),
}


@pytest.mark.parametrize("section", MUTANTS)
def test_a_mutant_does_not_survive(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks, kind = MUTANTS[section]
    breaks(monkeypatch)
    kinds = [outcome.kind for outcome in survey(section, seed=1, tries=8)]
    assert len(kinds) == 8
    assert kind in kinds
