from __future__ import annotations

import math

import pytest

from bench.statistics import mean_and_spread, paired_p_value, recovered_share


def test_spread_is_that_of_a_sample() -> None:
    mean, spread = mean_and_spread([1.0, 2.0, 4.0])
    assert mean == pytest.approx(7 / 3)
    assert spread == pytest.approx(math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2))
    assert mean_and_spread([3.0]) == (3.0, None)


def test_p_value_is_of_the_paired_differences() -> None:
    reference = [10.0, 20.0, 30.0]
    # Differences 1, 2, 3: t = 2 / (1 / sqrt 3) = 3.4641 with 2 degrees of freedom, for which
    # p = 1 - t / sqrt(t² + 2).
    t = 2 * math.sqrt(3)
    expected = 1 - t / math.sqrt(t * t + 2)
    assert paired_p_value([11.0, 22.0, 33.0], reference) == pytest.approx(expected)


def test_no_p_value_where_nothing_varies() -> None:
    assert paired_p_value([1.0], [0.5]) is None
    assert paired_p_value([1.0, 2.0], [1.0, 2.0]) is None


def test_recovered_share_is_of_the_distance_to_the_ceiling() -> None:
    assert recovered_share(0.34, plain=0.30, clean_only=0.35) == pytest.approx(0.8)
    assert recovered_share(0.29, plain=0.30, clean_only=0.35) == pytest.approx(-0.2)


def test_where_clean_only_is_hardly_better_there_is_nothing_to_recover() -> None:
    assert recovered_share(0.34, plain=0.30, clean_only=0.305) is None
    assert recovered_share(0.34, plain=0.30, clean_only=0.25) is None
