"""States of ranks are saved by each, and loaded by as many, by more, by fewer, or by others."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sgdl_wrap import StateError, merge_states
from sgdl_wrap.batches.passes import Bound
from sgdl_wrap.loop.progress import RunningEpoch
from sgdl_wrap.ranks.resharding import _joined_epoch
from sgdl_wrap.watching.backlog import Reading
from tests.support.models_zoo import assert_identical, without
from tests.support.resealed import resealed
from tests.units.ranks.conftest import Told
from tests.units.ranks.runs import DIVIDED_ANEW, SAVED, SAVED_AT, Run
from tests.units.ranks.test_following import assert_follow, assert_near


def reference(case: str, then: str) -> dict[str, Any]:
    """One process, undisturbed; from the checkpoint on with batches in another order."""
    run = Run(**SAVED[case])
    run.train(SAVED_AT)
    run.divide = then
    return run.finish()


@pytest.mark.parametrize("case", list(SAVED))
def test_as_many_ranks_go_on_bit_for_bit(told: Told, case: str) -> None:
    for rank in told(case):
        assert_identical(without(rank["resumed"], "seconds"), without(rank["whole"], "seconds"))


@pytest.mark.parametrize("case", list(SAVED))
def test_ranks_with_other_users_go_on_as_one_process_does(told: Told, case: str) -> None:
    then = DIVIDED_ANEW[SAVED[case]["divide"]]
    assert_follow([rank["resharded"] for rank in told(case)], reference(case, then))


@pytest.mark.parametrize("case", list(SAVED))
def test_one_process_goes_on_with_the_merged_state(told: Told, case: str) -> None:
    checkpoints = [rank["checkpoint"] for rank in told(case)]
    merged = merge_states([one["denoiser"] for one in checkpoints])
    run = Run(**SAVED[case])
    run.restore({**checkpoints[0], "denoiser": merged})
    found = run.finish()
    expected = reference(case, SAVED[case]["divide"])
    assert_near(dict(found["model"]), dict(expected["model"]))
    for name in ("tracker", "self_guided"):
        assert_near(
            without(found["denoiser"][name], "guidance"),
            without(expected["denoiser"][name], "guidance"),
        )


def test_merging_reads_what_weights_only_loads(told: Told, folder: Path) -> None:
    told("saved_users")  # the files are there
    paths = [folder / f"saved_users-checkpoint-{rank}.pt" for rank in (1, 0)]  # in any order
    states = [torch.load(path, weights_only=True)["denoiser"] for path in paths]
    merged = merge_states(states)
    assert merged["interactions"] == Run().denoiser.interactions.fingerprint()
    assert len(merged["pairs"]["keys"]) == 180
    assert bool((merged["pairs"]["keys"].diff() > 0).all())


def test_merging_leaves_the_ranks_states_as_they_are(told: Told) -> None:
    for case in ("saved_rows", "saved_users", "saved_far"):
        states = [rank["checkpoint"]["denoiser"] for rank in told(case)]
        before = copy.deepcopy(states)
        merge_states(states)
        assert_identical(states, before)


def test_the_pairs_of_a_merged_state_have_the_ids_of_users(told: Told) -> None:
    for case in ("saved_users", "saved_far"):
        merged = merge_states([rank["checkpoint"]["denoiser"] for rank in told(case)])
        run = Run(**SAVED[case])
        assert merged["interactions"] == run.denoiser.interactions.fingerprint()
        pairs, n_items = merged["pairs"], run.data.n_items
        users = pairs["users"][pairs["keys"] // n_items].tolist()
        expected = zip(*(ids.tolist() for ids in run.pairs()), strict=True)
        assert list(zip(users, (pairs["keys"] % n_items).tolist(), strict=True)) == sorted(expected)


def test_a_state_with_the_same_pairs_of_other_users_is_refused(told: Told) -> None:
    merged = merge_states([rank["checkpoint"]["denoiser"] for rank in told("saved_far")])
    for users in (merged["pairs"]["users"] + 1, merged["pairs"]["users"][:-1]):
        foreign = {
            **merged, "interactions": "another", "pairs": {**merged["pairs"], "users": users},
        }
        with pytest.raises(StateError, match=r"n_items = 30 and without (9|180) of 180\."):
            Run(**SAVED["saved_far"]).denoiser.load_state_dict(resealed(foreign))


def test_two_ranks_go_on_where_one_process_was(told: Told) -> None:
    assert_follow(told("from_one"), reference("saved_rows", "rows"))


def test_one_process_s_state_is_its_own_merger() -> None:
    state = Run().denoiser.state_dict()
    assert merge_states([state]) is state
    assert "ranks" not in state
    assert "pairs" not in state


def test_the_state_of_another_rank_is_refused(told: Told) -> None:
    for case in ("saved_rows", "saved_users"):
        for rank, found in enumerate(told(case)):
            kind, words = found["foreign"]
            assert kind == "StateError"
            assert words.startswith(
                f"Expected the state of rank {rank} of 2, got that of rank {1 - rank} of 2. "
                "Pass merge_states([...]) of all 2"
            )


def test_the_state_of_one_rank_is_refused_by_one_process(told: Told) -> None:
    state = told("saved_rows")[0]["checkpoint"]["denoiser"]
    run = Run()
    before = run.denoiser.state_dict()
    with pytest.raises(StateError, match=r"^Expected the state of rank 0 of 1, got that of rank 0"):
        run.denoiser.load_state_dict(state)
    assert_identical(run.denoiser.state_dict(), before)


def test_states_that_do_not_belong_together_are_refused(told: Told) -> None:
    first, second = (rank["checkpoint"]["denoiser"] for rank in told("saved_users"))
    whole = r"^Expected one state of each rank, got those of "
    with pytest.raises(StateError, match=whole + r"0 of 2\."):
        merge_states([first])
    with pytest.raises(StateError, match=whole + r"1 of 2, 1 of 2\."):
        merge_states([second, second])
    later = told("saved_users")[1]["whole"]["denoiser"]
    with pytest.raises(StateError, match=r"^Expected states of one moment, got rank 1 at another"):
        merge_states([first, later])
    torn = {name: value for name, value in second.items() if name != "tracker"}
    with pytest.raises(StateError, match=r"got one without \['tracker'\]\. Pass what denoiser"):
        merge_states([first, torn])
    with pytest.raises(StateError, match=r"^Expected a state as state_dict\(\) returned it"):
        merge_states([first, {**second, "enabled": False}])


def test_a_merged_state_without_this_rank_s_pairs_is_refused(told: Told) -> None:
    states = [rank["checkpoint"]["denoiser"] for rank in told("saved_users")]
    merged = merge_states(states)
    keys = merged["pairs"]["keys"].clone()
    keys[0] += 1 if int(keys[1]) > int(keys[0]) + 1 else -1
    foreign = {**merged, "pairs": {**merged["pairs"], "keys": keys}, "interactions": "another"}
    with pytest.raises(StateError, match=r"n_items = 30 and without 1 of 180\."):
        Run().denoiser.load_state_dict(resealed(foreign))


def test_all_that_an_epoch_has_counted_of_samples_is_added_up() -> None:
    epochs = [
        RunningEpoch(Bound(20)).after(Reading(1, [], 7, 3, 4, np.array([1.0]), np.array([2.0]))),
        RunningEpoch(Bound(20)).after(Reading(1, [], 5, 0, 5, np.array([0.5]), np.array([4.0]))),
    ]
    joined = RunningEpoch.from_state(_joined_epoch([epoch.state_dict() for epoch in epochs]), 5)
    expected = RunningEpoch(Bound(20)).after(
        Reading(1, [], 12, 3, 9, np.array([1.5]), np.array([6.0]))
    )
    assert without(joined.state_dict(), "seconds") == without(expected.state_dict(), "seconds")
