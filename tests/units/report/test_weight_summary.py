"""What the weights do, in numbers."""

from __future__ import annotations

import numpy as np
import pytest

from sgdl_wrap.report.weight_summary import WeightSummary, doubt, evenly, summary


def test_even_weights_are_ones_throughout() -> None:
    rng = np.random.default_rng(0)
    found = summary(np.full(50, 0.3), rng.random(50), rng.integers(5, size=50))
    assert found == WeightSummary(pytest.approx(1), pytest.approx(1), pytest.approx(1))


def test_each_number_is_what_its_definition_gives() -> None:
    weights = np.array([0.2] * 10 + [1.0] * 90)
    suspicion = np.linspace(1, 0, 100)
    fifths = np.array([0] * 20 + [3] * 80)
    found = summary(weights, suspicion, fifths)
    assert found.effective == pytest.approx(weights.sum() ** 2 / (100 * (weights**2).sum()))
    assert found.suspicious == pytest.approx(0.2)
    assert found.rare == pytest.approx(0.6)


@pytest.mark.parametrize("equal", [10, 40, 99])
def test_equally_suspicious_ones_count_together(equal: int) -> None:
    """However many they are, those at the top are not left out."""
    weights = np.array([0.2] * equal + [1.0] * (100 - equal))
    suspicion = np.array([0.9] * equal + [0.1] * (100 - equal))
    assert summary(weights, suspicion, np.ones(100)).suspicious == pytest.approx(0.2)
    few = summary(weights[::-1], suspicion[::-1] * 0 + (np.arange(100) > 96), np.ones(100))
    assert few.suspicious == pytest.approx(0.2 / weights[::-1][:97].mean())


def test_unknown_weights_and_suspicions_are_left_out() -> None:
    weights = np.array([1.0, np.nan, 1.0, 5.0])
    suspicion = np.array([0.1, 0.9, 0.2, np.nan])
    assert summary(weights, suspicion, np.zeros(4)).effective == pytest.approx(1)
    nothing = summary(np.full(3, np.nan), np.zeros(3), np.zeros(3))
    assert nothing == WeightSummary(1.0, 1.0, 1.0)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_places_are_evenly_spaced_and_distinct(size: int) -> None:
    found = evenly(size, 10)
    assert len(found) == min(size, 10)
    assert (found[0], found[-1]) == (0, size - 1)
    assert (np.diff(found) > 0).all()


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (WeightSummary(0.9, 0.4, 0.95), None),
        (WeightSummary(1.0, 1.0, 1.0), None),
        (WeightSummary(0.9, 1.2, 1.0), "got 1.20 of the rest's: what guides teaches the noise"),
        (WeightSummary(0.8, 0.9, 0.4), "they follow popularity"),
        (WeightSummary(0.8, 0.2, 0.5), None),  # noise falls on rare items, and is found
        (WeightSummary(0.8, 0.15, 0.14), None),
    ],
)
def test_a_doubt_names_what_is_wrong(found: WeightSummary, says: str | None) -> None:
    text = doubt(found)
    assert (text is None) == (says is None)
    assert says is None or says in str(text)
