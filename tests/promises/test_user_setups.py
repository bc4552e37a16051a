"""What a user's set-up brings along: half precision, counters, module losses, new parameters."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import (
    DenoiserConfig,
    DenoiserError,
    LossError,
    NoiseRateError,
    OptimizerError,
    Phase,
    SelfGuidedDenoiser,
    StateError,
    UnsupportedModelError,
)
from sgdl_wrap.model.twin import Lookahead
from tests.support.models_zoo import assert_identical, snapshot, without
from tests.support.resealed import resealed
from tests.support.small_factors import (
    N_ITEMS,
    N_USERS,
    SOON,
    Factors,
    batches,
    bpr,
    interactions,
    made,
)


class Counting(Factors):
    """As a VAE that anneals: every forward moves a plain number and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.updates = 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        scores = super().forward(users, items) * (1 + 0.01 * self.updates + 0.01 * self.seen)
        if self.training:
            self.updates += 1
            self.seen += 1
        return scores


class Scaled(nn.Module):
    """A loss that is a module, with a temperature to learn and a number to set."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))
        self.scale = 1.0

    def forward(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return self.scale * bpr(model, batch) / self.temperature


def build(
    model: nn.Module, loss: Callable[..., Tensor] = bpr, config: DenoiserConfig = SOON, **more: Any
) -> SelfGuidedDenoiser:
    parameters = list(model.parameters())
    if isinstance(loss, nn.Module):
        parameters += list(loss.parameters())
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    return SelfGuidedDenoiser(
        model, optimizer, loss, interactions=interactions(), n_items=N_ITEMS, config=config, **more
    )


def train(denoiser: SelfGuidedDenoiser, epochs: int, size: int = 40) -> None:
    for epoch in range(epochs):
        for batch in batches(size, epoch):
            denoiser.before_step(batch)
            denoiser.step(batch)
        denoiser.end_epoch()


def test_half_precision_models_run_through_both_phases() -> None:
    denoiser = build(made(Factors).to(torch.bfloat16))
    train(denoiser, 4)
    assert denoiser.phase is Phase.SELF_GUIDED


def test_a_loss_under_autocast_runs_through_both_phases() -> None:
    class Dense(Factors):
        def __init__(self) -> None:
            super().__init__()
            self.top = nn.Linear(4, 1)

        def forward(self, users: Tensor, items: Tensor) -> Tensor:
            return self.top(self.user(users) * self.item(items)).squeeze(-1).float()

    denoiser = build(made(Dense))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        train(denoiser, 4)
    assert denoiser.phase is Phase.SELF_GUIDED


def test_counters_of_the_forward_are_no_chance_and_the_preflight_does_not_move_them() -> None:
    model = made(Counting)
    denoiser = build(model)
    first, *_ = batches(40)
    denoiser.before_step(first)
    assert model.updates == 0
    assert float(model.seen) == 0
    denoiser.skip_batch()
    train(denoiser, 4)
    assert denoiser.phase is Phase.SELF_GUIDED


def test_a_loss_that_is_a_module_is_followed_wholly() -> None:
    model, loss = made(Factors), made(Scaled)
    lookahead = Lookahead(model, loss)
    loss.scale = 3.0
    batch = batches(40)[0]
    lookahead.follow()
    found = lookahead.losses([p.detach() for p in lookahead.parameters], batch)
    assert torch.equal(found, loss(model, batch).detach())
    assert len(lookahead.parameters) == 3
    denoiser = build(model, loss)
    train(denoiser, 3)
    assert loss.temperature.item() != 1.0


def test_the_parameters_of_a_loss_must_be_in_the_optimizer_too() -> None:
    model = made(Factors)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(OptimizerError, match="got 1 outside it: temperature"):
        SelfGuidedDenoiser(model, optimizer, made(Scaled), interactions=interactions())


def test_embeddings_with_max_norm_are_refused_with_the_remedy() -> None:
    model = made(Factors)
    model.user.max_norm = 1.0
    with pytest.raises(UnsupportedModelError, match=r"got max_norm in submodule 'user'.*Renormal"):
        build(model)


def test_parameters_frozen_in_phase_two_stay_and_the_others_learn_on() -> None:
    model = made(Factors)
    denoiser = build(model)
    train(denoiser, 2)
    assert denoiser.phase is Phase.SELF_GUIDED
    model.user.weight.requires_grad_(False)
    frozen, free = model.user.weight.clone(), model.item.weight.detach().clone()
    train(denoiser, 1)
    assert torch.equal(model.user.weight, frozen)
    assert not torch.equal(model.item.weight, free)


def test_parameters_replaced_in_phase_two_are_refused_until_the_optimizer_has_them() -> None:
    model = made(Factors)
    denoiser = build(model)
    train(denoiser, 2)
    model.user.weight = nn.Parameter(model.user.weight.detach().clone())
    with pytest.raises(OptimizerError, match=r"got 1 outside it: user\.weight"):
        denoiser.before_step(batches(40)[0])


def test_ranking_leaves_no_attribute_behind() -> None:
    class Remembering(Factors):
        def forward(self, users: Tensor, items: Tensor) -> Tensor:
            if not self.training:
                self.last = users
            return super().forward(users, items)

    model = made(Remembering)
    denoiser = build(model)
    train(denoiser, 3)
    denoiser.sample_weights(batches(40)[0])
    assert not hasattr(model, "last")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_penalty_that_is_not_finite_changes_nothing(value: float) -> None:
    model = made(Factors)
    denoiser = build(model)
    batch = batches(40)[0]
    denoiser.before_step(batch)
    before = snapshot(model)
    with pytest.raises(LossError, match=f"Expected a finite penalty, got {value}"):
        denoiser.step(batch, penalty=torch.tensor(value))
    assert_identical(snapshot(model), before)


def test_a_first_batch_of_one_row_does_not_decide_how_guidance_is_kept() -> None:
    denoiser = build(made(Factors))
    single = tuple(column[:1] for column in batches(40)[0])
    denoiser.before_step(single)
    denoiser.step(single)
    assert denoiser.state_dict()["user"]["sliceable"] is None
    batch = batches(40)[0]
    denoiser.before_step(batch)
    denoiser.step(batch)
    assert denoiser.state_dict()["user"]["sliceable"] is True


def test_resuming_before_a_batch_of_one_row_is_bit_identical() -> None:
    one = made(Factors)
    denoiser = build(one)
    train(denoiser, 3)
    other = made(Factors)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    resumed = build(other)
    resumed._optimizers[0].load_state_dict(copy.deepcopy(denoiser._optimizers[0].state_dict()))
    resumed.load_state_dict(denoiser.state_dict())
    single = tuple(column[:1] for column in batches(40)[0])
    for run in (denoiser, resumed):
        for batch in (single, *batches(40, 9)):
            run.before_step(batch)
            run.step(batch)
    assert_identical(snapshot(other)["parameters"], snapshot(one)["parameters"])


def _without(*path: str) -> Callable[[dict[str, Any]], None]:
    def spoil(state: dict[str, Any]) -> None:
        for name in path[:-1]:
            state = state[name]
        del state[path[-1]]

    return spoil


def _with(value: Any, *path: Any) -> Callable[[dict[str, Any]], None]:
    def spoil(state: Any) -> None:
        for name in path[:-1]:
            state = state[name]
        state[path[-1]] = value

    return spoil


BROKEN = {
    "no generator": _without("tracker", "generator"),
    "losses of another length": _with(torch.zeros(3), "tracker", "losses"),
    "a ring of another shape": _with(torch.zeros(1, 1, dtype=torch.uint8), "tracker", "ring"),
    "an unknown phase": _with("third", "history", 0, "phase"),
    "an epoch without samples": _without("epoch", "samples"),
    "an epoch with more": _with(1, "epoch", "more"),
    "no streams": _without("user", "streams"),
    "a stream that is none": _with(torch.zeros(3, dtype=torch.uint8), "user", "streams", "cpu"),
    "ids past the last": _with(torch.tensor([10**6]), "self_guided", "memorized"),
    "no weighting function": _without("self_guided", "learner", "weighting"),
    "nothing of the loss": _without("user", "sliceable"),
    "nothing of the user's": _with({}, "user"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_state_is_refused_and_changes_nothing(name: str) -> None:
    denoiser = build(made(Factors))
    train(denoiser, 3)
    state = denoiser.state_dict()
    spoiled = copy.deepcopy(state)
    BROKEN[name](spoiled)
    with pytest.raises(StateError, match=r"^Expected a state(_dict of| as state_dict)"):
        denoiser.load_state_dict(spoiled)
    with pytest.raises(StateError, match=r"^Expected "):  # as one that was built of wrong parts
        denoiser.load_state_dict(resealed(spoiled))
    assert_identical(without(denoiser.state_dict(), "seconds"), without(state, "seconds"))


def test_disabled_it_asks_nothing_of_the_model_and_says_ones() -> None:
    class Opaque:
        def __init__(self, batch: tuple[Tensor, ...]) -> None:
            self.columns_of_mine = batch

    model = made(Factors)
    model.user.max_norm = 1.0  # refused when enabled
    denoiser = build(model, lambda m, b: bpr(m, b.columns_of_mine), enabled=False)
    batch = Opaque(batches(40)[0])
    denoiser.before_step(batch)
    denoiser.step(batch)
    assert denoiser.end_epoch() is None
    assert torch.equal(denoiser.sample_weights(batch), torch.ones(40))
    with pytest.raises(StateError, match="Expected the state of a denoiser with enabled=True"):
        build(made(Factors)).load_state_dict(denoiser.state_dict())


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ({"pair_fn": 3}, "Expected pair_fn to be a function, got int"),
        ({"score_fn": "dot"}, "Expected score_fn to be a function, got str"),
        ({"config": {"seed": 1}}, "Expected a DenoiserConfig, got dict"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_at_once(
    argument: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DenoiserError, match=sentence):
        build(made(Factors), **argument)


def labelled(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    users, items, labels = batch
    return F.binary_cross_entropy_with_logits(model(users, items), labels, reduction="none")


def test_batches_of_negatives_alone_train_wherever_they_come() -> None:
    """A loader that mixes positives and negatives makes such batches when they are small."""
    users, items = interactions()
    seen = {*zip(users.tolist(), items.tolist(), strict=True)}
    cells = [(u, i) for u in range(N_USERS) for i in range(N_ITEMS) if (u, i) not in seen][:40]
    negatives = torch.tensor(cells).T
    apart = (negatives[0], negatives[1], torch.zeros(len(cells)))
    mixed = [
        (torch.cat([u, u]), torch.cat([i, n]), torch.arange(2 * len(u)).lt(len(u)).float())
        for u, i, n in batches(40)
    ]
    denoiser = build(made(Factors), labelled, SOON.but(guidance_interval=1))
    for _ in range(4):
        for batch in (apart, *mixed, apart):
            denoiser.before_step(batch)
            denoiser.step(batch)
        assert denoiser.end_epoch() is not None
    assert denoiser.phase is Phase.SELF_GUIDED
    without = build(made(Factors), labelled)
    for batch in mixed:
        without.before_step(batch)
        without.step(batch)
    record = without.end_epoch()
    assert record is not None
    assert record.memorized_ratio > 0
    assert denoiser.sample_weights(apart).shape == (len(cells),)


def test_epochs_without_any_observed_pair_are_told() -> None:
    denoiser = build(made(Factors), labelled, DenoiserConfig(history_length=1))
    for users, items, _ in batches(40):
        batch = (users, (items + 15) % 30, torch.zeros(len(users)))
        denoiser.before_step(batch)
        denoiser.step(batch)
    with pytest.raises(NoiseRateError, match=r"^Expected observed pairs in epoch 1 to "):
        denoiser.end_epoch()


def test_another_default_precision_is_the_users_alone() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        denoiser = build(made(Factors))
        train(denoiser, 4)
        assert denoiser.phase is Phase.SELF_GUIDED
        assert denoiser.sample_weights(batches(40)[0]).dtype == torch.float64
        state = denoiser.state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    assert state["tracker"]["cut"].dtype == torch.float32
    build(made(Factors).double()).load_state_dict(state)


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, pickle.dumps], ids=str)
def test_a_denoiser_is_saved_by_its_state_and_not_copied(copying: Callable[..., Any]) -> None:
    denoiser = build(made(Factors))
    train(denoiser, 2)
    with pytest.raises(
        StateError, match=r"^Expected state_dict\(\) to be saved, got a copy or pickle of the denoi"
    ):
        copying(denoiser)
    train(denoiser, 1)
