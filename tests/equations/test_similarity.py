"""The scheduler's gradient factor: exact, and which of its two forms tells anything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sgdl_wrap.equations.similarity import standardized
from sgdl_wrap.model.gradients import (
    assumed_update,
    gradient_cosines,
    gradient_products,
    vector_jacobian,
)
from sgdl_wrap.model.twin import Lookahead
from tests.support.models_zoo import UNROLLED, make, seeded


def per_sample_gradients(losses: Tensor, parameters: list[Tensor]) -> Tensor:
    """∇L_m, (n, |θ|), one sample at a time, in float64."""
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat([
                (torch.zeros_like(p) if g is None else g).double().flatten()
                for g, p in zip(found, parameters, strict=True)
            ])
        )
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", UNROLLED)
def test_cosines_equal_a_loop_over_samples(name: str, dtype: torch.dtype) -> None:
    case = make(name, dtype)
    lookahead = Lookahead(case.model, case.loss_fn)
    theta = [p.detach().clone().requires_grad_() for p in lookahead.parameters]
    generator = torch.Generator().manual_seed(1)
    elsewhere = [
        (p.detach() + 0.3 * torch.randn(p.shape, generator=generator).to(p)).requires_grad_()
        for p in theta
    ]

    here = lookahead.losses(theta, case.batch)
    there = lookahead.losses(elsewhere, case.batch)
    expected = F.cosine_similarity(
        per_sample_gradients(here, theta), per_sample_gradients(there, elsewhere), dim=1
    )
    found = gradient_cosines(here, theta, there, elsewhere)
    assert found.dtype == dtype
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert float(expected.min()) < 0.98  # else it would be easy to be right
    assert here.requires_grad  # the graphs are kept
    torch.autograd.grad(here.sum() + there.sum(), [*theta, *elsewhere], allow_unused=True)


def test_a_gradient_that_vanishes_gives_zero_not_nan() -> None:
    here = torch.tensor([1.0, 2.0, 0.0], requires_grad=True)
    there = torch.tensor([1.0, 0.0, 0.0], requires_grad=True)
    cosines = gradient_cosines(here**2, [here], there**2, [there])
    assert cosines.tolist() == [1.0, 0.0, 0.0]


def test_a_parameter_unused_at_both_points_is_no_obstacle() -> None:
    used, unused = torch.tensor([3.0], requires_grad=True), torch.ones(2, requires_grad=True)
    other, other_unused = torch.tensor([-2.0], requires_grad=True), torch.ones(
        2, requires_grad=True
    )
    cosines = gradient_cosines(used**2, [used, unused], other**2, [other, other_unused])
    assert cosines.tolist() == [-1.0]


def test_cosines_of_no_samples_are_none() -> None:
    theta = torch.ones(2, requires_grad=True)
    none = theta[:0] * 1.0
    assert gradient_cosines(none, [theta], none, [theta]).shape == (0,)


def test_standardized_has_mean_zero_and_spread_one() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 10.0], dtype=torch.float64)
    expected = (values.numpy() - 4.0) / values.numpy().std()
    assert standardized(values).tolist() == pytest.approx(expected.tolist())
    assert standardized(torch.full((3,), 7.0)).tolist() == [0.0, 0.0, 0.0]
    assert standardized(torch.tensor([5.0])).tolist() == [0.0]
    assert standardized(torch.empty(0)).shape == (0,)


def test_the_papers_cosine_is_saturated_where_the_alignment_informs() -> None:
    """METHOD: 1 - cos is a rounding error, so the paper's factor tells the scheduler nothing."""
    case = make("lightgcn", torch.float64, size=64)
    optimizer = torch.optim.Adam(case.model.parameters(), lr=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        case.loss_fn(case.model, case.batch).mean().backward()
        optimizer.step()

    lookahead = Lookahead(case.model, case.loss_fn)
    losses = case.loss_fn(case.model, case.batch)
    with seeded(1):
        weights = torch.rand(len(losses), dtype=torch.float64)
    vector = weights.clone().requires_grad_()
    step = vector_jacobian(losses, lookahead.parameters, vector, differentiable=True)
    virtual = assumed_update(lookahead.parameters, step, 5e-3 / len(losses))
    theta = [p.detach().clone().requires_grad_() for p in lookahead.parameters]
    here = lookahead.losses(theta, case.guidance)
    there = lookahead.losses(virtual, case.guidance)
    cosines = gradient_cosines(here, theta, there, virtual)
    assert float((1 - cosines).abs().max()) < 1e-9

    direction = torch.autograd.grad(there.mean(), virtual, allow_unused=True)
    direction = [
        torch.zeros_like(p) if g is None else g for g, p in zip(direction, virtual, strict=True)
    ]
    products = gradient_products(step, vector, direction)
    assert float(products.std()) > 0.1 * float(products.abs().mean())
    assert float(standardized(products).std(unbiased=False)) == pytest.approx(1.0)
    # the alignment orders the samples: those that pull with the guidance, and those against it
    assert len(set(products.tolist())) > len(products) // 2
