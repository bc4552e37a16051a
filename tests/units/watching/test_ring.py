"""The memorization history against a plain list of bool arrays (Eq. 1)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdl_wrap.watching import ring as module
from sgdl_wrap.watching.ring import MemorizationRing, count_bits


@st.composite
def histories(draw):
    """h, and the bits of each epoch, (epochs, N)."""
    h = draw(st.integers(1, 12))
    n = draw(st.integers(1, 70))
    epochs = draw(st.integers(0, 2 * h + 3))
    share = draw(st.sampled_from([0.2, 0.5, 0.9, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return h, rng.random((epochs, n)) < share


def filled(h: int, bits: np.ndarray) -> MemorizationRing:
    found = MemorizationRing(bits.shape[1], h)
    for row in bits:
        found = found.pushed(np.packbits(row))
    return found


def slow_counts(h: int, bits: np.ndarray) -> list[int]:
    """How many of the last h epochs each interaction was memorized in; missing ones are 0."""
    return [sum(bool(row[k]) for row in bits[-h:]) for k in range(bits.shape[1])]


@settings(deadline=None)
@given(history=histories())
def test_counts_are_those_of_the_last_h_epochs(history):
    h, bits = history
    assert filled(h, bits).counts().tolist() == slow_counts(h, bits)


@settings(deadline=None)
@given(history=histories(), data=st.data())
def test_counts_of_a_range_are_a_part_of_all(history, data):
    h, bits = history
    n = bits.shape[1]
    start = 8 * data.draw(st.integers(0, (n - 1) // 8))
    stop = data.draw(st.integers(start, n))
    assert filled(h, bits).counts(start, stop).tolist() == slow_counts(h, bits)[start:stop]


@settings(deadline=None)
@given(history=histories(), chunk=st.sampled_from([8, 16, 64]))
def test_steady_are_those_that_missed_at_most_one_in_twenty_of_the_epochs_lived(history, chunk):
    h, bits = history
    n = bits.shape[1]
    lived = min(h, len(bits))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found = np.unpackbits(filled(h, bits).steady(), count=n).astype(bool)
    expected = [2 * c > h and (lived - c) * 20 <= lived for c in slow_counts(h, bits)]
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("h", "lived", "missed", "steady"),
    [(20, 19, 1, False), (20, 20, 1, True), (20, 20, 2, False), (40, 40, 2, True),
     (40, 21, 1, False)],  # of which 20 are no majority of 40
)  # fmt: skip
def test_one_epoch_in_twenty_may_be_missed(h: int, lived: int, missed: int, steady: bool) -> None:
    bits = np.ones((lived, 3), dtype=bool)
    bits[:missed, 1] = False
    found = np.unpackbits(filled(h, bits).steady(), count=3).astype(bool)
    assert found.tolist() == [True, steady, True]


@settings(deadline=None)
@given(history=histories(), chunk=st.sampled_from([8, 16, 64]))
def test_memorized_is_the_strict_majority_over_h_in_every_chunk(history, chunk):
    h, bits = history
    n = bits.shape[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        packed = filled(h, bits).memorized()
    expected = [count / h > 0.5 for count in slow_counts(h, bits)]
    assert packed.shape == ((n + 7) // 8,)
    assert np.unpackbits(packed, count=n).astype(bool).tolist() == expected
    assert count_bits(packed) == sum(expected)  # and the padding is 0


@settings(deadline=None)
@given(history=histories(), data=st.data())
def test_rates_are_the_share_of_h_epochs_for_ids_in_any_order(history, data):
    h, bits = history
    chosen = data.draw(st.lists(st.integers(0, bits.shape[1] - 1), max_size=30))
    expected = np.array([slow_counts(h, bits)[k] / h for k in chosen])
    found = filled(h, bits).rates(np.array(chosen, dtype=np.int64))
    assert found.dtype == np.float32
    assert found.shape == (len(chosen),)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("h", [2, 4, 10])
def test_exactly_half_is_not_a_majority(h):
    half = np.arange(h) < h // 2
    bits = np.stack([half, ~half, np.arange(h) < h // 2 + 1], axis=1)
    packed = filled(h, bits).memorized()
    assert np.unpackbits(packed, count=3).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("h", "first"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (9, 5), (10, 6), (20, 11)]
)
def test_nothing_is_memorized_before_more_than_half_of_h_epochs(h, first):
    found = MemorizationRing(11, h)
    for epoch in range(1, h + 1):
        found = found.pushed(np.packbits(np.ones(11, dtype=bool)))
        assert count_bits(found.memorized()) == (11 if epoch >= first else 0)


def test_what_was_forgotten_for_long_is_not_memorized():
    bits = np.ones((7, 3), dtype=bool)
    bits[4:, 1] = False  # 1 of the last 4
    bits[5:, 2] = False  # 2 of the last 4, exactly half
    packed = filled(4, bits).memorized()
    assert np.unpackbits(packed, count=3).tolist() == [1, 0, 0]


@pytest.mark.parametrize(("n", "h", "expected"), [(8, 10, 10), (9, 10, 20), (100_000, 10, 125_000),
                                                  (7, 1, 1), (1_000, 16, 2_000)])  # fmt: skip
def test_holds_one_bit_per_interaction_and_epoch(n, h, expected):
    assert MemorizationRing(n, h).state()[0].nbytes == expected


@settings(deadline=None)
@given(history=histories(), cut=st.integers(0, 30))
def test_a_restored_buffer_goes_on_as_the_first_does(history, cut):
    h, bits = history
    first = filled(h, bits[:cut])
    second = MemorizationRing(bits.shape[1], h)
    second.restore(*first.state())
    for row in bits[cut:]:
        second = second.pushed(np.packbits(row))
    # the restored one shares no memory with the first, which stays where it was
    assert first.counts().tolist() == slow_counts(h, bits[:cut])
    assert second.counts().tolist() == slow_counts(h, bits)
    assert second.epochs == len(bits)
    assert second.memorized().tolist() == filled(h, bits).memorized().tolist()


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 100))
def test_bits_are_counted(seed, n):
    bits = np.random.default_rng(seed).random(n) < 0.4
    assert count_bits(np.packbits(bits)) == sum(bits.tolist())
