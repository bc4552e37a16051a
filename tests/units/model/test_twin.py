"""Losses at virtual parameters are the model's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sgdl_wrap.model.twin import Lookahead
from tests.support.models_zoo import (
    ZOO,
    Case,
    assert_identical,
    make,
    relative_gap,
    seeded,
    snapshot,
)

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def virtual_parameters(case: Case, seed: int = 9) -> list[Tensor]:
    """Somewhere else than θ."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (p.detach() + 0.1 * torch.randn(p.shape, generator=generator).to(p)).requires_grad_()
        for p in case.trainable()
    ]


def losses_of_a_copy(case: Case, virtual: list[Tensor], batch: Any) -> tuple[Tensor, list[Tensor]]:
    """The reference: a deep copy of the model whose parameters are overwritten."""
    twin = copy.deepcopy(case.model)
    own = [p for p in twin.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter, value in zip(own, virtual, strict=True):
            parameter.copy_(value)
    with seeded(21):
        losses = case.loss_fn(twin, batch)
    found = torch.autograd.grad(losses.sum(), own, allow_unused=True)
    return losses.detach(), [
        torch.zeros_like(p) if g is None else g for g, p in zip(found, own, strict=True)
    ]


def assert_lookahead_agrees(case: Case, lookahead: Lookahead) -> None:
    virtual = virtual_parameters(case)
    expected, gradients = losses_of_a_copy(case, virtual, case.guidance)
    with seeded(21):
        lookahead.follow()
        losses = lookahead.losses(virtual, case.guidance)
    found = torch.autograd.grad(losses.sum(), virtual, allow_unused=True)
    assert losses.shape == expected.shape
    assert relative_gap([losses], [expected]) <= TOLERANCE[case.dtype]
    filled = [torch.zeros_like(p) if g is None else g for g, p in zip(found, virtual, strict=True)]
    assert relative_gap(filled, gradients) <= TOLERANCE[case.dtype]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", ZOO)
def test_losses_are_those_of_the_model_with_its_parameters_swapped(
    name: str, training: bool, dtype: torch.dtype
) -> None:
    case = make(name, dtype)
    case.model.train(training)
    before = snapshot(case.model)
    lookahead = Lookahead(case.model, case.loss_fn)
    assert_lookahead_agrees(case, lookahead)
    assert_lookahead_agrees(case, lookahead)  # reused as it is
    assert_identical(snapshot(case.model), before)


@pytest.mark.parametrize("name", ZOO)
def test_training_flags_changed_later_are_followed(name: str) -> None:
    case = make(name, torch.float64)
    lookahead = Lookahead(case.model, case.loss_fn)
    case.model.eval()
    assert_lookahead_agrees(case, lookahead)
    case.model.train()
    assert_lookahead_agrees(case, lookahead)


def test_one_submodule_frozen_in_evaluation_mode_is_followed() -> None:
    case = make("batchnorm", torch.float64)
    with torch.no_grad():
        case.model.norm.running_mean.fill_(0.7)
    lookahead = Lookahead(case.model, case.loss_fn)
    case.model.norm.eval()
    assert_lookahead_agrees(case, lookahead)


@pytest.mark.parametrize("name", ZOO)
def test_forward_hooks_added_later_count(name: str) -> None:
    case = make(name, torch.float64)
    lookahead = Lookahead(case.model, case.loss_fn)
    table = case.model.user if hasattr(case.model, "user") else case.model
    plain = losses_of_a_copy(case, virtual_parameters(case), case.guidance)[0]

    def bend(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return torch.sin(3 * output)

    def bend_with_kwargs(module: nn.Module, inputs: Any, kwargs: Any, output: Tensor) -> Tensor:
        return output**3 + output

    handle = table.register_forward_hook(bend)
    table.register_forward_hook(bend_with_kwargs, with_kwargs=True)
    hooked = losses_of_a_copy(case, virtual_parameters(case), case.guidance)[0]
    assert not torch.allclose(plain, hooked)  # else nothing is tested
    assert_lookahead_agrees(case, lookahead)
    handle.remove()
    assert_lookahead_agrees(case, lookahead)


def test_forward_pre_hooks_added_later_count() -> None:
    case = make("mlp", torch.float64)
    lookahead = Lookahead(case.model, case.loss_fn)
    case.model.tower.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    case.model.tower[0].register_forward_pre_hook(
        lambda module, inputs, kwargs: ((inputs[0] + 1,), kwargs), with_kwargs=True
    )
    assert_lookahead_agrees(case, lookahead)


def test_hook_dictionaries_replaced_as_a_whole_are_followed() -> None:
    case = make("mlp", torch.float64)
    lookahead = Lookahead(case.model, case.loss_fn)
    donor = nn.Identity()
    donor.register_forward_hook(lambda module, inputs, output: output * 2)
    case.model.tower._forward_hooks = donor._forward_hooks
    assert_lookahead_agrees(case, lookahead)


def test_attributes_changed_later_are_followed() -> None:
    case = make("dropout", torch.float64)
    lookahead = Lookahead(case.model, case.loss_fn)
    case.model.dropout.p = 0.9
    assert_lookahead_agrees(case, lookahead)
    case = make("lightgcn", torch.float64)
    lookahead = Lookahead(case.model, case.loss_fn)
    case.model.n_layers = 1
    assert_lookahead_agrees(case, lookahead)


def test_an_attribute_that_takes_the_place_of_another_is_followed() -> None:
    case = make("mlp", torch.float64)
    case.model.scale = 1.0
    original = case.loss_fn

    def scaled_loss(model: nn.Module, batch: Any) -> Tensor:
        return original(model, batch) * getattr(model, "other_scale", 1.0)

    case.loss_fn = scaled_loss
    lookahead = Lookahead(case.model, case.loss_fn)
    assert_lookahead_agrees(case, lookahead)
    del case.model.scale  # as many attributes as before, but others
    case.model.other_scale = 5.0
    assert_lookahead_agrees(case, lookahead)


def test_buffers_changed_later_are_followed() -> None:
    case = make("batchnorm", torch.float64)
    case.model.eval()
    lookahead = Lookahead(case.model, case.loss_fn)
    assert_lookahead_agrees(case, lookahead)
    with torch.no_grad():  # in place
        case.model.norm.running_mean += 0.5
    assert_lookahead_agrees(case, lookahead)
    case.model.norm.running_var = torch.full_like(case.model.norm.running_var, 3.0)  # replaced
    assert_lookahead_agrees(case, lookahead)
    case.model.train()
    case.loss_fn(case.model, case.batch)  # as batch norm itself writes them
    case.model.eval()
    assert_lookahead_agrees(case, lookahead)


class _Scaled(nn.Module):
    """A large buffer, a sparse one and an absent one stand beside the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(12, 4)
        self.item = nn.Embedding(15, 4)
        self.register_buffer("large", torch.ones(70_000, dtype=torch.float64))
        self.register_buffer("mix", torch.eye(4, dtype=torch.float64).to_sparse())
        self.register_buffer("absent", None)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        vectors = torch.sparse.mm(self.mix, self.user(users).T).T
        scores = (vectors * self.item(items)).sum(1) * self.large[:12].sum()
        return scores if self.absent is None else scores + self.absent


def test_large_sparse_and_absent_buffers_are_followed() -> None:
    case = make("mlp", torch.float64)
    with seeded(1):
        case.model = _Scaled().double()
    lookahead = Lookahead(case.model, case.loss_fn)
    assert_lookahead_agrees(case, lookahead)
    with torch.no_grad():
        case.model.large.mul_(0.5)
    assert_lookahead_agrees(case, lookahead)
    assert_lookahead_agrees(case, lookahead)
    case.model.large = torch.full((70_000,), 0.1, dtype=torch.float64)
    assert_lookahead_agrees(case, lookahead)
    case.model.mix = (2 * torch.eye(4, dtype=torch.float64)).to_sparse()
    assert_lookahead_agrees(case, lookahead)
    case.model.absent = torch.tensor(3.0, dtype=torch.float64)
    assert_lookahead_agrees(case, lookahead)


def test_batch_norm_buffers_of_the_original_stay_as_they_are() -> None:
    case = make("batchnorm", torch.float64)
    lookahead = Lookahead(case.model, case.loss_fn)
    before = snapshot(case.model)
    lookahead.losses(virtual_parameters(case), case.batch)
    lookahead.release()
    assert_identical(snapshot(case.model), before)
    assert int(case.model.norm.num_batches_tracked) == 0


def test_values_written_into_the_parameters_are_seen_after_release() -> None:
    case = make("frozen", torch.float64)
    lookahead = Lookahead(case.model, case.loss_fn)
    with torch.no_grad():
        for parameter in case.model.parameters():  # the frozen ones too
            parameter.mul_(1.3)
    assert_lookahead_agrees(case, lookahead)


def test_parameters_are_the_trainable_ones_once_each() -> None:
    case = make("tied")
    lookahead = Lookahead(case.model, case.loss_fn)
    assert lookahead.names == [
        "user.weight", "item.weight", "encode.weight", "encode.bias", "decode.bias"
    ]  # fmt: skip
    assert [id(p) for p in lookahead.parameters] == [id(p) for p in case.model.parameters()]
    case = make("frozen")
    lookahead = Lookahead(case.model, case.loss_fn)
    assert lookahead.names == ["item.weight", "tower.0.weight", "tower.2.weight", "tower.2.bias"]


# ------------------------------------------------------------------ whether it still fits


def test_a_model_left_as_it_is_stays_current() -> None:
    case = make("tied")
    lookahead = Lookahead(case.model, case.loss_fn)
    optimizer = torch.optim.Adam(case.trainable())
    case.loss_fn(case.model, case.batch).sum().backward()
    optimizer.step()
    case.model.eval()
    case.model.note = "plain attributes may come and go"
    case.model.register_buffer("later", torch.ones(3))
    case.model.item.weight.data = case.model.item.weight.data.clone()
    assert lookahead.is_current()


def _exchange_table(model: nn.Module) -> None:
    model.item = nn.Embedding(15, 8)


def _exchange_layer_deep_inside(model: nn.Module) -> None:
    model.tower[2] = nn.Linear(8, 1)


def _exchange_parameter(model: nn.Module) -> None:
    model.tower[0].weight = nn.Parameter(model.tower[0].weight.detach().clone())


def _freeze(model: nn.Module) -> None:
    model.tower[0].bias.requires_grad_(False)


def _add_parameter(model: nn.Module) -> None:
    model.tower[0].extra = nn.Parameter(torch.ones(2))


def _remove_bias(model: nn.Module) -> None:
    model.tower[0].bias = None


def _add_module(model: nn.Module) -> None:
    model.tower.append(nn.Linear(1, 1))


def _remove_module(model: nn.Module) -> None:
    del model.tower[2]


def _exchange_two(model: nn.Module) -> None:
    model.user, model.item = model.item, model.user


@pytest.mark.parametrize(
    "change",
    [
        _exchange_table, _exchange_layer_deep_inside, _exchange_parameter, _freeze, _add_parameter,
        _remove_bias, _add_module, _remove_module, _exchange_two,
    ],
    ids=lambda change: change.__name__[1:],
)  # fmt: skip
def test_a_model_of_other_parameters_is_current_no_more(change: Any) -> None:
    case = make("mlp")
    lookahead = Lookahead(case.model, case.loss_fn)
    change(case.model)
    assert not lookahead.is_current()


def test_a_loss_whose_parameters_change_is_current_no_more() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Linear(1, 1)

        def forward(self, model: nn.Module, batch: Any) -> Tensor:
            return self.scale(model(*batch[:2])[:, None])[:, 0]

    case, loss = make("mlp"), Scaled()
    lookahead = Lookahead(case.model, loss)
    assert lookahead.is_current()
    loss.scale = nn.Linear(1, 1)
    assert not lookahead.is_current()
