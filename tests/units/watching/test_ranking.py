"""Which interactions rank among their user's best, against sorting each user by itself."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.equations.memorization import ordinals, ranked_within
from sgdl_wrap.errors import ScoreError
from sgdl_wrap.model.scores import checked_scores
from sgdl_wrap.watching.ranking import RankedEpoch, Ranking, user_chunks

CANDIDATES = pytest.mark.parametrize("candidates", ["sampled", "full"])


@dataclass
class Table:
    """A scorer that looks scores up, and remembers the pairs it was asked for."""

    scores: np.ndarray  # (n_users, n_items)
    calls: list[list[tuple[int, int]]] = field(default_factory=list)

    def __call__(self, users: Tensor, items: Tensor) -> Tensor:
        assert users.dtype == items.dtype == torch.int64
        self.calls.append(list(zip(users.tolist(), items.tolist(), strict=True)))
        return torch.from_numpy(self.scores[users.numpy(), items.numpy()])

    @property
    def candidates(self) -> dict[int, list[int]]:
        """Items asked for, per user, in the order handed over."""
        found: dict[int, list[int]] = {}
        for call in self.calls:
            for user, item in call:
                found.setdefault(user, []).append(item)
        return found


@dataclass(frozen=True)
class Data:
    pairs: list[tuple[int, int]]  # sorted, distinct
    n_items: int
    scores: np.ndarray

    @property
    def interactions(self) -> Interactions:
        users, items = [u for u, _ in self.pairs], [i for _, i in self.pairs]
        return Interactions(users, items, n_items=self.n_items)

    def observed(self, user: int) -> set[int]:
        return {i for u, i in self.pairs if u == user}


@st.composite
def data_sets(draw):
    """Few users and items, with gaps in the ids, users who have seen all, and ties."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_users, n_items = draw(st.integers(1, 8)), draw(st.integers(1, 9))
    density = rng.choice([0.0, 0.2, 0.6, 1.0], size=n_users)
    pairs = [(u, i) for u in range(n_users) for i in range(n_items) if rng.random() < density[u]]
    pairs = pairs or [(n_users - 1, 0)]
    levels = draw(st.sampled_from([1, 2, 4, 1000]))  # few levels make ties
    scores = rng.integers(-levels, levels, size=(n_users, n_items)) / 8
    return Data(pairs, n_items, scores)


def ranked(data: Data, candidates: str, scorer: Table, chunk: int = 64, seed: int = 0
           ) -> RankedEpoch:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    return Ranking(candidates, chunk).epoch(data.interactions, scorer, generator=generator)


def bits(epoch: RankedEpoch, data: Data) -> list[bool]:
    return np.unpackbits(epoch.packed, count=len(data.pairs)).astype(bool).tolist()


def slow_memorized(data: Data, candidates: dict[int, list[int]]) -> list[bool]:
    """Sorts every user's candidates; an observed item comes after its unobserved equals.

    Of one user's equals of one kind, those handed over first come first, as sorted() has it.
    """
    memorized = []
    for user, item in data.pairs:
        own = data.observed(user)
        order = sorted(candidates[user], key=lambda i: (-data.scores[user, i], i in own))
        memorized.append(item in order[: len(own)])
    return memorized


def slow_cut(data: Data, candidates: dict[int, list[int]]) -> list[float]:
    cut = []
    for user in sorted({u for u, _ in data.pairs}):
        best = sorted((data.scores[user, i] for i in candidates[user]), reverse=True)
        cut.append(best[len(data.observed(user)) - 1])
    return cut


# ------------------------------------------------------------------ ranks


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([-math.inf, -1.0, 0.0, 2.0]), st.booleans()),
        min_size=1, max_size=40,
    )
)  # fmt: skip
def test_ranks_are_those_of_sorting_each_user(rows):
    users, scores, observed = (torch.tensor(list(column)) for column in zip(*rows, strict=True))
    expected = []
    for place, (user, _, _) in enumerate(rows):
        own = [k for k, row in enumerate(rows) if row[0] == user]
        expected.append(sorted(own, key=lambda k: (-rows[k][1], rows[k][2])).index(place))
    found = ranked_within(users, scores, observed)
    assert found.dtype == torch.int64
    assert found.tolist() == expected


def test_ties_are_broken_against_the_observed():
    users = torch.zeros(4, dtype=torch.int64)
    observed = torch.tensor([True, False, True, False])
    assert ranked_within(users, torch.zeros(4), observed).tolist() == [2, 0, 3, 1]


def test_scores_are_compared_in_their_own_precision():
    scores = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)
    found = ranked_within(torch.zeros(2, dtype=torch.int64), scores, torch.tensor([False, True]))
    assert found.tolist() == [1, 0]


def ranked_within_by_three_sorts(users: Tensor, scores: Tensor, observed: Tensor) -> Tensor:
    """By observed, then by score, then by user, each sort stable."""
    order = torch.argsort(observed.to(torch.uint8), stable=True)
    order = order[torch.argsort(scores[order], descending=True, stable=True)]
    order = order[torch.argsort(users[order], stable=True)]
    _, sizes = torch.unique_consecutive(users[order], return_counts=True)
    starts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order)) - starts
    return ranks


FLOATS = {torch.float16: 16, torch.bfloat16: 16, torch.float32: 32, torch.float64: 64}
DTYPES = pytest.mark.parametrize("dtype", FLOATS, ids=str)


@st.composite
def any_scores(draw, dtype, size):
    """-inf and any finite values of the type, drawn by their bits; some of them several times."""
    width = FLOATS[dtype]
    integers = {16: torch.int16, 32: torch.int32, 64: torch.int64}[width]
    least = torch.iinfo(integers).min
    patterns = [0, least]  # 0 and -0
    patterns += draw(st.lists(st.integers(least, -least - 1), min_size=1, max_size=size))
    patterns += draw(st.lists(st.sampled_from(patterns), min_size=size, max_size=size))
    scores = torch.tensor(patterns, dtype=integers).view(dtype)
    return torch.where(torch.isfinite(scores), scores, torch.full_like(scores, -torch.inf))


@DTYPES
@settings(deadline=None)
@given(data=st.data())
def test_ordinals_keep_order_and_ties(dtype, data):
    scores = data.draw(any_scores(dtype, 12))
    found = ordinals(scores)
    assert found.dtype == torch.int64
    assert int(found.min()) >= -(2**31)
    assert int(found.max()) < 2**31
    assert torch.equal(found[:, None] < found, scores[:, None] < scores)
    assert torch.equal(found[:, None] == found, scores[:, None] == scores)


@DTYPES
def test_ordinals_tell_the_smallest_and_the_largest_apart_and_the_two_zeros_not(dtype):
    kind = torch.finfo(dtype)
    least = torch.tensor(0.0, dtype=dtype).nextafter(torch.tensor(1.0, dtype=dtype))
    just_below = torch.tensor(kind.max, dtype=dtype).nextafter(torch.tensor(0.0, dtype=dtype))
    positive = [0.0, float(least), 2 * float(least), kind.tiny, 1.0, 1 + kind.eps,
                float(just_below), kind.max]  # fmt: skip
    scores = [-math.inf] + [-x for x in positive[::-1]] + positive
    found = ordinals(torch.tensor(scores, dtype=dtype)).tolist()
    half = len(positive)
    assert found[half] == found[half + 1]  # -0.0 and 0.0
    assert len(set(found)) == 2 * half
    assert found == sorted(found)


@DTYPES
@settings(deadline=None)
@given(data=st.data())
def test_one_sort_ranks_as_three_do(dtype, data):
    scores = data.draw(any_scores(dtype, 12))
    size = len(scores)
    user = st.sampled_from([0, 1, 5, 1_000_000])
    users = torch.tensor(data.draw(st.lists(user, min_size=size, max_size=size)))
    observed = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    found = ranked_within(users, scores, observed)
    assert torch.equal(found, ranked_within_by_three_sorts(users, scores, observed))


@pytest.mark.parametrize("first", [0, 2**24, -(2**53) - 3, 2**62])
def test_whole_numbers_are_compared_exactly(first):
    scores = first + torch.tensor([1, 0, 2, 1])
    found = ranked_within(
        torch.zeros(4, dtype=torch.int64), scores, torch.tensor([False, False, False, True])
    )
    assert found.tolist() == [1, 3, 0, 2]


# ------------------------------------------------------------------ against the reference


@settings(deadline=None)
@given(data=data_sets(), chunk=st.integers(1, 80))
def test_full_ranking_agrees_with_sorting_every_item(data, chunk):
    scorer = Table(data.scores)
    found = ranked(data, "full", scorer, chunk)
    every = {user: list(range(data.n_items)) for user, _ in data.pairs}
    assert bits(found, data) == slow_memorized(data, every)
    np.testing.assert_array_equal(found.cut.numpy(), np.float32(slow_cut(data, every)))


@settings(deadline=None)
@given(data=data_sets(), chunk=st.integers(1, 80), seed=st.integers(0, 1000))
def test_sampled_ranking_agrees_with_sorting_the_candidates_drawn(data, chunk, seed):
    scorer = Table(data.scores)
    found = ranked(data, "sampled", scorer, chunk, seed)
    assert bits(found, data) == slow_memorized(data, scorer.candidates)
    np.testing.assert_array_equal(found.cut.numpy(), np.float32(slow_cut(data, scorer.candidates)))


@settings(deadline=None)
@given(data=data_sets(), chunk=st.integers(1, 80), seed=st.integers(0, 1000))
def test_sampled_candidates_are_the_observed_and_as_many_unobserved(data, chunk, seed):
    scorer = Table(data.scores)
    ranked(data, "sampled", scorer, chunk, seed)
    assert set(scorer.candidates) == {user for user, _ in data.pairs}
    for user, items in scorer.candidates.items():
        own = data.observed(user)
        drawn = [item for item in items if item not in own]
        assert sorted(item for item in items if item in own) == sorted(own)  # each once
        assert len(drawn) == (len(own) if len(own) < data.n_items else 0)
        assert all(0 <= item < data.n_items for item in drawn)


@settings(deadline=None)
@given(data=data_sets(), one=st.integers(1, 80), other=st.integers(1, 80))
def test_chunk_sizes_do_not_change_the_full_ranking(data, one, other):
    first = ranked(data, "full", Table(data.scores), one)
    second = ranked(data, "full", Table(data.scores), other)
    assert first.packed.tolist() == second.packed.tolist()
    assert torch.equal(first.cut.nan_to_num(-99), second.cut.nan_to_num(-99))


@CANDIDATES
@settings(deadline=None)
@given(data=data_sets(), chunk=st.integers(1, 80))
def test_chunks_respect_the_bound_except_for_one_big_user(candidates, data, chunk):
    scorer = Table(data.scores)
    ranked(data, candidates, scorer, chunk)
    for call in scorer.calls:
        assert len(call) <= chunk or len({user for user, _ in call}) == 1
    # no user is split over two calls
    seen = [user for call in scorer.calls for user in {u for u, _ in call}]
    assert len(seen) == len(set(seen))


@settings(deadline=None)
@given(data=data_sets(), chunk=st.integers(1, 80), per_user=st.integers(0, 9))
def test_chunks_of_users_cover_all_interactions_in_order(data, chunk, per_user):
    found = data.interactions
    ranges = list(user_chunks(found, chunk, per_user))
    assert all(first < last for first, last in ranges)
    assert all(one[1] == two[0] for one, two in pairwise(ranges))
    assert (ranges[0][0], ranges[-1][1]) == (0, len({user for user, _ in data.pairs}))


# ------------------------------------------------------------------ known answers

SPARSE = [(1, 0), (1, 2), (4, 3), (7, 0), (7, 1), (7, 2), (7, 3)]  # ids 0, 2, 3, 5, 6 unused
EVERYTHING = 7  # this user has seen all 4 items


def sparse(scores: np.ndarray | float) -> Data:
    return Data(SPARSE, 4, np.broadcast_to(np.float64(scores), (8, 4)))


@CANDIDATES
@pytest.mark.parametrize("level", [0.0, -3.5, 1e30, -math.inf])
def test_a_constant_scorer_memorizes_nothing(candidates, level):
    data = sparse(level)
    found = bits(ranked(data, candidates, Table(data.scores)), data)
    # who has seen every item has only observed candidates
    assert found == [user == EVERYTHING for user, _ in SPARSE]


@CANDIDATES
def test_a_perfect_scorer_memorizes_all(candidates):
    scores = np.zeros((8, 4))
    for user, item in SPARSE:
        scores[user, item] = 1
    data = sparse(scores)
    assert all(bits(ranked(data, candidates, Table(scores)), data))


@CANDIDATES
def test_a_reversed_scorer_memorizes_none_but_of_who_has_seen_everything(candidates):
    scores = np.ones((8, 4))
    for user, item in SPARSE:
        scores[user, item] = 0
    data = sparse(scores)
    found = bits(ranked(data, candidates, Table(scores)), data)
    # in the full ranking user 1 has 2 unobserved items before its 2 observed ones
    assert found == [user == EVERYTHING for user, _ in SPARSE]


@CANDIDATES
def test_the_cut_is_the_score_of_the_last_that_is_listed(candidates):
    data = sparse(np.arange(32.0).reshape(8, 4))
    cut = ranked(data, candidates, Table(data.scores)).cut  # of users 1, 4 and 7
    assert cut.dtype == torch.float32
    assert cut.shape == (3,)
    assert cut[2] == 28.0  # the last of four observed items


@CANDIDATES
@pytest.mark.parametrize("far", [1000, 10**9, 2**61])
def test_ids_of_users_change_nothing_but_the_ids_that_are_asked_for(candidates, far):
    scores = np.arange(32.0).reshape(8, 4)[:, ::-1]
    near, distant = Table(scores), Table(scores)

    def moved(users: Tensor, items: Tensor) -> Tensor:
        assert int(users.min()) >= far
        return distant((users - far) // 5, items)

    interactions = Interactions(
        [far + 5 * user for user, _ in SPARSE], [item for _, item in SPARSE], n_items=4
    )
    generator = torch.Generator().manual_seed(0)
    found = Ranking(candidates, 5).epoch(interactions, moved, generator=generator)
    expected = ranked(sparse(scores), candidates, near, chunk=5)
    assert distant.calls == near.calls
    assert found.packed.tolist() == expected.packed.tolist()
    assert found.cut.tolist() == expected.cut.tolist()


@CANDIDATES
def test_no_user_without_interactions_is_asked_for(candidates):
    scorer = Table(np.zeros((8, 4)))
    ranked(sparse(0.0), candidates, scorer)
    assert set(scorer.candidates) == {1, 4, 7}


def test_unobserved_candidates_are_drawn_uniformly():
    # two users with 500 observed of 510 items; each of the other ten is drawn about 50 times
    left = {0: set(range(0, 510, 51)), 1: set(range(7, 510, 51))}
    pairs = [(u, i) for u in left for i in range(510) if i not in left[u]]
    data = Data(pairs, 510, np.zeros((2, 510)))
    scorer = Table(data.scores)
    ranked(data, "sampled", scorer, chunk=10_000, seed=3)
    for user, items in scorer.candidates.items():
        counts = Counter(item for item in items if item in left[user])
        assert set(counts) == left[user]
        assert sum(counts.values()) == 500
        chi_square = sum((count - 50) ** 2 / 50 for count in counts.values())
        assert chi_square < 27.9  # 0.1 % of a chi-square with 9 degrees of freedom


def test_each_epoch_draws_anew_from_the_generator_alone():
    data = Data([(0, i) for i in range(50)], 500, np.zeros((1, 500)))
    generator = torch.Generator().manual_seed(5)
    user_state = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        scorer = Table(data.scores)
        Ranking("sampled", 1000).epoch(data.interactions, scorer, generator=generator)
        drawn.append(scorer.candidates[0])
    assert torch.equal(torch.get_rng_state(), user_state)
    assert drawn[0] != drawn[1]
    again = Table(data.scores)
    ranked(data, "sampled", again, chunk=1000, seed=5)
    assert again.candidates[0] == drawn[0]


@CANDIDATES
def test_on_ranked_counts_interactions_up_to_all(candidates):
    data = sparse(0.0)
    seen: list[tuple[int, int]] = []
    Ranking(candidates, 4).epoch(
        data.interactions, Table(data.scores), generator=torch.Generator(),
        on_ranked=lambda done, of: seen.append((done, of)),
    )  # fmt: skip
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == (7, 7)
    assert {of for _, of in seen} == {7}


# ------------------------------------------------------------------ refusals


@CANDIDATES
@pytest.mark.parametrize("shape", [(6, 1), (1, 6), (5,), (7,), ()], ids=str)
def test_scores_of_another_shape_are_refused(candidates, shape):
    data = Data([(0, 0), (0, 1), (0, 2)], 6, np.zeros((1, 6)))  # 6 candidates either way
    with pytest.raises(ScoreError) as caught:
        ranked(data, candidates, lambda users, items: torch.zeros(shape))
    assert str(caught.value) == (
        f"Expected score_fn to return shape (6,), got {shape}. "
        "Return one score per pair from score_fn(model, users, items), higher for better items."
    )


@pytest.mark.parametrize(
    ("returned", "name"), [(None, "NoneType"), ([0.0], "list"), (np.zeros(1), "ndarray")]
)
def test_scores_that_are_no_tensor_are_refused(returned, name):
    with pytest.raises(
        ScoreError,
        match=rf"Expected score_fn to return a tensor of shape \(1,\), got (an? )?{name}\. Return "
        r"one score per pair from score_fn\(model, users, items\)\.",
    ):
        checked_scores(returned, torch.zeros(1), torch.zeros(1))


@CANDIDATES
@pytest.mark.parametrize(
    ("values", "words"),
    [((math.nan, math.nan), "2 NaN"), ((math.inf, -math.inf), "1 +inf"),
     ((math.inf, math.nan), "1 NaN and 1 +inf")],
    ids=["NaN", "+inf", "both"],
)  # fmt: skip
def test_nan_and_plus_infinity_are_refused_with_the_first_item(candidates, values, words):
    scores = np.zeros((3, 6))
    scores[2, 1:3] = values  # two observed items, each asked for once
    data = Data([(2, 0), (2, 1), (2, 2)], 6, scores)
    with pytest.raises(ScoreError) as caught:
        ranked(data, candidates, Table(scores))
    assert str(caught.value) == (
        f"Expected scores that are finite or -inf, got {words} among 6, the first for user 2 and "
        "item 1. Return -inf for items that are never recommended, such as padding. For others, "
        "look where the model or score_fn divides by zero or overflows."
    )


def test_complex_scores_are_refused():
    with pytest.raises(ScoreError, match=r"^Expected real scores, got torch\.complex64\. Return a"):
        checked_scores(torch.zeros(1) * 1j, torch.zeros(1), torch.zeros(1))


@CANDIDATES
@DTYPES
def test_minus_infinity_is_ranked_behind_every_finite_score(candidates, dtype):
    scores = torch.full((8, 4), -(2.0**15), dtype=dtype)
    scores[:, 0], scores[:, 2] = -1024, -torch.inf
    data = sparse(0.0)
    found = ranked(data, candidates, lambda users, items: scores[users, items])
    memorized = dict(zip(SPARSE, bits(found, data), strict=True))
    assert (memorized[1, 0], memorized[1, 2]) == (True, False)
    assert found.cut[0] == -(2.0**15)
    assert found.cut[2] == -torch.inf  # of user 7, whose list holds all items


def test_scores_may_carry_a_graph_and_be_whole_numbers():
    users = torch.zeros(3, dtype=torch.int64)
    scores = torch.ones(3, requires_grad=True) * 2
    assert not checked_scores(scores, users, users).requires_grad
    data = Data([(0, 1), (0, 2)], 4, np.array([[0, 5, 1, 3]]))
    assert bits(ranked(data, "full", Table(data.scores)), data) == [True, False]
