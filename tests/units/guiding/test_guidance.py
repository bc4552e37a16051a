"""Only the memorized guide: interactions of M, and negatives outside the ranking list."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdl_wrap.batches.samples import Samples
from sgdl_wrap.guiding.guidance import Guidance, GuidanceDraw
from tests.support.models_zoo import stream_states

B = 12
USERS = np.arange(B) % 4
ITEMS = np.arange(B) + 100
IDS = np.array([7, -1, 3, 9, -1, -1, 4, 11, -1, 2, -1, 5])
MEMORIZED = np.array([1, 0, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0], dtype=bool)
BATCH = (torch.from_numpy(USERS), torch.from_numpy(ITEMS), torch.from_numpy(IDS >= 0).float())
OUTSIDE = {101, 105, 110}  # items of the negatives that the model ranks low


def outside_list(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    assert users.tolist() == [(item - 100) % 4 for item in items.tolist()]
    assert all(int(IDS[item - 100]) < 0 for item in items.tolist()), "asked of an observed pair"
    return np.array([item in OUTSIDE for item in items.tolist()], dtype=bool)


def choose(**changes: Any) -> Guidance | None:
    arguments: dict[str, Any] = {
        "size": None,
        "with_negatives": True,
        "outside_list": outside_list,
        "sliceable": True,
        "generator": torch.Generator().manual_seed(0),
    }
    arguments.update(changes)
    batch = arguments.pop("batch", BATCH)
    memorized = arguments.pop("memorized", MEMORIZED)
    ids = arguments.pop("ids", IDS)
    observed = arguments.pop("observed", ids >= 0)
    told = arguments.pop("told", True)
    samples = Samples(ids, USERS, ITEMS, observed if told else np.ones(B, dtype=bool), told)
    return GuidanceDraw(**arguments).of(batch, samples, memorized)


def test_memorized_samples_and_negatives_outside_the_list_guide() -> None:
    guidance = choose()
    assert guidance is not None
    assert guidance.rows is None
    assert guidance.ids.tolist() == [7, -1, 3, -1, 4, 11, 2, -1]
    users, items, labels = guidance.batch
    assert items.tolist() == [100, 101, 102, 105, 106, 107, 109, 110]
    assert users.tolist() == [0, 1, 2, 1, 2, 3, 1, 2]
    assert labels.tolist() == [1, 0, 1, 0, 1, 1, 1, 0]


def test_a_positive_that_is_missing_among_the_interactions_is_no_negative() -> None:
    observed = IDS >= 0
    observed[[1, 5]] = True  # which the batch calls observed
    guidance = choose(observed=observed)
    assert guidance is not None
    assert guidance.batch[1].tolist() == [100, 102, 106, 107, 109, 110]


def test_where_the_batch_does_not_say_what_is_unknown_is_a_negative() -> None:
    guidance, expected = choose(told=False), choose()
    assert guidance is not None
    assert expected is not None
    assert guidance.batch[1].tolist() == expected.batch[1].tolist()


def test_positives_alone_guide_where_asked_for() -> None:
    guidance = choose(with_negatives=False)
    assert guidance is not None
    assert guidance.ids.tolist() == [7, 3, 4, 11, 2]


def test_nothing_memorized_gives_no_guidance() -> None:
    nothing = np.zeros(B, dtype=bool)
    assert choose(memorized=nothing, with_negatives=False) is None
    none_outside = choose(
        memorized=nothing, outside_list=lambda users, items: np.zeros(len(users), dtype=bool)
    )
    assert none_outside is None


def test_a_batch_that_cannot_be_sliced_is_kept_whole() -> None:
    guidance = choose(sliceable=False)
    assert guidance is not None
    assert guidance.rows is not None
    assert guidance.rows.tolist() == [0, 1, 2, 5, 6, 7, 9, 10]
    assert guidance.batch[1].tolist() == ITEMS.tolist()
    losses = torch.arange(B) * 1.0
    assert guidance.select(losses).tolist() == [0, 1, 2, 5, 6, 7, 9, 10]


def test_all_losses_of_a_sliced_batch_count() -> None:
    guidance = choose()
    assert guidance is not None
    losses = torch.arange(8) * 1.0
    assert guidance.select(losses) is losses


@pytest.mark.parametrize("sliceable", [True, False])
def test_guidance_does_not_change_when_the_loader_reuses_its_buffers(sliceable: bool) -> None:
    items = torch.from_numpy(ITEMS).clone()
    labels = np.ones(B, dtype=np.float32)
    guidance = choose(batch={"item": items, "label": labels, "name": "x"}, sliceable=sliceable)
    assert guidance is not None
    kept = guidance.batch["item"].clone()
    items.zero_()
    labels[:] = 0
    assert torch.equal(guidance.batch["item"], kept)
    assert guidance.batch["label"].all()
    assert guidance.batch["name"] == "x"


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(["memorized", "other", "negative"]), min_size=B, max_size=B),
    st.lists(st.booleans(), min_size=B, max_size=B),
    st.one_of(st.none(), st.integers(1, B)),
    st.booleans(),
    st.integers(0, 99),
)
def test_only_what_is_memorized_guides_and_never_more_than_asked(
    kinds: list[str], outside: list[bool], size: int | None, with_negatives: bool, seed: int
) -> None:
    memorized = np.array([kind == "memorized" for kind in kinds])
    ids = np.array([-1 if kind == "negative" else row for row, kind in enumerate(kinds)])
    guidance = choose(
        ids=ids,
        memorized=memorized,
        size=size,
        with_negatives=with_negatives,
        outside_list=lambda users, items: np.array(outside)[items - 100],
        generator=torch.Generator().manual_seed(seed),
        sliceable=False,
    )
    allowed = {row for row, kind in enumerate(kinds) if kind == "memorized"}
    if with_negatives:
        allowed |= {row for row, kind in enumerate(kinds) if kind == "negative" and outside[row]}
    rows = [] if guidance is None or guidance.rows is None else guidance.rows.tolist()
    assert set(rows) <= allowed
    assert rows == sorted(set(rows))
    assert guidance is None or guidance.ids.tolist() == ids[rows].tolist()
    if size is None:
        assert set(rows) == allowed
    else:
        assert len(rows) <= size


def test_draws_are_uniform_over_the_memorized_and_use_their_own_generator() -> None:
    before = stream_states()
    generator = torch.Generator().manual_seed(1)
    draws = 6000
    counts = np.zeros(B)
    for _ in range(draws):
        guidance = choose(size=2, with_negatives=False, sliceable=False, generator=generator)
        assert guidance is not None
        assert guidance.rows is not None
        assert len(guidance.rows) == 2
        counts[guidance.rows.numpy()] += 1
    assert stream_states() == before
    chosen = MEMORIZED
    assert not counts[~chosen].any()
    share = 2 / chosen.sum()
    deviation = np.sqrt(share * (1 - share) / draws)
    assert (np.abs(counts[chosen] / draws - share) < 4.5 * deviation).all()


def test_a_size_that_covers_all_takes_all() -> None:
    guidance = choose(size=100)
    assert guidance is not None
    assert len(guidance.ids) == 8
