"""When Phase I ends: Eq. 3, its shift, the time-out."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sgdl_wrap.equations.memorization import first_stall
from sgdl_wrap.loop.switch import Switch, Verdict
from sgdl_wrap.records import Phase

RATES = st.floats(0, 1, allow_nan=False)
SHIFTS = st.floats(-1, 1, allow_nan=False)


def verdict(detector: Switch, memorized: int, total: int, noise_rate: float,
            epoch: int = 1) -> Verdict:  # fmt: skip
    return detector.decide(epoch=epoch, memorized=memorized, total=total, noise_rate=noise_rate)


@settings(deadline=None)
@given(rate=RATES, shift=SHIFTS)
def test_clean_ratio_is_one_less_the_shifted_noise_rate_within_its_range(rate, shift):
    exact = 1 - Fraction(rate) - Fraction(shift)
    expected = float(min(max(exact, Fraction(0)), Fraction(1)))
    assert Switch(shift).clean_ratio(rate) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(rate=RATES, shift=SHIFTS, total=st.integers(1, 10**7), share=st.floats(0, 1))
def test_switches_when_memorized_ratio_reaches_clean_ratio(rate, shift, total, share):
    memorized = round(share * total)
    needed = (1 - Fraction(rate) - Fraction(shift)) * total
    assume(abs(memorized - needed) > 1e-6)  # the boundary itself is pinned below
    expected = memorized > 0 and (memorized > needed or memorized == total)
    if needed > total:  # a clean ratio is at most 1
        expected = memorized == total
    found = verdict(Switch(shift), memorized, total, rate)
    assert found is (Verdict.REACHED if expected else Verdict.STAY)


@pytest.mark.parametrize(
    ("rate", "shift", "needed"),
    [(0.25, 0.0, 12), (0.5, 0.0, 8), (0.25, 0.25, 8), (0.25, -0.125, 14), (0.0, 0.0, 16),
     (0.25, -0.5, 16), (0.75, 0.5, 1)],
)  # fmt: skip
def test_equality_reaches_and_one_less_does_not(rate, shift, needed):
    detector = Switch(shift)
    assert verdict(detector, needed, 16, rate) is Verdict.REACHED
    assert verdict(detector, needed - 1, 16, rate) is Verdict.STAY


def test_a_positive_shift_switches_earlier_and_a_negative_one_later():
    found = {
        shift: next(
            memorized for memorized in range(101)
            if verdict(Switch(shift), memorized, 100, 0.3) is Verdict.REACHED
        )
        for shift in (-0.1, -0.05, 0.0, 0.05, 0.1)
    }  # fmt: skip
    assert found[-0.1] > found[-0.05] > found[0.0] > found[0.05] > found[0.1]


@settings(deadline=None)
@given(rate=RATES, shift=SHIFTS, total=st.integers(1, 10**7))
def test_an_empty_memorized_set_never_reaches(rate, shift, total):
    assert verdict(Switch(shift), 0, total, rate) is Verdict.STAY


@settings(deadline=None)
@given(timeout=st.integers(1, 50), epoch=st.integers(1, 100))
def test_time_is_out_from_its_epoch_on(timeout, epoch):
    found = verdict(Switch(timeout=timeout), 1, 100, 0.0, epoch)
    assert found is (Verdict.TIMED_OUT if epoch >= timeout else Verdict.STAY)


def test_without_a_timeout_it_waits_for_ever():
    assert verdict(Switch(), 99, 100, 0.0, 10**9) is Verdict.STAY


def test_reaching_goes_before_the_time_out():
    assert verdict(Switch(timeout=3), 80, 100, 0.3, 3) is Verdict.REACHED


def test_time_runs_out_on_an_empty_memorized_set_too():
    assert verdict(Switch(timeout=3), 0, 100, 1.0, 3) is Verdict.TIMED_OUT


def test_the_authors_log_is_reproduced():
    # LightGCN on ML-100K as printed by the authors' code: (clean ratio, memory ratio) by epoch
    clean = [0.536, 0.596, 0.655, 0.722, 0.756, 0.786, 0.771, 0.755]
    memory = [0, 0, 0, 0, 0.642, 0.751, 0.766, 0.772]
    found = [
        verdict(Switch(), round(1000 * m), 1000, 1 - c, epoch)
        for epoch, (c, m) in enumerate(zip(clean, memory, strict=True), start=1)
    ]
    assert found == [Verdict.STAY] * 7 + [Verdict.REACHED]


def test_phases_and_verdicts_are_plain_words():
    assert [phase.value for phase in Phase] == ["memorization", "self_guided"]
    assert Phase("memorization") is Phase.MEMORIZATION


@pytest.mark.parametrize(
    ("gaps", "epoch"),
    [
        ([5, 4, 3, 2, 1], None),  # nearer all the time
        ([5, 5, 5, 5, 5], 4),
        ([5, 3, 4, 2, 3, 3], 6),  # up and down, and by then no nearer than at the fourth
        ([0, 1, 0.9, 0.8], None),  # the first two are compared with nothing
        ([1, 2, 3], None),  # too few
        ([5, 4, 3, 4, 3, 3, 2], 4),  # the first time counts
    ],
)
def test_a_stall_is_the_first_epoch_no_nearer_than_a_window_before(gaps, epoch):
    assert first_stall(gaps, 2) == epoch
