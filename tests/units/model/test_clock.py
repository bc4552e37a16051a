"""The stopwatch of what the denoiser adds, by a clock that the test moves."""

from __future__ import annotations

import pytest

from sgdl_wrap.model import clock as stopwatch
from sgdl_wrap.model.clock import AddedTime


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    return now


def test_it_runs_inside_adding_and_stands_still_inside_shared(clock: list[float]) -> None:
    added = AddedTime()
    clock[0] += 1  # plain
    with added.adding():
        clock[0] += 2
        with added.shared():
            clock[0] += 4
        clock[0] += 8
    clock[0] += 16
    assert added.take() == 10
    assert added.take() == 0


def test_what_is_nested_counts_once(clock: list[float]) -> None:
    added = AddedTime()
    with added.adding():
        clock[0] += 1
        with added.adding():
            clock[0] += 2
        clock[0] += 4
    with added.shared():
        clock[0] += 8
    assert added.take() == 7


def test_taken_in_the_middle_the_rest_is_counted_later(clock: list[float]) -> None:
    added = AddedTime()
    with added.adding():
        clock[0] += 1
        assert added.take() == 1
        clock[0] += 2
    assert added.take() == 2


def test_an_error_stops_it(clock: list[float]) -> None:
    added = AddedTime()

    def fail() -> None:
        clock[0] += 1
        raise KeyError

    with pytest.raises(KeyError), added.adding():
        fail()
    clock[0] += 2
    assert added.take() == 1
