"""One pass over a loader is one epoch, however often the loader shows a pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from sgdl_wrap.batches.passes import (
    Bound,
    doubts_of_a_pass,
    first_look,
    next_bound,
    rows_each,
    rows_together,
    share_of_pairs,
    visited,
)

Pass = Callable[[np.random.Generator, int, int], np.ndarray]


def shuffled(rng: np.random.Generator, size: int, each: int) -> np.ndarray:
    return rng.permutation(np.repeat(np.arange(size), each))


def in_order(rng: np.random.Generator, size: int, each: int) -> np.ndarray:
    return np.repeat(np.arange(size), each)


def in_blocks(rng: np.random.Generator, size: int, each: int) -> np.ndarray:
    """A row for each negative, one after the other, of pairs in random order."""
    return np.repeat(rng.permutation(size), each)


def with_replacement(rng: np.random.Generator, size: int, each: int) -> np.ndarray:
    return rng.integers(size, size=size * each)


def weighted(rng: np.random.Generator, size: int, each: int) -> np.ndarray:
    weights = 1 / np.arange(1, size + 1)
    return rng.choice(size, size=size * each, p=weights / weights.sum())


def half_of_them(rng: np.random.Generator, size: int, each: int) -> np.ndarray:
    return shuffled(rng, size // 2, each)


def most_of_them(rng: np.random.Generator, size: int, each: int) -> np.ndarray:
    return shuffled(rng, 9 * size // 10, each)


def three_or_four(rng: np.random.Generator, size: int, each: int) -> np.ndarray:
    return rng.permutation(np.repeat(np.arange(size), 3 + np.arange(size) % 2))


def batches(
    rows_of: Pass, size: int, each: int, *, batch: int, passes: int, seed: int, drop_last: bool
) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for _ in range(passes):
        rows = rows_of(rng, size, each)
        stop = len(rows) // batch * batch if drop_last else len(rows)
        yield from (rows[start : start + batch] for start in range(0, stop, batch))


def ends(
    rows_of: Pass, size: int, each: int = 1, *, batch: int = 64, passes: int = 20, seed: int = 0,
    drop_last: bool = False, repeats: np.ndarray | None = None,
) -> list[int]:  # fmt: skip
    """The batches, counted from 1, with which epochs end."""
    bound, counts, observed = first_look(size), np.zeros(size, dtype=np.uint8), 0
    found = []
    loader = batches(
        rows_of, size, each, batch=batch, passes=passes, seed=seed, drop_last=drop_last
    )
    for number, ids in enumerate(loader, 1):
        some, times = visited(counts, ids)
        counts[some] = times
        observed += len(ids)
        bound = next_bound(counts, observed, bound, repeats)
        if bound.settled and observed >= bound.at:
            found.append(number)
            observed = 0
    return found


def ends_by_rows(
    rows_of: Pass, size: int, *, batch: int, passes: int, drop_last: bool
) -> list[int]:
    """With as many samples as pairs were handed over."""
    observed, found = 0, []
    loader = batches(rows_of, size, 1, batch=batch, passes=passes, seed=0, drop_last=drop_last)
    for number, ids in enumerate(loader, 1):
        observed += len(ids)
        if observed >= size:
            found.append(number)
            observed = 0
    return found


# ------------------------------------------------------------------ each pair once


@pytest.mark.parametrize("rows_of", [shuffled, in_order])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("size", [2, 5, 10, 11, 37, 160, 1000])
@pytest.mark.parametrize("batch", [1, 4, 8, 64])
def test_a_loader_that_shows_pairs_once_ends_epochs_with_as_many_samples_as_pairs(
    rows_of: Pass, drop_last: bool, size: int, batch: int
) -> None:
    options = {"batch": batch, "passes": 12, "drop_last": drop_last}
    assert ends(rows_of, size, **options) == ends_by_rows(rows_of, size, **options)


@pytest.mark.parametrize("rows_of", [half_of_them, most_of_them])
@pytest.mark.parametrize("size", [10, 160, 1000])
@pytest.mark.parametrize("batch", [1, 4, 64])
def test_so_does_one_that_never_shows_some(rows_of: Pass, size: int, batch: int) -> None:
    options = {"batch": batch, "passes": 12, "drop_last": False}
    assert ends(rows_of, size, **options) == ends_by_rows(rows_of, size, **options)


def test_pairs_that_come_once_are_looked_at_halfway_and_at_the_end() -> None:
    counts = np.zeros(100, dtype=np.uint8)
    counts[:50] = 1
    assert first_look(100) == Bound(50)
    assert next_bound(counts, 49, Bound(50)) == Bound(50)
    assert next_bound(counts, 50, Bound(50)) == Bound(100, settled=True, together=1)


# ------------------------------------------------------------------ each pair K times


@pytest.mark.parametrize("rows_of", [shuffled, in_order, in_blocks])
@pytest.mark.parametrize("each", [2, 3, 4, 10])
@pytest.mark.parametrize(
    ("size", "batch", "seeds"), [(160, 64, 8), (1000, 64, 4), (10_000, 1024, 1), (100_000, 8192, 1)]
)
def test_a_pass_with_several_rows_a_pair_is_one_epoch(
    rows_of: Pass, each: int, size: int, batch: int, seeds: int
) -> None:
    passes = 20 if size < 100_000 else 4
    for seed in range(seeds):
        found = ends(rows_of, size, each, batch=batch, passes=passes, seed=seed)
        per_pass = -(-size * each // batch)
        assert found == [per_pass * (number + 1) for number in range(passes)]
        fewer = ends(rows_of, size, each, batch=batch, passes=passes, seed=seed, drop_last=True)
        whole = passes * (size * each // batch) // per_pass  # as if each pass went on into the next
        assert len(fewer) in range(whole, passes + 1)


@pytest.mark.parametrize("batch", [512, 4096])
def test_batches_that_hold_whole_passes_are_epochs(batch: int) -> None:
    assert len(ends(shuffled, 100, 4, batch=batch)) == 20


def test_rows_that_differ_from_pair_to_pair_are_a_pass_nearly() -> None:
    for seed in range(5):
        assert 17 <= len(ends(three_or_four, 1000, seed=seed)) <= 20  # of 20 passes; 68 by rows


def test_pairs_that_never_come_do_not_hide_the_end_of_a_pass() -> None:
    for seed in range(5):
        assert 18 <= len(ends(most_of_them, 1000, 2, seed=seed)) <= 20


# ------------------------------------------------------------------ none at all


@pytest.mark.parametrize("rows_of", [with_replacement, weighted])
@pytest.mark.parametrize(("size", "batch"), [(10_000, 1024), (100_000, 8192)])
def test_with_replacement_an_epoch_has_as_many_samples_as_pairs(
    rows_of: Pass, size: int, batch: int
) -> None:
    assert len(ends(rows_of, size, batch=batch)) == 20


@pytest.mark.parametrize("size", [160, 1000])
def test_with_replacement_of_few_pairs_the_first_epoch_alone_may_be_longer(size: int) -> None:
    for seed in range(10):
        found = ends(with_replacement, size, batch=10, seed=seed)
        first, *rest = np.diff([0, *found]) * 10 / size
        assert first <= 5.1
        assert rest == [1.0] * len(rest)


# ------------------------------------------------------------------ repeats among the interactions


@pytest.mark.parametrize("order", ["shuffled", "sorted"])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("distinct", [False, True])
def test_rows_that_repeat_are_a_pass_with_or_without_their_repeats(
    order: str, many: bool, distinct: bool
) -> None:
    size = 1000
    times = np.random.default_rng(1).integers(1, 7, size=size) if many else np.ones(size, int)
    times[:40] += 1

    def rows_of(rng: np.random.Generator, size: int, each: int) -> np.ndarray:
        rows = np.arange(size) if distinct else np.repeat(np.arange(size), times)
        return rows if order == "sorted" else rng.permutation(rows)

    found = ends(rows_of, size, repeats=times)
    per_pass = -(-(size if distinct else int(times.sum())) // 64)
    assert found == [per_pass * (number + 1) for number in range(20)]


# ------------------------------------------------------------------ the formulas


@pytest.mark.parametrize("each", [1, 2, 5])
@pytest.mark.parametrize("repeated", [False, True])
def test_one_over_k_is_exact_at_the_end_of_a_pass(each: int, repeated: bool) -> None:
    times = np.array([1, 1, 3, 1, 2, 1]) if repeated else None
    counts = np.full(6, each, dtype=np.uint8)
    if times is not None:
        counts = (counts * times).astype(np.uint8)
    once, inverse = rows_each(counts, int(counts.sum()), repeats=times)
    assert once == (9 if repeated else 6)
    assert inverse == pytest.approx(1 / each)
    if repeated:  # as a loader over distinct pairs
        assert rows_each(np.full(6, each, dtype=np.uint8), 6 * each, repeats=times)[0] == 6


@pytest.mark.parametrize("each", [1, 2, 7])
@pytest.mark.parametrize("part", [0.2, 0.6, 0.9])
def test_one_over_k_is_right_on_average_within_a_pass(each: int, part: float) -> None:
    rng = np.random.default_rng(0)
    times = rng.integers(1, 4, size=400)
    found = []
    for _ in range(200):
        rows = rng.permutation(np.repeat(np.arange(400), each * times))
        rows = rows[: round(part * len(rows))]
        counts = np.bincount(rows, minlength=400).astype(np.uint8)
        once, inverse = rows_each(counts, len(rows), repeats=times)
        assert once == times.sum()
        found.append(inverse)
    error = np.std(found) / 200**0.5
    assert np.mean(found) == pytest.approx(1 / each, abs=4 * error + 2e-3)


def test_rows_that_come_together_are_the_largest_number_that_divides_the_visits() -> None:
    def found(*counts: int) -> int:
        return rows_together(np.array(counts, dtype=np.uint8))

    assert found(0, 4, 4, 8, 0, 4) == 4
    assert found(4, 4, 4, 4, 3) == 4  # the last was cut in two
    assert found(4, 4, 2, 1, 3, 4) == 1
    assert found(1, 1, 2, 0, 1) == 1
    assert found(6, 6, 0, 0) == 1  # too few to tell


def test_visits_are_counted_once_each_and_end_at_255() -> None:
    rng = np.random.default_rng(2)
    counts = np.zeros(5, dtype=np.uint8)
    expected = np.zeros(5, dtype=int)
    for _ in range(40):
        ids = rng.choice(5, size=30, p=[0.5, 0.3, 0.1, 0.1, 0])
        some, times = visited(counts, ids)
        counts[some] = times
        counts[some] = times  # taken twice, they count once
        expected += np.bincount(ids, minlength=5)
    assert counts.tolist() == np.minimum(expected, 255).tolist()
    assert counts.max() == 255


def test_the_share_of_pairs_is_that_of_a_part_of_the_visits() -> None:
    counts = np.array([0, 1, 1, 2, 6], dtype=np.uint8)
    assert share_of_pairs(counts, 10, 10) == pytest.approx(4 / 5)
    expected = np.mean([1 - 0.6**c for c in counts.tolist()])
    assert share_of_pairs(counts, 10, 4) == pytest.approx(expected)


# ------------------------------------------------------------------ what is said


def test_a_pass_of_each_pair_once_is_no_matter() -> None:
    counts = np.ones(100, dtype=np.uint8)
    assert doubts_of_a_pass(counts, 100, Bound(100), rows=100, dropped=64) == []
    counts[:40] = 0  # dropped
    counts[-40:] = 2
    assert doubts_of_a_pass(counts, 100, Bound(100), rows=100, dropped=64) == []
    assert doubts_of_a_pass(None, 100, Bound(100), rows=100, dropped=64) == []
    counts[:] = 1
    counts[:32] = 2  # the last batch went past the end
    assert doubts_of_a_pass(counts, 132, Bound(100), rows=100, dropped=40) == []


def test_a_first_epoch_that_was_longer_tells_of_those_that_follow() -> None:
    counts = np.full(2000, 5, dtype=np.uint8)
    (said,) = doubts_of_a_pass(counts, 10_000, Bound(2000), rows=2000, dropped=64)
    assert "got 67% of 2,000 in 2,000 observed samples" in said  # 1 - 0.8 ** 5


def test_an_epoch_of_few_pairs_is_said_with_their_share() -> None:
    counts = np.zeros(2000, dtype=np.uint8)
    counts[:1000] = 2
    (said,) = doubts_of_a_pass(counts, 2000, Bound(2000), rows=2000, dropped=64)
    assert said == (
        "Expected an epoch that ends by itself to show nearly every pair, got 50% of 2,000 in "
        "2,000 observed samples. Look for pairs that come more often than others, or never, and "
        "for observed pairs that are marked unobserved. Call end_epoch() after each pass over the "
        "loader, or set explicit_epochs=True."
    )


def test_a_pass_of_several_rows_a_pair_is_said_with_their_number() -> None:
    counts = np.full(2000, 3, dtype=np.uint8)
    (said,) = doubts_of_a_pass(counts, 6000, Bound(6000), rows=2000, dropped=64)
    assert said == (
        "Expected each pair once in a pass over the loader, got about 3.0 rows of each. An epoch "
        "ends by itself after 6,000 observed samples, as such a pass does. Call end_epoch() after "
        "each pass over the loader, or set explicit_epochs=True, if a pass is longer or shorter."
    )
