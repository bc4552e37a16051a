"""Sums of per-sample gradients, the assumed update and the products of Eq. 16 are exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sgdl_wrap.model.gradients import (
    ascent_direction,
    assumed_update,
    gradient_at,
    gradient_products,
    vector_jacobian,
)
from sgdl_wrap.model.tables import Lookup, LookupWatch, RowGradient, RowUpdate
from tests.support.models_zoo import UNROLLED, make, relative_gap

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


# ------------------------------------------------------------------ whole parameters


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


def test_sparse_gradients_move_a_copy_and_come_back_dense() -> None:
    table = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([[1.0, 2], [3, 4], [5, 6]], dtype=torch.float64)
    sparse = torch.sparse_coo_tensor([[1, 1, 3]], rows, (4, 2), check_invariants=True)
    (moved,) = assumed_update([table], [sparse], 0.5)
    assert isinstance(moved, Tensor)
    assert moved.tolist() == [[0, 0], [-2, -3], [0, 0], [-2.5, -3]]
    loss = F.embedding(torch.tensor([3, 3, 0]), moved, sparse=True).sum()
    (found,) = gradient_at(loss, [moved])
    assert found.layout == torch.strided
    assert found.tolist() == [[1, 1], [0, 0], [0, 0], [2, 2]]


def test_a_virtual_parameter_that_the_loss_ignores_has_gradient_zero() -> None:
    used, ignored = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    found = gradient_at((used**2).sum(), [ignored, used])
    assert [g.tolist() for g in found] == [[0, 0, 0], [2, 2]]


# ------------------------------------------------------------------ tables by rows


class Scene:
    """Losses by two tables: one looked up three times, once with padding, one used whole."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        shapes = ((3,), (20, 4), (6, 4))
        self.parameters = [
            torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
            for shape in shapes
        ]
        self.ids = torch.randint(20, (7, 2), generator=generator)
        self.pads = int(self.ids[0, 0])
        self.others = torch.randint(20, (5,), generator=generator)
        self.vector = torch.rand(7, generator=generator, dtype=torch.float64).requires_grad_()
        with LookupWatch({1: self.parameters[1], 2: self.parameters[2]}) as watch:
            self.losses = self.at(self.parameters, self.ids)
        self.lookups = watch.lookups()

    def at(self, parameters: list[Tensor], ids: Tensor) -> Tensor:
        bias, table, whole = parameters
        rows = F.embedding(ids, table, padding_idx=self.pads)
        first = F.embedding(ids[:, 0], table)
        mixed = torch.tanh(rows.sum(1)) * F.embedding(ids[:, 1], table) + first**3
        return (mixed @ whole.T).square().sum(1) + bias.sum()

    def dense(self) -> list[Tensor]:
        return vector_jacobian(self.losses, self.parameters, self.vector, differentiable=True)

    def by_rows(self) -> list[Tensor | RowGradient]:
        return ascent_direction(self.losses, self.parameters, self.lookups, self.vector)


def filled(rows: RowGradient) -> Tensor:
    return torch.zeros(20, 4, dtype=torch.float64).index_add(0, rows.ids, rows.total())


def test_the_direction_in_rows_is_the_dense_one() -> None:
    scene = Scene()
    dense, found = scene.dense(), scene.by_rows()
    assert [type(g) for g in found] == [Tensor, RowGradient, Tensor]
    assert found[1].ids.tolist() == sorted(set(scene.ids.flatten().tolist()))
    assert relative_gap([found[0], filled(found[1]), found[2]], dense) <= 1e-12
    assert all(p.grad is None for p in scene.parameters)


def test_without_look_ups_the_direction_is_dense() -> None:
    scene = Scene()
    scene.lookups = {1: []}
    assert relative_gap(scene.by_rows(), scene.dense()) <= 1e-15


def test_look_ups_that_leave_something_out_are_not_relied_on() -> None:
    scene = Scene()
    scene.lookups = {1: scene.lookups[1][1:]}
    assert relative_gap(scene.by_rows(), scene.dense()) <= 1e-15


def test_products_in_rows_are_the_dense_ones() -> None:
    scene = Scene()
    generator = torch.Generator().manual_seed(2)
    direction = [
        torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in scene.parameters
    ]
    expected = gradient_products(scene.dense(), scene.vector, direction)
    found = scene.by_rows()
    assert isinstance(found[1], RowGradient)
    direction[1] = direction[1][found[1].ids]
    products = gradient_products(found, scene.vector, direction)
    assert relative_gap([products], [expected]) <= 1e-12


def test_the_assumed_update_in_rows_gives_the_dense_gradient_there() -> None:
    scene = Scene()
    dense = assumed_update(scene.parameters, scene.dense(), 0.1)
    ascent = scene.by_rows()
    virtual = assumed_update(scene.parameters, ascent, 0.1)
    update = virtual[1]
    assert isinstance(update, RowUpdate)
    assert relative_gap([virtual[0], update.whole(), virtual[2]], dense) <= 1e-12
    assert update.table.data_ptr() == scene.parameters[1].data_ptr()  # no copy

    ids = torch.stack([scene.others, scene.ids[:5, 1]], dim=1)
    assert set(scene.others.tolist()) - set(ascent[1].ids.tolist())  # a row that was not moved
    expected = gradient_at(scene.at(dense, ids).sum(), dense)
    fresh = assumed_update(scene.parameters, ascent, 0.1)
    places = [v.stand_in() if isinstance(v, RowUpdate) else v for v in fresh]
    found = gradient_at(scene.at(places, ids).sum(), fresh)
    expected[1] = expected[1][ascent[1].ids]
    assert relative_gap(found, expected) <= 1e-12


def test_a_table_at_rest_in_the_guidance_has_gradient_zero() -> None:
    scene = Scene()
    virtual = assumed_update(scene.parameters, scene.by_rows(), 0.1)
    found = gradient_at(virtual[0].sum(), virtual)
    assert found[0].tolist() == [1, 1, 1]
    assert found[1].tolist() == [[0] * 4] * len(virtual[1].ids)
    assert found[2].tolist() == [[0] * 4] * 6


def test_a_look_up_that_the_losses_ignore_is_no_hindrance() -> None:
    table = torch.ones(5, 2, requires_grad=True)
    with LookupWatch({0: table}) as watch:
        F.embedding(torch.tensor([4]), table)
        losses = F.embedding(torch.tensor([1, 2]), table).sum(1)
    lookups: dict[int, list[Lookup]] = watch.lookups()
    vector = torch.tensor([1.0, 10.0], requires_grad=True)
    (found,) = ascent_direction(losses, [table], lookups, vector)
    assert isinstance(found, RowGradient)
    assert found.ids.tolist() == [1, 2, 4]
    assert found.total().tolist() == [[1, 1], [10, 10], [0, 0]]
    products = gradient_products([found], vector, [torch.tensor([[1.0, 2], [3, 4], [5, 6]])])
    assert products.tolist() == [3, 7]
