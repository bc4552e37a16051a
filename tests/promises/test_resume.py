"""A run saved at any step and resumed in another process ends as if it had never stopped."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.models.lightgcn import bpr_loss
from sgdl_wrap import Phase, SelfGuidedDenoiser, StateError
from tests.support.models_zoo import (
    MLPScorer,
    assert_identical,
    seeded,
    snapshot,
    tiny_data,
    without,
)
from tests.support.resealed import resealed
from tests.support.resume_in_fresh_process import EPOCHS, STEPS_PER_EPOCH, Run

CASES = ("neumf tuple", "neumf dict", "lightgcn tuple", "lightgcn dataclass")
END = EPOCHS * STEPS_PER_EPOCH
# the switch comes with step 8: mid-epoch, at epochs' ends, just before it and after, late
STEPS = (0, 3, 7, 8, 9, 14, 19)


def without_seconds(tree: Any) -> Any:
    """Wall-clock times are nobody's to repeat."""
    return without(tree, "seconds")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of the resumed runs, and what each uninterrupted run ended with."""
    folder = tmp_path_factory.mktemp("checkpoints")
    whole = {}
    for case in CASES:
        (folder / case).mkdir()
        with seeded(17):
            run = Run(case)
            for step in STEPS:
                run.train(step)
                torch.save(run.checkpoint(), folder / case / f"step-{step:02}.pt")
                expected = Phase.MEMORIZATION if step < 8 else Phase.SELF_GUIDED
                assert run.denoiser.phase is expected
            run.train(END)
            whole[case] = copy.deepcopy(run.checkpoint())
    ran = subprocess.run(
        [
            sys.executable, "-W", "ignore", "-m", "tests.support.resume_in_fresh_process",
            str(folder),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return folder, whole


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_resumed_in_a_fresh_process_it_ends_bit_for_bit_the_same(
    ended: tuple[Path, dict[str, Any]], case: str, step: int
) -> None:
    folder, whole = ended[0], ended[1][case]
    found = torch.load(folder / case / f"resumed-{step:02}.pt", weights_only=True)
    assert_identical(dict(found["model"]), dict(whole["model"]))
    assert_identical(found["optimizer"], whole["optimizer"])
    assert_identical(without_seconds(found["denoiser"]), without_seconds(whole["denoiser"]))
    assert torch.equal(found["torch"], whole["torch"])


@pytest.mark.parametrize("case", CASES)
def test_what_is_compared_holds_psi_phi_and_the_history(
    ended: tuple[Path, dict[str, Any]], case: str
) -> None:
    """Else the test above compares nothing."""
    state = ended[1][case]["denoiser"]
    assert len(state["history"]) == EPOCHS
    assert [record["phase"] for record in state["history"]].count("memorization") == 2
    learner = state["self_guided"]["learner"]
    selector = learner["selector"]
    for part in (learner["weighting"], selector["network"]):
        assert len(part) > 0
    assert len(learner["optimizer"]["state"]) == len(learner["weighting"]) + len(
        selector["network"]
    )
    assert selector["factor_visits"].sum() > 0
    assert state["self_guided"]["guidance"] is not None


def test_the_steps_after_a_checkpoint_matter() -> None:
    """A run that is not resumed, but started anew, ends elsewhere."""
    with seeded(17):
        one = Run("lightgcn tuple")
        one.train(12)
    with seeded(17):
        other = Run("lightgcn tuple")
        other.train(9)
        fresh = Run("lightgcn tuple")
        fresh.restore({**copy.deepcopy(other.checkpoint())})
        fresh.denoiser = SelfGuidedDenoiser(
            fresh.model, fresh.optimizer, bpr_loss, interactions=fresh.data.tensors(),
            n_items=fresh.data.n_items,
        )
        fresh.train(12)
    with pytest.raises(AssertionError):
        assert_identical(snapshot(fresh.model)["parameters"], snapshot(one.model)["parameters"])


def test_a_state_in_memory_brings_a_denoiser_back_to_that_moment() -> None:
    with seeded(17):
        run = Run("neumf tuple")
        run.train(10)
        saved = copy.deepcopy(run.checkpoint())
        run.train(END)
        first = copy.deepcopy(run.checkpoint())
        run.restore(copy.deepcopy(saved))
        run.train(END)
        assert_identical(without_seconds(run.checkpoint()), without_seconds(first))
        run.restore(copy.deepcopy(saved))  # and loading leaves no other trace
        assert_identical(
            without_seconds(run.denoiser.state_dict()), without_seconds(saved["denoiser"])
        )


def test_a_state_of_phase_one_takes_a_denoiser_out_of_phase_two() -> None:
    with seeded(17):
        run = Run("lightgcn tuple")
        run.train(5)
        saved = copy.deepcopy(run.checkpoint())
        run.train(END)
        assert run.denoiser.phase is Phase.SELF_GUIDED
        run.restore(saved)
        assert run.denoiser.phase is Phase.MEMORIZATION
        assert run.denoiser.memorization_point is None
        assert len(run.denoiser.history) == 1
        batch = run.batch()
        run.denoiser.before_step(batch)
        assert run.denoiser.sample_weights(batch).eq(1).all()


def test_a_state_kept_in_memory_does_not_change_by_training_on() -> None:
    with seeded(17):
        run = Run("lightgcn tuple")
        run.train(10)
        state = run.denoiser.state_dict()
        kept = copy.deepcopy(state)
        run.train(14)
    assert_identical(without_seconds(state), without_seconds(kept))


# ------------------------------------------------------------------ foreign states


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    with seeded(17):
        run = Run("lightgcn tuple")
        run.train(10)
    return copy.deepcopy(run.denoiser.state_dict())


def refused(run: Run, foreign: Any, message: str) -> None:
    """The state is refused, and nothing of the denoiser's or the user's has changed."""
    with seeded(18):
        run.train(6)
        before = copy.deepcopy(without_seconds(run.checkpoint()))
        with pytest.raises(StateError, match=message):
            run.denoiser.load_state_dict(foreign)
        assert_identical(without_seconds(run.checkpoint()), before)
        run.train(7)


def test_the_state_of_another_data_set_is_refused(state: dict[str, Any]) -> None:
    users, items = tiny_data().tensors()
    run = Run("lightgcn tuple", interactions=(users[1:], items[1:]))
    refused(run, state, "^Expected the state of these interactions, got that of another data set")


def test_the_state_of_another_catalogue_is_refused(state: dict[str, Any]) -> None:
    run = Run(
        "lightgcn tuple", n_items=31,
        score_fn=lambda model, users, items: model(users, items.clamp(max=29)),
    )  # fmt: skip
    with pytest.raises(StateError, match=r"^Expected the state of these interactions, got that of"):
        run.denoiser.load_state_dict(state)


def test_the_state_of_another_config_is_refused_by_the_names_of_its_fields(
    state: dict[str, Any],
) -> None:
    run = Run("lightgcn tuple")
    other = run.denoiser.config.but(meta_lr=0.1, gumbel_tau=0.2)
    run = Run("lightgcn tuple", config=other)
    refused(
        run,
        state,
        r"^Expected the state of this configuration, got one that differs in gumbel_tau, meta_lr\. "
        "Build the denoiser with the config it was saved with",
    )


def test_the_state_of_a_version_without_a_field_is_refused(state: dict[str, Any]) -> None:
    config = {name: value for name, value in state["config"].items() if name != "noise_rate"}
    assert state["config"]["noise_rate"] is None  # the default, which may mean another thing now
    message = "^Expected the state of this configuration, got one that differs in noise_rate"
    refused(Run("lightgcn tuple"), resealed({**state, "config": config}), message)


def test_the_state_of_another_model_is_refused(state: dict[str, Any]) -> None:
    refused(
        Run("neumf tuple"),
        state,
        "^Expected the state of this model, got one with other parameters or shapes",
    )


def test_the_state_of_another_format_is_refused(state: dict[str, Any]) -> None:
    foreign = {**state, "format": 99}
    refused(Run("lightgcn tuple"), foreign, "^Expected state format 11, got 99")


@pytest.mark.parametrize(
    "foreign",
    [{}, {"model": {}}, [], None, nn.Linear(1, 1).state_dict()],
    ids=["empty", "checkpoint", "list", "none", "module"],
)
def test_what_is_no_state_is_refused(foreign: Any) -> None:
    refused(
        Run("lightgcn tuple"), foreign, "^Expected a state_dict of SelfGuidedDenoiser, got one with"
    )


def test_a_state_without_one_of_its_parts_is_refused_by_name(state: dict[str, Any]) -> None:
    part = {name: value for name, value in state.items() if name != "tracker"}
    refused(Run("lightgcn tuple"), part, r"got one without \['tracker'\]")


def test_batches_of_another_structure_are_refused_when_resuming(state: dict[str, Any]) -> None:
    with seeded(17):
        run = Run("lightgcn dataclass")
        run.denoiser.load_state_dict(copy.deepcopy(state))  # of tuples
        before = snapshot(run.model, run.optimizer)
        with pytest.raises(
            StateError,
            match=r"^Expected loss_fn to take the guidance that the state holds, tuple of \(int64 "
            r"\(20,\), .* got AttributeError: .* Resume with the same data loader and loss",
        ):
            run.denoiser.before_step(run.batch())
        assert_identical(snapshot(run.model, run.optimizer), before)


def test_a_model_loaded_into_an_identical_one_fits() -> None:
    """Names and shapes tell models apart, not the objects."""
    data = tiny_data()

    def build(seed: int) -> SelfGuidedDenoiser:
        with seeded(seed):
            model = MLPScorer(data.n_users, data.n_items)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return SelfGuidedDenoiser(model, optimizer, bpr_loss, interactions=data.tensors())

    one, other = build(1), build(2)
    other.load_state_dict(one.state_dict())
    assert np.array_equal(other.interactions.keys, one.interactions.keys)
