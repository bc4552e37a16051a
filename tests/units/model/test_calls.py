"""The user's model, loss and scores: called as they are, and no trace left."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.models.neumf import bce_loss
from sgdl_wrap import LossError, UnsupportedModelError
from sgdl_wrap.model.calls import UserCode
from tests.support.models_zoo import (
    ZOO,
    assert_identical,
    in_batch_softmax_loss,
    make,
    seeded,
    snapshot,
    stream_states,
)
from tests.support.spy import Spy


class Scaled(nn.Module):
    """A loss that is a module."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.5)

    def forward(self, model: nn.Module, batch: Any) -> Tensor:
        return self.dropout(bce_loss(model, batch)) * self.scale


def rows(batch: Any, size: int) -> Any:
    return tuple(column[:size] for column in batch)


def test_a_loss_that_is_a_module_is_part_of_what_is_trained() -> None:
    case, loss = make("mlp"), Scaled()
    assert UserCode(case.model, loss, None, seed=0).modules == [case.model, loss]
    assert UserCode(case.model, bce_loss, None, seed=0).modules == [case.model]


def test_losses_come_with_their_graph_and_are_checked() -> None:
    case = make("mlp")
    user = UserCode(case.model, case.loss_fn, None, seed=0)
    losses, mean = user.losses(case.batch, 12)
    assert torch.equal(mean, losses.mean())
    assert mean.requires_grad
    assert torch.equal(losses, case.loss_fn(case.model, case.batch))
    assert losses.requires_grad
    with pytest.raises(
        LossError,
        match=r"^Expected per-sample losses of shape \(11,\), got \(12,\) in this batch\.",
    ):
        user.losses(case.batch, 11)


def test_losses_aside_are_those_of_evaluation_and_the_same_each_time() -> None:
    case, loss = make("dropout"), Scaled()
    user = UserCode(case.model, loss, None, seed=0)
    with seeded(1):
        before, streams = snapshot(case.model), stream_states()
        found = user.losses_aside(case.batch, 12)
        assert torch.equal(user.losses_aside(case.batch, None), found)
        assert stream_states() == streams
    assert not found.requires_grad
    assert_identical(snapshot(case.model), before)
    assert loss.training
    case.model.eval()
    loss.eval()
    assert torch.equal(found, loss(case.model, case.batch).detach())


def test_scores_are_the_models_own_unless_a_function_gives_them() -> None:
    case = make("dropout")
    users, items, _ = case.batch
    with seeded(1):
        streams = stream_states()
        own = UserCode(case.model, case.loss_fn, None, seed=0).score(users, items)
        given = UserCode(
            case.model, case.loss_fn, lambda model, u, i: 2 * model(u, i), seed=0
        ).score(users, items)
        assert stream_states() == streams
    assert case.model.training
    assert not own.requires_grad
    assert torch.equal(own, case.model.eval()(users, items).detach())
    assert torch.equal(given, 2 * own)


@pytest.mark.parametrize("name", ZOO)
def test_the_first_batch_is_tried_once_and_nothing_of_the_users_changes(name: str) -> None:
    case = make(name)
    calls = Spy()

    def counted(model: nn.Module, batch: Any) -> Tensor:
        calls.note(1)
        return case.loss_fn(model, batch)

    user = UserCode(case.model, counted, None, seed=0)
    with seeded(1):
        before, streams = snapshot(case.model), stream_states()
        lookahead = user.prepare(case.batch, 12)
        tried = len(calls)
        assert tried > 0
        assert user.prepare(case.guidance, 9) is lookahead
        assert len(calls) == tried
        assert stream_states() == streams
    assert_identical(snapshot(case.model), before)
    assert user.sliceable is True or name == "batchnorm"
    assert user.lookahead is lookahead


def test_a_batch_of_one_row_leaves_open_whether_rows_can_be_taken() -> None:
    case = make("mlp")
    user = UserCode(case.model, case.loss_fn, None, seed=0)
    lookahead = user.prepare(rows(case.batch, 1), 1)
    assert user.sliceable is None
    assert user.prepare(case.batch, 12) is lookahead
    assert user.sliceable is True


def test_rows_of_a_loss_over_the_whole_batch_cannot_be_taken() -> None:
    case = make("mlp")
    user = UserCode(case.model, in_batch_softmax_loss, None, seed=0)
    user.prepare(rows(case.batch, 12)[:2], 12)
    assert user.sliceable is False


def test_a_refused_loss_is_tried_again() -> None:
    case = make("mlp")
    user = UserCode(case.model, lambda _, batch: bce_loss(case.model, batch), None, seed=0)
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match="Use the model that loss_fn is given"):
            user.prepare(case.batch, 12)
    user.loss_fn = bce_loss
    user.prepare(case.batch, 12)


def test_parameters_exchanged_are_followed_by_a_new_lookahead() -> None:
    case = make("mlp")
    user = UserCode(case.model, case.loss_fn, None, seed=0)
    first = user.prepare(case.batch, 12)
    case.model.user.weight = nn.Parameter(case.model.user.weight.detach().clone())
    assert not first.is_current()
    assert user.renewed(case.batch, 12) is user.lookahead is not first
    assert user.lookahead.is_current()


# ------------------------------------------------------------------ state


def drawing(model: nn.Module, users: Tensor, items: Tensor) -> Tensor:
    return model(users, items) + torch.rand(len(users))


def test_a_loaded_state_draws_what_the_saved_one_would_have() -> None:
    case = make("mlp")
    users, items, _ = case.batch
    one, other = (UserCode(case.model, case.loss_fn, drawing, seed=seed) for seed in (0, 1))
    one.prepare(case.batch, 12)
    one.score(users, items)
    state = one.state_dict()
    other.load_state_dict(copy.deepcopy(state))
    assert_identical(other.state_dict(), state)
    assert torch.equal(other.score(users, items), one.score(users, items))
    assert state["sliceable"] is True
    assert state["draws_foreign"] is False


@pytest.mark.parametrize(
    "broken",
    [{"streams": {}}, {"streams": {"cpu": torch.zeros(3, dtype=torch.uint8)}}, {}],
    ids=["no stream", "a stream that is none", "without a part"],
)
@pytest.mark.parametrize("gone", [None, "sliceable", "draws_foreign"])
def test_a_broken_state_is_not_taken_in_part(broken: dict[str, Any], gone: str | None) -> None:
    if not broken and gone is None:
        gone = "streams"
    case = make("mlp")
    user = UserCode(case.model, case.loss_fn, None, seed=0)
    foreign = UserCode(case.model, case.loss_fn, None, seed=9)
    foreign.prepare(case.batch, 12)
    state = {**foreign.state_dict(), **broken}
    if gone is not None:
        del state[gone]
    before = user.state_dict()
    with pytest.raises((KeyError, RuntimeError)):
        user.load_state_dict(state)
    assert_identical(user.state_dict(), before)
