"""The ring of visits against lists in a dict."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdl_wrap.self_guided.factors import FactorHistory

IDS = torch.tensor([2, 3, 5, 8, 13, 21])


def history(length: int = 3, dtype: torch.dtype = torch.float64) -> FactorHistory:
    return FactorHistory(IDS, length, dtype=dtype)


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
        ids = IDS[torch.tensor(places, dtype=torch.int64)]
        found.record(
            found.slots(ids), torch.tensor(factors, dtype=torch.float64).reshape(-1, 2)
        )
        for place, pair in latest.items():
            lists[place].append(pair)

    asked = torch.tensor([5, 0, 3, 3, 1, 2, 4])  # in any order, and twice
    sequences, lived = found.sequences(found.slots(IDS[asked]))
    assert sequences.shape == (length, len(asked), 2)
    for column, place in enumerate(asked.tolist()):
        expected = lists[place][-length:]
        assert int(lived[column]) == max(1, len(expected))
        assert sequences[: len(expected), column].tolist() == expected
        assert not sequences[len(expected) :, column].any()


def test_slots_are_the_places_of_interactions() -> None:
    assert history().slots(torch.tensor([13, 2, 21, 2])).tolist() == [4, 0, 5, 0]


def test_visits_are_kept_in_the_precision_asked_for() -> None:
    found = history(dtype=torch.float32)
    found.record(torch.tensor([1]), torch.tensor([[1 / 3, 2.0]], dtype=torch.float64))
    sequences, _ = found.sequences(torch.tensor([1]))
    assert sequences.dtype == torch.float32
    assert sequences[0, 0].tolist() == torch.tensor([1 / 3, 2.0]).tolist()


def test_sequences_are_copies_of_the_ring() -> None:
    found = history()
    found.record(torch.tensor([0]), torch.ones(1, 2))
    before, _ = found.sequences(torch.tensor([0]))
    kept = before.clone()
    found.record(torch.tensor([0]), torch.zeros(1, 2))
    assert torch.equal(before, kept)
