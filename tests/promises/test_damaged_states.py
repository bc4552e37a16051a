"""A state in which anything was changed is refused by one sentence, and nothing is taken of it."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sgdl_wrap import Phase, SelfGuidedDenoiser, StateError, merge_states
from tests.support.models_zoo import assert_identical, seeded, without
from tests.support.resealed import resealed
from tests.support.resume_in_fresh_process import Run

CHANGED = (
    r"^Expected a state as state_dict\(\) returned it, got one that was changed or damaged since\. "
    r"Load another checkpoint\.$"
)
REFUSED = CHANGED + r"|^Expected a state_dict of SelfGuidedDenoiser|^Expected state format 11, got "
DAMAGES = 400


def trained(case: str, steps: int) -> Run:
    with seeded(17):
        run = Run(case)
        run.train(steps)
    return run


@pytest.fixture(scope="module")
def run() -> Run:
    found = trained("neumf tuple", 11)
    assert found.denoiser.phase is Phase.SELF_GUIDED
    return found


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in the tree with every key or place of it."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree))
    for key in list(keys):
        yield tree, key
        if isinstance(tree[key], (dict, list)):
            yield from places(tree[key])


def others(value: Any, draw: random.Random) -> list[Any]:
    """What may stand in the place of a value after damage."""
    found: list[Any] = [None, [], {}, "text", -1, 10**30, float("nan"), object(), {1, 2}, {None: 1}]
    if isinstance(value, Tensor):
        found += [value.double(), value[None], torch.cat([value.flatten(), value.flatten()])]
        if value.numel():
            altered = value.clone().flatten()
            place = draw.randrange(len(altered))
            altered[place] = 0 if altered[place].item() != 0 else 1
            found += [altered.reshape(value.shape), value.flatten()[1:], altered[place]]
    elif isinstance(value, bool):
        found += [not value, int(value)]
    elif isinstance(value, (int, float)):
        found += [value + 1, -value - 1, str(value), torch.tensor(value), [value]]
    elif isinstance(value, str):
        found += [value + " ", value.upper() + "x"]
    elif isinstance(value, list):
        found += [value[1:], [*value, 0], [*value, None], tuple(value), dict(enumerate(value))]
    elif isinstance(value, dict):
        found += [{**value, "more": 0}, {**value, 3: 0}, list(value.items()), [value]]
    return [other for other in found if not alike(other, value)]


def alike(one: Any, other: Any) -> bool:
    try:
        assert_identical(one, other)
    except AssertionError:
        return False
    return True


def damaged(state: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A copy with one thing wrong."""
    spoiled = copy.deepcopy(state)
    holder, key = draw.choice(list(places(spoiled)))
    if draw.random() < 0.2 and (not isinstance(holder, list) or len(holder)):
        del holder[key]
    else:
        holder[key] = draw.choice(others(holder[key], draw))
    return spoiled


@pytest.mark.parametrize("case", ["neumf tuple", "lightgcn dataclass"])
def test_hundreds_of_damages_are_refused_and_change_nothing(case: str) -> None:
    run, draw = trained(case, 11), random.Random(case)
    state = run.denoiser.state_dict()
    before = copy.deepcopy(without(state, "seconds"))
    for _ in range(DAMAGES // 2):
        spoiled = damaged(state, draw)
        with pytest.raises(StateError, match=REFUSED):
            run.denoiser.load_state_dict(spoiled)
        with pytest.raises(StateError, match=REFUSED):
            merge_states([spoiled])
    assert_identical(without(run.denoiser.state_dict(), "seconds"), before)
    run.denoiser.load_state_dict(state)  # which is whole
    assert_identical(without(run.denoiser.state_dict(), "seconds"), before)


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def holding_itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def shared(depth: int) -> list[Any]:
    """2 ** depth leaves in few lists."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found, found]
    return found


@pytest.mark.parametrize(
    "value",
    [None, 3, nested(100_000), holding_itself(), shared(200), {"a": object()}, torch.nn.ReLU()],
    ids=["none", "number", "nested", "endless", "shared", "object", "module"],
)
@pytest.mark.parametrize("name", ["config", "history", "interactions", "more"])
def test_whatever_stands_in_the_place_of_a_part_is_refused(
    run: Run, name: str, value: Any
) -> None:
    with pytest.raises(StateError, match=CHANGED):
        run.denoiser.load_state_dict({**run.denoiser.state_dict(), name: value})


@pytest.mark.parametrize("seal", [None, "", 0, torch.zeros(1), {}, b"text"], ids=repr)
def test_a_state_with_another_seal_or_none_is_refused(run: Run, seal: Any) -> None:
    state = run.denoiser.state_dict()
    with pytest.raises(StateError, match=CHANGED):
        run.denoiser.load_state_dict({**state, "seal": seal})
    with pytest.raises(StateError, match=CHANGED):
        run.denoiser.load_state_dict({k: v for k, v in state.items() if k != "seal"})


@pytest.mark.parametrize(
    "mark", [9, 10, None, 11.0, True, "11", torch.ones(2), [11] * 1000], ids=str
)
def test_another_format_is_said_before_anything_else(run: Run, mark: Any) -> None:
    state = {**run.denoiser.state_dict(), "format": mark, "config": None}
    with pytest.raises(StateError, match=r"^Expected state format 11, got .{1,20}\. Load it with"):
        run.denoiser.load_state_dict(state)


def test_how_a_state_was_kept_does_not_matter(run: Run) -> None:
    """Other classes of dicts, another order, other strides but of generators' bytes."""

    def kept(tree: Any) -> Any:
        if isinstance(tree, dict):
            return OrderedDict((name, kept(tree[name])) for name in reversed(list(tree)))
        if isinstance(tree, list):
            return [kept(part) for part in tree]
        if isinstance(tree, Tensor) and tree.ndim == 2:
            return tree.t().contiguous().t()
        if isinstance(tree, Tensor) and tree.ndim == 1 and tree.dtype != torch.uint8:
            return torch.stack((tree, tree), dim=1)[:, 0]
        return tree

    state = run.denoiser.state_dict()
    run.denoiser.load_state_dict(kept(state))
    assert_identical(without(run.denoiser.state_dict(), "seconds"), without(state, "seconds"))


NEARLY_ALIKE = [
    ([None], []), ({"a": None}, {}), (0, False), (1, 1.0), (0.0, -0.0), ("1", 1), ([1], (1,)),
    ({1: 2}, {"1": 2}), (["ab", "c"], ["a", "bc"]), ([[1], 2], [1, [2]]), ([1, 23], [12, 3]),
    (["int 1 "], [1]), ({"a": 1, "b": 2}, {"a": 2, "b": 1}), ([{}], [[]]), (2**70, -(2**70)),
    (torch.zeros(2, 3), torch.zeros(3, 2)), (torch.zeros(2), torch.zeros(2).int()),
    (torch.zeros(1), torch.zeros(())), (torch.zeros(0), torch.zeros(0, 2)),
    (torch.eye(2).to_sparse(), torch.eye(2)), (torch.zeros(1), -torch.zeros(1)),
    (torch.eye(2).to_sparse(), (2 * torch.eye(2)).to_sparse()), (torch.zeros(1), [0.0]),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), NEARLY_ALIKE, ids=str)
def test_values_that_are_nearly_alike_are_told_apart(run: Run, one: Any, other: Any) -> None:
    for held, found in ((one, other), (other, one)):
        state = resealed({**run.denoiser.state_dict(), "more": held})
        run.denoiser.load_state_dict(state)
        with pytest.raises(StateError, match=CHANGED):
            run.denoiser.load_state_dict({**state, "more": found})


ODD_LEAVES = {
    "bfloat16": torch.arange(40, dtype=torch.bfloat16),
    "eight bits": torch.arange(40.0).to(torch.float8_e4m3fn),
    "complex": torch.complex(torch.arange(40.0), torch.arange(40.0)).conj(),
    "bool": torch.arange(40) % 3 == 0,
    "columns": torch.arange(80.0).reshape(2, 40).t(),
    "sparse": torch.eye(40).to_sparse(),
    "numbers": [10**400, -0.0, float("inf"), float("nan"), None, True, "\ud800 text"] + [1] * 33,
}


@pytest.mark.parametrize("name", ODD_LEAVES)
def test_whatever_a_batch_holds_is_sealed_with_the_guidance(name: str) -> None:
    """The guidance that waits is a part of a user's batch."""
    with seeded(17):
        run = Run("neumf tuple")
        denoiser = SelfGuidedDenoiser(
            run.model, run.optimizer, lambda model, batch: run._losses(model, batch[:3]),
            interactions=run.data.tensors(), n_items=run.data.n_items, config=run.denoiser.config,
            pair_fn=lambda batch: (batch[0], batch[1], batch[2] > 0),
        )  # fmt: skip
        run.denoiser = denoiser
        rows = run.batch
        run.batch = lambda: (*rows(), ODD_LEAVES[name])  # type: ignore[method-assign]
        run.train(11)
    state = denoiser.state_dict()
    assert state["self_guided"]["guidance"] is not None
    denoiser.load_state_dict(state)
    packed = state["self_guided"]["guidance"]["batch"]["value"]
    packed[3] = packed[0]
    with pytest.raises(StateError, match=CHANGED):
        denoiser.load_state_dict(state)
