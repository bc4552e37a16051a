from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.data.interaction_data import InteractionData
from bench.study.grids import BENCHES
from bench.study.traces import Memorization, make_trace, trace_settings

CLEAN = np.array([True, True, True, False])


def test_rates_and_precision_are_shares_of_clean_noisy_and_memorized() -> None:
    found = Memorization()
    found.add(np.zeros(4, dtype=bool), CLEAN)
    found.add(np.array([True, False, False, True]), CLEAN)
    assert found.clean == pytest.approx([0, 1 / 3])
    assert found.noisy == [0, 1]
    assert found.precision == [None, 0.5]


def test_precision_and_recall_meet_where_as_many_are_memorized_as_are_clean() -> None:
    found = Memorization()
    found.add(np.array([True, True, False, False]), CLEAN)  # MP 1, MR 2/3
    assert found.crossing() is None
    found.add(np.array([True, True, False, True]), CLEAN)  # both 2/3
    found.add(np.ones(4, dtype=bool), CLEAN)
    assert found.crossing() == 2


def test_settings_are_those_of_the_bench() -> None:
    settings = trace_settings("d", "neumf", "natural", 3, None)
    likeliest = BENCHES["neumf"].middle[0]
    assert (settings.learning_rate, settings.l2) == (likeliest.learning_rate, likeliest.l2)
    assert trace_settings("d", "neumf", "natural", 3, 5).epochs == 5


@pytest.fixture(scope="module")
def trace(request: pytest.FixtureRequest) -> dict[str, Any]:
    data = request.getfixturevalue("small_data")
    told: list[str] = []
    settings = replace(trace_settings("d", "neumf", "natural", 0, 12), learning_rate=0.02, l2=1e-3)
    found = make_trace(settings, data, told.append)
    assert told[-1] == "sgdl, epoch 12/12"
    return found


def test_both_trainings_are_one_until_the_switch(trace: dict[str, Any]) -> None:
    switch = trace["switch"]
    assert switch is not None
    assert switch < 11
    for name in ("clean", "noisy", "precision"):
        assert len(trace["plain"][name]) == len(trace["sgdl"][name]) == 12
        assert trace["plain"][name][:switch] == trace["sgdl"][name][:switch]
    assert trace["plain"]["clean"][switch:] != trace["sgdl"]["clean"][switch:]


def test_histograms_hold_every_train_interaction_by_its_flag(
    trace: dict[str, Any], small_data: InteractionData
) -> None:
    flags = small_data.train_clean
    assert flags is not None
    for name in ("losses", "weights"):
        assert sum(trace[name]["clean"]) == flags.sum()
        assert sum(trace[name]["noisy"]) == (~flags).sum()
    assert trace["true_noise_rate"] == pytest.approx(1 - flags.mean())
    assert np.all(np.diff(trace["weights"]["loss"]) >= 0)


def test_losses_are_those_of_the_mixture_that_decided(trace: dict[str, Any]) -> None:
    mixture, losses = trace["losses"]["mixture"], trace["losses"]
    middles = (np.array(losses["edges"][1:]) + losses["edges"][:-1]) / 2
    counts = np.add(losses["clean"], losses["noisy"])
    mean = np.dot(middles, counts) / counts.sum()
    assert np.dot(mixture["weights"], mixture["means"]) == pytest.approx(mean, abs=0.02)
    assert mixture["weights"][1] == pytest.approx(trace["noise_rate"], abs=0.02)


def test_data_without_flags_are_refused(small_data: InteractionData) -> None:
    settings = trace_settings("d", "neumf", "natural", 0, 1)
    with pytest.raises(
        ValueError,
        match=r"^Expected train interactions with clean flags, got generated without\. Give "
        r"train\.tsv a third column; the figures show what is clean and what is not\.$",
    ):
        make_trace(settings, replace(small_data, train_clean=None), print)
