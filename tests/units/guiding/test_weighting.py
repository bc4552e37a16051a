"""g(x; ψ) against numpy, and the two scales of its weights."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sgdl_wrap.equations.weighting import before_division, negative_entropy_gradient
from sgdl_wrap.guiding.weighting import (
    Objective,
    WeightingFunction,
    draw_xavier_,
    mean_weight,
)
from sgdl_wrap.ranks.ranks import ALONE, Gathered, Ranks
from tests.support.models_zoo import stream_states


def build(n_inputs: int = 3, hidden: int = 64, seed: int = 0) -> WeightingFunction:
    return WeightingFunction(
        n_inputs,
        hidden,
        generator=torch.Generator().manual_seed(seed),
        device=torch.device("cpu"),
        dtype=torch.float64,
    )


@pytest.mark.parametrize("n_inputs", [1, 3])
def test_weights_equal_one_hidden_layer_in_numpy(n_inputs: int) -> None:
    module = build(n_inputs, 5)
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.from_numpy(rng.normal(size=p.shape)))
    first, first_bias, second, second_bias = (p.detach().numpy() for p in module.parameters())
    features = rng.normal(size=(9, n_inputs))
    hidden = np.maximum(features @ first.T + first_bias, 0)
    expected = 1 / (1 + np.exp(-(hidden @ second[0] + second_bias[0])))
    found = module(torch.from_numpy(features))
    assert found.shape == (9,)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    assert bool(((found > 0) & (found < 1)).all())


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.9])
def test_what_is_believed_is_raised_to_twice_g(exponent: float) -> None:
    module = WeightingFunction(
        1, 4, generator=torch.Generator().manual_seed(0), device=torch.device("cpu"),
        dtype=torch.float64, believes=True,
    )
    with torch.no_grad():
        module.output.bias.fill_(np.log(exponent / (2 - exponent)))
    belief = torch.tensor([1.0, 0.5, 0.1, 0.0], dtype=torch.float64)
    features = torch.stack([torch.linspace(0, 3, 4, dtype=torch.float64), belief], dim=1)
    expected = [max(float(b), 1e-3) ** exponent for b in belief]
    assert module(features).tolist() == pytest.approx(expected)
    assert module.learned(features[:, :1]).tolist() == pytest.approx([exponent / 2] * 4)


def test_at_first_g_is_even_and_believes_the_evidence() -> None:
    module = WeightingFunction(
        2, 8, generator=torch.Generator().manual_seed(0), device=torch.device("cpu"),
        dtype=torch.float64, believes=True,
    )
    features = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert module(features).tolist() == pytest.approx(features[:, -1].tolist())


def test_even_is_what_follows_the_belief() -> None:
    belief = torch.tensor([1.0, 0.7, 0.2], dtype=torch.float64)
    products = torch.zeros(3, dtype=torch.float64)
    products[0] = 1e-12  # a spread that is not 0
    left = Objective(0.7, 2.0, divides=True).gradient(
        belief / belief.mean(), torch.tensor(0.4, dtype=torch.float64),
        Gathered(products, 0, 3), ALONE, belief=belief,
    )  # fmt: skip
    assert float(left.abs().max()) < 1e-11


def test_it_has_the_papers_size() -> None:
    # Sec. 3.2.1: one hidden layer of 64 over the loss alone
    assert [tuple(p.shape) for p in build(1).parameters()] == [(64, 1), (64,), (1, 64), (1,)]


def test_initial_weights_come_from_the_generator_alone() -> None:
    before = stream_states()
    one, same, other = build(seed=1), build(seed=1), build(seed=2)
    assert stream_states() == before
    features = torch.rand(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(one(features), same(features))
    assert not torch.equal(one(features), other(features))
    assert not one.hidden.bias.any()
    assert not one.output.bias.any()


def test_xavier_fills_the_whole_range_evenly() -> None:
    weight = torch.empty(200, 100)
    draw_xavier_(weight, torch.Generator().manual_seed(0))
    bound = (6 / 300) ** 0.5
    assert 0.999 * bound < float(weight.abs().max()) <= bound * (1 + 1e-6)
    assert float(weight.mean()) == pytest.approx(0.0, abs=0.01 * bound)
    assert float(weight.var()) == pytest.approx(bound**2 / 3, rel=0.02)


def test_divided_by_the_mean_weights_average_one() -> None:
    weights = torch.tensor([0.1, 0.2, 0.6])
    divided = weights / mean_weight(weights, ALONE)
    assert divided.tolist() == pytest.approx([1 / 3, 2 / 3, 2.0])


def test_weights_that_are_all_zero_stay_finite() -> None:
    weights = torch.zeros(3)
    assert (weights / mean_weight(weights, ALONE)).tolist() == [0.0, 0.0, 0.0]


def test_the_gradient_before_division_is_autograds() -> None:
    raw = torch.tensor([0.1, 0.2, 0.6, 0.9], dtype=torch.float64, requires_grad=True)
    pull = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    (expected,) = torch.autograd.grad((pull * raw / raw.mean()).sum(), raw)
    mean = mean_weight(raw, ALONE)
    average = (pull * raw.detach() / mean).mean()
    found = before_division(pull, mean, average)
    assert torch.allclose(found, expected, rtol=1e-12, atol=0)


def test_negative_entropy_gradient_is_that_of_the_sum() -> None:
    weights = torch.tensor([0.2, 1.0, 1.8], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad((weights * weights.log()).sum(), weights)
    found = negative_entropy_gradient(weights.detach())
    assert found.tolist() == pytest.approx(expected.tolist())


def test_a_weight_that_underflowed_to_zero_has_a_finite_gradient() -> None:
    found = float(negative_entropy_gradient(torch.zeros(1)))
    assert found == pytest.approx(1 - 126 * np.log(2))


@pytest.mark.parametrize("entropy", [0.1, 2.0])
def test_weights_settle_at_the_exponential_of_the_alignment(entropy: float) -> None:
    products = torch.tensor([-0.5, 0.1, 0.3, 0.9], dtype=torch.float64)
    spread = products.std(unbiased=False)
    for weights, settled in (((products / (entropy * spread)).exp(), True), (1 + products, False)):
        relative = weights / weights.mean()
        left = Objective(0.7, entropy, divides=True).gradient(
            relative, torch.tensor(0.4, dtype=torch.float64), Gathered(products, 0, 4), ALONE
        )
        assert (float(left.abs().max()) < 1e-12) == settled


class OneOfTwo(Ranks):
    """A rank in a thread of its own; what ranks say to each other goes through a list."""

    def __init__(self, rank: int, table: list[Any], barrier: threading.Barrier) -> None:
        super().__init__()
        self.rank, self.size = rank, 2
        self._table, self._barrier = table, barrier

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        self._table[self.rank] = [tensor.clone() for tensor in tensors]
        self._barrier.wait()
        for tensor, *parts in zip(tensors, *self._table, strict=True):
            tensor.copy_(sum(parts))
        self._barrier.wait()


@pytest.mark.parametrize("divides", [True, False])
def test_two_ranks_with_uneven_batches_have_the_gradient_of_their_common_objective(
    divides: bool,
) -> None:
    generator = torch.Generator().manual_seed(3)
    eta, entropy, sizes = 0.3, 0.6, (9, 41)
    raw = torch.rand(50, generator=generator, dtype=torch.float64).requires_grad_()
    products = torch.randn(50, generator=generator, dtype=torch.float64)
    scale = torch.cat([torch.full((n,), eta / (2 * n), dtype=torch.float64) for n in sizes])
    mean = sum(part.mean() for part in raw.split(sizes)) / 2
    even = raw / mean
    weights, level = (even, 1.0) if divides else (raw, mean.detach())
    strength = entropy * products.std(unbiased=False) * level
    objective = (scale * (strength * even * even.log() - weights * products)).sum()
    (expected,) = torch.autograd.grad(objective, raw)

    table: list[Any] = [None, None]
    barrier = threading.Barrier(2, timeout=60)

    def on(rank: int) -> Tensor:
        first, last = (0, 9) if rank == 0 else (9, 50)
        ranks = OneOfTwo(rank, table, barrier)
        mine = raw.detach()[first:last]
        own_mean = mean_weight(mine, ranks)
        return Objective(eta / (2 * len(mine)), entropy, divides).gradient(
            mine / own_mean, own_mean, Gathered(products, first, last), ranks
        )

    with ThreadPoolExecutor(2) as pool:
        found = torch.cat(list(pool.map(on, range(2))))
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-14)
