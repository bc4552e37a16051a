"""A handful of each section of `python -m tests.stress`, which takes minutes as a whole."""

from __future__ import annotations

import os

import pytest

from tests.stress.__main__ import SECTIONS, survey

HANDFUL = {"bits": 40, "interrupts": 10, "writers": 1, "sequences": 10, "states": 15, "resume": 15}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="trials are forks")
@pytest.mark.parametrize("section", SECTIONS)
def test_a_handful_of_trials_survives(section: str) -> None:
    outcomes = survey(section, seed=0, tries=HANDFUL[section])
    assert len(outcomes) == HANDFUL[section]
    wrong = [outcome for outcome in outcomes if outcome.kind]
    assert not wrong, "\n".join(f"{one.number}: {one.kind}: {one.what}" for one in wrong)
