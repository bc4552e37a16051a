"""The ring of visits against lists in a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdl_wrap.guiding.factors import FactorHistory

IDS = np.array([2, 3, 5, 8, 13, 21])


def history(length: int = 3, dtype: type = np.float64) -> FactorHistory:
    return FactorHistory(IDS, length, dtype=np.dtype(dtype))


visits = st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=12)


@settings(deadline=None, max_examples=80)
@given(visits, st.integers(1, 4))
def test_sequences_equal_lists_of_the_last_visits(records: list[list[int]], length: int) -> None:
    found = history(length)
    lists: dict[int, list[list[float]]] = {place: [] for place in range(len(IDS))}
    value = 0.0
    for places in records:
        factors, latest = [], {}
        for place in places:
            value += 1.0
            factors.append([value, -value])
            latest[place] = [value, -value]  # named twice, the last counts, as one visit
        ids = IDS[np.array(places, dtype=np.int64)]
        found.record(found.slots(ids), np.array(factors, dtype=np.float64).reshape(-1, 2))
        for place, pair in latest.items():
            lists[place].append(pair)

    asked = np.array([5, 0, 3, 3, 1, 2, 4])  # in any order, and twice
    sequences, lived = found.sequences(found.slots(IDS[asked]))
    assert sequences.shape == (length, len(asked), 2)
    for column, place in enumerate(asked.tolist()):
        expected = lists[place][-length:]
        assert int(lived[column]) == max(1, len(expected))
        assert sequences[: len(expected), column].tolist() == expected
        assert not sequences[len(expected) :, column].any()


def test_slots_are_the_places_of_interactions() -> None:
    assert history().slots(np.array([13, 2, 21, 2])).tolist() == [4, 0, 5, 0]
    assert history().slots(np.array([-1, 4, 22, 0, 21])).tolist() == [-1, -1, -1, -1, 5]
    none = FactorHistory(np.array([], dtype=np.int64), 2, dtype=np.dtype(np.float64))
    assert none.slots(np.array([3, -1])).tolist() == [-1, -1]


def test_visits_are_kept_in_the_precision_asked_for() -> None:
    found = history(dtype=np.float32)
    found.record(np.array([1]), np.array([[1 / 3, 2.0]]))
    sequences, _ = found.sequences(np.array([1]))
    assert sequences.dtype == np.float32
    assert sequences[0, 0].tolist() == [np.float32(1 / 3), 2.0]


def test_sequences_are_copies_of_the_ring() -> None:
    found = history()
    found.record(np.array([0]), np.ones((1, 2)))
    before, _ = found.sequences(np.array([0]))
    kept = before.copy()
    found.record(np.array([0]), np.zeros((1, 2)))
    assert (before == kept).all()
    before[:] = 7.0
    assert not (found.ring == 7.0).any()


@settings(deadline=None, max_examples=60)
@given(visits, st.sets(st.integers(0, 30), min_size=1), st.integers(1, 4))
def test_interactions_that_stay_keep_their_visits_and_new_ones_have_none(
    records: list[list[int]], later: set[int], length: int
) -> None:
    found = history(length)
    for number, places in enumerate(records):
        ids = np.unique(IDS[np.array(places, dtype=np.int64)])
        found.record(found.slots(ids), np.full((len(ids), 2), 1.0 + number))
    before = {int(i): found.sequences(found.slots(np.array([i]))) for i in IDS}
    ids = np.array(sorted(later))
    found = found.following(ids)
    assert found.ids.tolist() == ids.tolist()
    assert found.slots(ids).tolist() == list(range(len(ids)))
    for i in ids:
        factors, lived = found.sequences(found.slots(np.array([i])))
        kept = before.get(int(i), (np.zeros_like(factors), np.array([1])))
        assert np.array_equal(factors, kept[0])
        assert lived.tolist() == kept[1].tolist()
    found.record(found.slots(ids), np.ones((len(ids), 2)))  # and goes on


@settings(deadline=None)
@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_those_that_stay_keep_their_visits_and_others_begin_anew(
    before: set[int], after: set[int]
) -> None:
    found = FactorHistory(np.array(sorted(before), dtype=np.int64), 2, dtype=np.dtype(np.float64))
    ids = np.array(sorted(before), dtype=np.int64)
    for visit in (1.0, 2.0, 3.0):
        found.record(found.slots(ids), np.stack([ids + visit, ids * visit], axis=1))
    found = found.following(np.array(sorted(after), dtype=np.int64))
    assert found.ids.tolist() == sorted(after)
    if not after:
        return
    sequences, lived = found.sequences(found.slots(found.ids))
    for column, one in enumerate(sorted(after)):
        stayed = one in before
        assert lived[column] == (2 if stayed else 1)
        expected = [[one + 2.0, one * 2.0], [one + 3.0, one * 3.0]] if stayed else [[0, 0], [0, 0]]
        assert sequences[:, column].tolist() == expected
