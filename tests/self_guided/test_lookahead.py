"""Losses at virtual parameters are the model's own, and the products of Eq. 16 are exact."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sgdl_wrap.self_guided.gradients import assumed_update, gradient_products, vector_jacobian
from sgdl_wrap.self_guided.lookahead import Lookahead
from tests.models_zoo import (
    UNROLLED,
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


def test_assumed_update_is_plain_gradient_descent_on_new_leaves() -> None:
    theta = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([[3.0]])]
    gradients = [torch.tensor([10.0, -10.0]), torch.tensor([[1.0]])]
    moved = assumed_update(theta, gradients, 0.1)
    assert torch.allclose(moved[0], torch.tensor([0.0, 3.0]), atol=1e-6)
    assert torch.allclose(moved[1], torch.tensor([[2.9]]))
    assert all(tensor.is_leaf and tensor.requires_grad for tensor in moved)
    assert theta[0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", UNROLLED)
def test_jacobian_products_equal_a_loop_over_samples(name: str, dtype: torch.dtype) -> None:
    case = make(name, dtype)
    theta = case.trainable()
    losses = case.loss_fn(case.model, case.batch)
    generator = torch.Generator().manual_seed(2)
    weights = torch.rand(len(losses), generator=generator).to(dtype)
    direction = [torch.randn(p.shape, generator=generator).to(dtype) for p in theta]

    rows = []  # ∇L_k(θ), flat, one sample at a time
    for loss in case.loss_fn(case.model, case.batch):
        found = torch.autograd.grad(loss, theta, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat([
                (torch.zeros_like(p) if g is None else g).flatten()
                for g, p in zip(found, theta, strict=True)
            ])
        )
    jacobian = torch.stack(rows)

    vector = weights.clone().requires_grad_()
    product = vector_jacobian(losses, theta, vector, differentiable=True)
    flat = torch.cat([tensor.flatten() for tensor in product])
    assert [t.shape for t in product] == [p.shape for p in theta]
    assert relative_gap([flat], [jacobian.T @ weights]) <= TOLERANCE[dtype]
    found = gradient_products(product, vector, direction)
    flat_direction = torch.cat([d.flatten() for d in direction])
    assert relative_gap([found], [jacobian @ flat_direction]) <= TOLERANCE[dtype]
    assert all(p.grad is None for p in theta)


def test_a_parameter_that_the_loss_ignores_gives_zeros() -> None:
    used, ignored = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    vector = torch.ones(3, requires_grad=True)
    product = vector_jacobian(used**2, [used, ignored], vector, differentiable=True)
    assert product[1].tolist() == [0.0, 0.0]
    products = gradient_products(product, vector, [torch.ones(3), torch.ones(2)])
    assert products.tolist() == [2.0, 2.0, 2.0]
    alone = vector_jacobian(used**2, [ignored], vector, differentiable=True)
    assert gradient_products(alone, vector, [torch.ones(2)]).tolist() == [0.0, 0.0, 0.0]
