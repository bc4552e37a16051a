"""The observed pairs against a dict and plain sets."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sgdl_wrap import DenoiserWarning, InteractionsError
from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.errors import batch_named

FAR = [10**9, 10**9 + 1, 2**31, 2**61, 2**62, 2**63 - 1]
# without gaps, as most data sets are; with some; and anywhere
USERS = st.one_of(
    st.integers(0, 2), st.integers(0, 9), st.one_of(st.integers(0, 9), st.sampled_from(FAR))
)
PAIRS = st.one_of(*(
    st.lists(st.tuples(users, st.integers(0, 11)), min_size=1, max_size=50)
    for users in (st.integers(0, 2), st.integers(0, 9), USERS)
))
EXTRA = st.one_of(st.none(), st.integers(0, 4))  # items past the largest observed, or not given


def ids(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def places(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def interactions_of(pairs: list[tuple[int, int]], extra: int | None) -> Interactions:
    """Built from `pairs` with repeats allowed; n_items is given where `extra` is."""
    users, items = [u for u, _ in pairs], [i for _, i in pairs]
    n_items = None if extra is None else max(items) + 1 + extra
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DenoiserWarning)
        return Interactions(users, items, n_items=n_items)


# ------------------------------------------------------------------ against references


@settings(deadline=None)
@given(pairs=PAIRS, extra=EXTRA)
def test_ids_number_the_distinct_pairs_in_order_of_user_and_item(pairs, extra):
    found = interactions_of(pairs, extra)
    distinct = sorted(set(pairs))
    assert len(found) == len(distinct)
    assert list(zip(found.users.tolist(), found.items.tolist(), strict=True)) == distinct


@settings(deadline=None)
@given(
    pairs=PAIRS,
    extra=EXTRA,
    queries=st.lists(
        st.tuples(st.one_of(st.integers(0, 30), st.sampled_from(FAR)), st.integers(0, 30)),
        max_size=60,
    ),
)
def test_look_up_agrees_with_a_dict(pairs, extra, queries):
    found = interactions_of(pairs, extra)
    if extra is not None:  # items past a given n_items are an error, told apart below
        queries = [(u, i) for u, i in queries if i < found.n_items]
    queries = queries + pairs
    place = {pair: k for k, pair in enumerate(sorted(set(pairs)))}
    expected = [place.get(pair, -1) for pair in queries]
    users, items = ids([u for u, _ in queries]), ids([i for _, i in queries])
    assert found.find(users, items).tolist() == expected


@settings(deadline=None)
@given(pairs=PAIRS, extra=EXTRA)
def test_counts_and_starts_agree_with_counting_by_hand(pairs, extra):
    found = interactions_of(pairs, extra)
    distinct = sorted(set(pairs))
    users = sorted({u for u, _ in pairs})
    counts = [sum(1 for u, _ in distinct if u == user) for user in users]
    assert found.n_users == len(users)
    assert found.counts.tolist() == counts
    assert found.starts.tolist() == [sum(counts[:place]) for place in range(len(users) + 1)]


@settings(deadline=None)
@given(pairs=PAIRS, others=st.lists(USERS, max_size=9))
def test_users_have_their_places_among_the_sorted(pairs, others):
    found = interactions_of(pairs, None)
    users = sorted({u for u, _ in pairs})
    assert found.known_users.tolist() == users
    assert found.ids_at(places([len(users) - 1, 0])).tolist() == [users[-1], users[0]]
    asked = [*others, *users]
    expected = [users.index(user) if user in users else -1 for user in asked]
    assert found.places_of(ids(asked)).tolist() == expected


@pytest.mark.parametrize(
    ("users", "held"), [([2, 0, 1, 1], False), ([1, 2], True), ([0, 2, 2, 2], True)],
    ids=["without gaps", "from 1", "a gap"],
)  # fmt: skip
def test_ids_of_users_are_held_only_where_they_have_gaps(users, held):
    assert (Interactions(users, list(range(len(users)))).user_ids is not None) is held


@settings(deadline=None)
@given(pairs=PAIRS, extra=EXTRA)
def test_unobserved_enumerates_the_complement_of_each_user(pairs, extra):
    found = interactions_of(pairs, extra)
    users, ranks, expected = [], [], []
    for place, user in enumerate(sorted({u for u, _ in pairs})):
        own = {i for u, i in pairs if u == user}
        for rank, item in enumerate(i for i in range(found.n_items) if i not in own):
            users.append(place)
            ranks.append(rank)
            expected.append(item)
    # handed over backwards, so that users need not come sorted
    answer = found.unobserved(places(users[::-1]), places(ranks[::-1]))
    assert answer.dtype == torch.int64
    assert answer.tolist() == expected[::-1]


def test_unobserved_of_a_subset_of_users_needs_no_other_user():
    found = Interactions([0, 0, 3, 3, 3, 7], [0, 1, 1, 2, 4, 5], n_items=6)
    # the user with id 3 has place 1
    assert found.unobserved(places([1, 1, 1]), places([0, 1, 2])).tolist() == [0, 3, 5]
    assert found.unobserved(places([2]), places([4])).tolist() == [4]


def test_look_up_and_complement_of_nothing_are_empty():
    found = Interactions([0, 1], [2, 3])
    looked_up, complement = found.find(ids([]), ids([])), found.unobserved(places([]), places([]))
    assert looked_up.shape == complement.shape == (0,)
    assert looked_up.dtype == np.int64
    assert complement.dtype == torch.int64


def test_item_past_an_inferred_catalogue_never_aliases_the_next_user():
    # items 0..3: the key of (0, 4) would be that of (1, 0), which is observed
    found = Interactions([0, 1, 1, 2], [3, 0, 1, 3])
    assert found.n_items == 4
    assert found.find(ids([0, 0, 1, 0]), ids([4, 5, 7, 4 * 2 + 3])).tolist() == [-1, -1, -1, -1]
    assert found.find(ids([1, 1, 2]), ids([0, 1, 3])).tolist() == [1, 2, 3]


def test_user_past_the_observed_ones_is_unknown():
    found = Interactions([0, 1], [0, 3])
    assert found.find(ids([2, 500, 1]), ids([0, 0, 3])).tolist() == [-1, -1, 1]


def test_user_id_near_the_limit_of_int64_is_unknown():
    found = Interactions([0, 1], [0, 3])
    assert found.find(ids([2**62]), ids([0])).tolist() == [-1]


# ------------------------------------------------------------------ construction


@pytest.mark.parametrize(
    "wrap",
    [list, tuple, np.array, torch.tensor, lambda x: np.array(x, dtype=np.int32),
     lambda x: torch.tensor(x, dtype=torch.uint8), lambda x: np.array(x, dtype=np.uint16)],
    ids=["list", "tuple", "numpy", "tensor", "int32", "uint8", "uint16"],
)  # fmt: skip
def test_accepts_every_kind_of_integer_sequence(wrap):
    found = Interactions(wrap([4, 0, 4]), wrap([200, 1, 3]))
    assert found.users.tolist() == [0, 4, 4]
    assert found.items.tolist() == [1, 3, 200]
    assert found.users.dtype == found.items.dtype == torch.int64


def test_small_integer_types_do_not_overflow_in_the_keys():
    users, items = torch.full((1,), 120, dtype=torch.int8), torch.full((1,), 127, dtype=torch.int8)
    found = Interactions(users, items)
    assert (found.users.tolist(), found.items.tolist()) == ([120], [127])


def test_repeats_are_said_once_and_counted_as_one():
    with pytest.warns(
        DenoiserWarning, match=r"Expected distinct pairs, got 3 repeats among 5\. A pair that "
        r"repeats is one interaction\."
    ) as caught:  # fmt: skip
        found = Interactions([1, 1, 0, 1, 0], [2, 2, 0, 2, 0])
    assert len(caught) == 1
    assert len(found) == 2
    assert found.counts.tolist() == [1, 1]


def test_distinct_pairs_are_taken_in_silence():
    Interactions([1, 1, 0], [2, 0, 0])  # a warning would be an error here


def test_rows_keeps_the_length_handed_over():
    with pytest.warns(DenoiserWarning, match="got 2 repeats among 5"):
        assert Interactions([1, 1, 0, 1, 0], [2, 3, 0, 2, 0]).rows == 5
    assert Interactions([1, 1, 0], [2, 0, 0]).rows == 3


def test_n_items_is_the_largest_id_plus_one_unless_given():
    assert Interactions([0], [6]).n_items == 7
    assert not Interactions([0], [6]).n_items_given
    assert Interactions([0], [6], n_items=9).n_items == 9
    assert Interactions([0], [6], n_items=9).n_items_given


def test_a_catalogue_may_be_large():
    n_items = 2**61
    found = Interactions([7, 5], [n_items - 1, 3], n_items=n_items)
    assert found.items.tolist() == [3, n_items - 1]
    assert found.find(ids([7, 5, 7]), ids([n_items - 1, 3, 3])).tolist() == [1, 0, -1]
    # of all but one, the last and the first
    assert found.unobserved(places([0, 1]), places([n_items - 2, 0])).tolist() == [n_items - 1, 0]


def test_arrays_handed_over_are_not_kept():
    users, items = np.array([0, 1]), torch.tensor([2, 3])
    found = Interactions(users, items)
    users[:] = 9
    items.fill_(9)
    assert (found.users.tolist(), found.items.tolist()) == ([0, 1], [2, 3])


# ------------------------------------------------------------------ fingerprint


def test_fingerprint_is_that_of_the_set_of_pairs():
    one = Interactions([0, 1, 2], [3, 1, 2])
    assert one.fingerprint() == Interactions([2, 0, 1], [2, 3, 1]).fingerprint()
    with pytest.warns(DenoiserWarning, match="got 1 repeats among 4"):
        again = Interactions([2, 0, 1, 1], [2, 3, 1, 1])
    assert one.fingerprint() == again.fingerprint()


@pytest.mark.parametrize(
    ("users", "items", "n_items"),
    [([0, 1, 2], [3, 1, 1], None), ([0, 1, 3], [3, 1, 2], None), ([0, 1], [3, 1], None),
     ([0, 1, 2, 2], [3, 1, 2, 3], None), ([0, 1, 2], [3, 1, 2], 5)],
    ids=["item changed", "user changed", "pair gone", "pair more", "larger catalogue"],
)  # fmt: skip
def test_fingerprint_differs_when_anything_changes(users, items, n_items):
    one = Interactions([0, 1, 2], [3, 1, 2])
    assert one.fingerprint() != Interactions(users, items, n_items=n_items).fingerprint()


def test_fingerprint_knows_the_catalogue_even_where_no_key_does():
    # user 0's keys are its items, whatever n_items is
    assert Interactions([0], [1]).fingerprint() != Interactions([0], [1], n_items=5).fingerprint()


@settings(deadline=None)
@given(one=PAIRS, other=PAIRS)
def test_fingerprints_agree_exactly_when_pairs_do(one, other):
    # the same catalogue, so that only the pairs decide
    first = interactions_of([*one, (0, 11)], 0).fingerprint()
    second = interactions_of([*other, (0, 11)], 0).fingerprint()
    assert (first == second) == ({*one, (0, 11)} == {*other, (0, 11)})


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("users", "items", "n_items", "sentence"),
    [
        ([0, -3], [0, 1], None, r"Expected users >= 0, got -3\. Number them from 0\."),
        ([0, 3], [0, -1], None, r"Expected items >= 0, got -1\. Number them from 0\."),
        ([0, 3], [0], None, r"Expected as many users as items, got 2 and 1\. Pass interactions="
         r"\(users, items\), one entry each per observed pair\."),
        ([], [], None, r"Expected at least one observed pair, got none\. Pass the training "
         r"interactions as interactions=\(users, items\)\."),
        ([0], [5], 5, r"Expected item ids below n_items = 5, got 5\. Pass a larger n_items, or "
         r"ids counted from 0\."),
        ([0], [0], 0, r"Expected n_items as an integer >= 1, got 0\. Pass the size of the item "
         r"catalogue\."),
        ([0.0, 1.0], [0, 1], None, r"Expected users to hold integers, got float64\. Convert it to "
         r"int64\."),
        ([[0, 1]], [0, 1], None, r"Expected users to be 1-D, got shape \(1, 2\)\. Pass one id for "
         r"each pair\."),
        ([0, 1, 9], [0, 1, 2**61], None, r"Expected fewer than 2\*\*62 pairs of a user and an "
         r"item, got 3 users and n_items = 2305843009213693953\. Number items from 0 without "
         r"gaps\."),
    ],
    ids=["negative user", "negative item", "lengths", "empty", "past n_items", "n_items 0",
         "float users", "2-D", "too large"],
)  # fmt: skip
def test_refuses_what_are_no_pairs(users, items, n_items, sentence):
    with pytest.raises(InteractionsError, match=sentence):
        Interactions(users, items, n_items=n_items)


FROM_1 = " No id is 0, and the largest is n_items: are items numbered from 1?"


@pytest.mark.parametrize(
    ("items", "asked"), [([5, 1, 2], True), ([5, 1, 0], False), ([6, 1, 2], False)],
    ids=["1 to n_items", "with a 0", "past n_items + 1"],
)  # fmt: skip
def test_items_that_look_numbered_from_1_are_asked_about(items, asked):
    with pytest.raises(InteractionsError, match="Expected item ids below n_items = 5, ") as caught:
        Interactions([0, 1, 2], items, n_items=5)
    assert str(caught.value).endswith(FROM_1 if asked else "or ids counted from 0.")
    found = Interactions([0], [0], n_items=5)
    with pytest.raises(InteractionsError, match="Expected item ids below n_items = 5, ") as caught:
        found.find(ids([0, 0, 0]), ids(items))
    end = FROM_1 if asked else "Pass the n_items of the whole catalogue."
    assert str(caught.value).endswith(end)


def test_fractional_n_items_is_refused():
    with pytest.raises(InteractionsError, match="n_items"):
        Interactions([0, 1], [5, 3], n_items=5.5)


def test_look_up_refuses_negative_ids():
    found = Interactions([0, 1], [0, 3])
    sentence = r"Expected ids >= 0, got -2 in this batch\. Number users and items as in"
    with pytest.raises(InteractionsError, match=sentence):
        found.find(ids([0, -2]), ids([0, 0]))
    with pytest.raises(InteractionsError, match=sentence):
        found.find(ids([0, 0]), ids([0, -2]))
    named = r"Expected ids >= 0, got -2 in batch 3 of epoch 1\. Number users and items as in"
    with pytest.raises(InteractionsError, match=named), batch_named("batch 3 of epoch 1"):
        found.find(ids([0, -2]), ids([0, 0]))


def test_look_up_refuses_items_past_a_given_catalogue():
    found = Interactions([0, 1], [0, 3], n_items=6)
    assert found.find(ids([0]), ids([5])).tolist() == [-1]
    with pytest.raises(
        InteractionsError, match=r"Expected item ids below n_items = 6, got 6 in this batch\. Pass "
        r"the n_items of the whole catalogue\."
    ):  # fmt: skip
        found.find(ids([0, 1]), ids([6, 3]))
    with pytest.raises(
        InteractionsError, match=r"Expected item ids below n_items = 6, got 6 in batch 3 of epoch 1"
    ), batch_named("batch 3 of epoch 1"):
        found.find(ids([0, 1]), ids([6, 3]))


def test_look_up_leaves_its_arguments_as_they_are():
    users, items = ids([1, 0, 7]), ids([3, 2, 1])
    Interactions([0, 1], [0, 3]).find(users, items)
    assert users.tolist() == [1, 0, 7]
    assert items.tolist() == [3, 2, 1]


@pytest.fixture
def every_warning():
    """torch says most warnings once a process; here each time."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


def test_read_only_arrays_are_taken_in_silence(every_warning):
    users = np.arange(3)
    users.setflags(write=False)  # as a memory map or a data frame hands them out
    assert len(Interactions(users, users)) == 3


def test_reversed_views_are_taken():
    assert len(Interactions(np.arange(3)[::-1], np.arange(3))) == 3
