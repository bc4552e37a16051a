"""Two ranks with half of each batch learn what one process learns from the whole."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from sgdl_wrap import merge_states
from sgdl_wrap.ranks.ranks import ALONE, Ranks
from tests.support.models_zoo import assert_identical, without
from tests.units.ranks.conftest import Told
from tests.units.ranks.runs import FOLLOWING, Run

# what the two do not share with one: clocks, and guidance of whole batches
NOT_COMPARED = ("seconds", "guidance", "pairs", "explicit_epochs")


def assert_near(found: Any, expected: Any, where: str = "root") -> None:
    """Trees of tensors and plain values, equal up to rounding; float32 where it is held so."""
    if isinstance(expected, Tensor) and expected.dtype.is_floating_point:
        loose = expected.dtype == torch.float32
        torch.testing.assert_close(
            found, expected, rtol=1e-5 if loose else 1e-7, atol=1e-6 if loose else 1e-8,
            equal_nan=True, msg=lambda text: f"{where}: {text}",
        )  # fmt: skip
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected:
            assert_near(found[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_near(one, other, f"{where}[{place}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9), where
    else:
        assert_identical(found, expected, where)


def assert_follow(two: list[Any], one: dict[str, Any]) -> None:
    """θ and all that the denoiser knows: M, ψ, φ, their optimizers, factors, the history."""
    states = [copy.deepcopy(rank["denoiser"]) for rank in two]
    assert len(one["denoiser"]["history"]) >= 3
    assert_near(
        without(merge_states(states), *NOT_COMPARED), without(one["denoiser"], *NOT_COMPARED)
    )
    for rank in two:
        assert_near(dict(rank["model"]), dict(one["model"]))


@pytest.mark.parametrize("case", FOLLOWING)
def test_two_ranks_follow_one(told: Told, case: str) -> None:
    one = Run(**{name: value for name, value in FOLLOWING[case].items() if name != "engine"})
    expected = one.finish()
    assert one.denoiser.memorization_point == 2
    assert_follow(told(case), expected)


@pytest.mark.parametrize("case", [*FOLLOWING, "uneven", "fitted_on_some", "asked_alone"])
def test_ranks_hold_the_same_model_and_weights_and_history(told: Told, case: str) -> None:
    first, second = told(case)
    assert_identical(dict(first["model"]), dict(second["model"]))
    records = [without(rank["denoiser"]["history"], "seconds") for rank in (first, second)]
    assert records[0] == records[1]
    learners = [rank["denoiser"]["self_guided"]["learner"] for rank in (first, second)]
    if case != "M alone":
        for part in ("weighting", "optimizer", "generator"):
            assert_identical(learners[0][part], learners[1][part])
        networks = [learner["selector"].get("network") for learner in learners]
        assert_identical(networks[0], networks[1])
        assert_moved(learners[0])


def assert_moved(learner: dict[str, Any]) -> None:
    steps = [moments["step"] for moments in learner["optimizer"]["state"].values()]
    assert min(map(int, steps)) > 2


def test_a_mixture_fitted_on_some_losses_of_each_rank_is_near_that_of_all(told: Told) -> None:
    states = [rank["denoiser"] for rank in told("fitted_on_some")]
    whole = [rank["denoiser"] for rank in told("users lstm")]
    fitted = [state["tracker"]["mixture"]["n_fitted"] for state in (states[0], whole[0])]
    assert fitted == [60, 180]
    for found, expected in zip(states[0]["history"][:2], whole[0]["history"][:2], strict=True):
        assert found["noise_rate"] != expected["noise_rate"]
        assert found["noise_rate"] == pytest.approx(expected["noise_rate"], abs=0.05)


def test_gradients_accumulate_without_being_averaged_at_every_batch(told: Told) -> None:
    one = Run()
    one.train(8)
    assert_follow(told("accumulated"), one.accumulate(2))


def test_one_rank_alone_may_ask_for_weights(told: Told) -> None:
    first, second = told("asked_alone")
    assert second["weights"] is None
    assert float(first["weights"].mean()) == pytest.approx(1)
    assert float(first["weights"].std()) > 0
    for rank in (first, second):
        assert rank["denoiser"]["history"][-1]["mean_weight"] == pytest.approx(1)


def test_a_rank_without_memorized_samples_takes_part(told: Told) -> None:
    first, second = told("M on one rank")
    guidance = [rank["denoiser"]["self_guided"]["guidance"] for rank in (first, second)]
    assert guidance[0] is not None
    assert guidance[1] is None


def test_ranks_with_their_own_users_remember_these_alone(told: Told) -> None:
    states = [rank["denoiser"] for rank in told("users lstm")]
    counts = [len(state["tracker"]["losses"]) for state in states]
    assert counts == [90, 90]
    held = [len(state["self_guided"]["memorized"]) for state in states]
    record = states[0]["history"][-1]
    assert sum(held) == round(180 * record["memorized_ratio"])
    assert min(held) > 0


def test_ranks_draw_otherwise_each_and_each_time_and_leave_what_they_share() -> None:
    """Draws that were the same on all ranks would choose alike among other samples."""
    shared = torch.Generator().manual_seed(3)
    before = shared.get_state()
    drawn = set()
    for rank in range(3):
        for time in range(4):
            ranks = Ranks()
            ranks.rank, ranks.size = rank, 3
            generator = ranks.generator(shared, time)
            drawn.add(tuple(torch.randperm(50, generator=generator).tolist()))
    assert len(drawn) == 3 * 4
    assert torch.equal(shared.get_state(), before)
    assert ALONE.generator(shared, 0) is shared


def test_ranks_share_the_number_of_guidance_samples(told: Told) -> None:
    found = [rank["denoiser"]["self_guided"]["guidance"] for rank in told("uneven")]
    assert max(len(guidance["ids"]) for guidance in found) == 8 // 2


def test_phase_i_trains_as_the_plain_loop_does_bit_for_bit(told: Told) -> None:
    for plain, denoised in told("plain"):
        assert_identical(without(denoised, "storages"), without(plain, "storages"))
        assert all(gradient is not None for gradient in plain["gradients"].values())


def test_the_model_holds_nothing_of_the_denoiser(told: Told) -> None:
    """Buffers are broadcast from rank 0; what each rank remembers would be lost."""
    names = set(Run().bare.state_dict())
    for rank in told("lstm"):
        assert set(rank["model"]) == names


def test_one_process_talks_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("torch.distributed was called")

    for name in ("all_reduce", "all_gather", "all_gather_object", "init_process_group",
                 "new_group", "barrier", "broadcast"):  # fmt: skip
        monkeypatch.setattr(dist, name, refuse)
    run = Run()
    run.finish()
    assert not dist.is_initialized()
    assert run.denoiser.memorization_point == 2
