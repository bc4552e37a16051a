"""The LSTM reads each sample's own sequence; top_f takes the better half."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from sgdl_wrap.equations.selection import top_f
from sgdl_wrap.guiding.scheduler import LSTMScheduler, MLPScheduler
from tests.support.models_zoo import stream_states

T, N = 5, 7


def build(
    kind: type[nn.Module], hidden: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64
) -> nn.Module:
    return kind(
        hidden,
        generator=torch.Generator().manual_seed(seed),
        device=torch.device("cpu"),
        dtype=dtype,
    )


def shaken(module: nn.Module) -> nn.Module:
    """Biases away from zero, so that each of them counts."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm_in_numpy(weights: dict[str, np.ndarray], sequence: np.ndarray) -> float:
    """o = v·h_T + b of one sequence, (length, 2)."""
    named = {name.split(".")[-1]: value for name, value in weights.items() if "lstm" in name}
    size = named["weight_hh_l0"].shape[1]
    h, c = np.zeros(size), np.zeros(size)
    for x in sequence:
        gates = named["weight_ih_l0"] @ x + named["weight_hh_l0"] @ h
        gates = gates + named["bias_ih_l0"] + named.get("bias_hh_l0", 0.0)
        i, f, g, o = np.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return float(weights["output.weight"][0] @ h + weights["output.bias"][0])


def in_numpy(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


@pytest.fixture
def padded() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    visits = np.array([1, 2, 3, 4, 5, 5, 1])
    factors = rng.normal(size=(T, N, 2))
    return factors, visits


def test_each_sample_is_read_to_its_own_last_visit(padded: tuple[np.ndarray, np.ndarray]) -> None:
    factors, visits = padded  # what follows the last visit is noise here, and must not count
    module = shaken(build(LSTMScheduler))
    expected = [
        lstm_in_numpy(in_numpy(module), factors[: visits[k], k]) for k in range(N)
    ]
    found = module(torch.from_numpy(factors), torch.from_numpy(visits))
    assert found.shape == (N,)
    assert found.tolist() == pytest.approx(expected, rel=1e-10)


def test_the_history_counts_for_the_lstm_and_not_for_the_mlp() -> None:
    factors = torch.zeros(2, 2, 2, dtype=torch.float64)
    factors[1, :] = 1.0  # the same last visit
    factors[0, 1] = -2.0  # another one before
    visits = torch.tensor([2, 2])
    one, other = shaken(build(LSTMScheduler))(factors, visits).tolist()
    assert one != other
    one, other = shaken(build(MLPScheduler))(factors, visits).tolist()
    assert one == other


def test_the_mlp_reads_the_last_visit(padded: tuple[np.ndarray, np.ndarray]) -> None:
    factors, visits = padded
    module = shaken(build(MLPScheduler))
    weights = in_numpy(module)
    latest = factors[visits - 1, np.arange(N)]
    hidden = np.maximum(latest @ weights["hidden.weight"].T + weights["hidden.bias"], 0)
    expected = hidden @ weights["output.weight"][0] + weights["output.bias"][0]
    found = module(torch.from_numpy(factors), torch.from_numpy(visits))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-12)


@pytest.mark.parametrize("hidden", [1, 6, 64])
def test_the_lstm_has_as_many_weights_as_the_paper_counts(hidden: int) -> None:
    # 4d*2 + 4d*d and one bias of 4d; torch keeps a second bias, which adds to the first
    counted = sum(
        p.numel()
        for name, p in build(LSTMScheduler, hidden).named_parameters()
        if not name.startswith("output") and "bias_hh" not in name
    )
    assert counted == 4 * hidden**2 + 12 * hidden


@pytest.mark.parametrize("kind", [LSTMScheduler, MLPScheduler])
def test_initial_weights_come_from_the_generator_alone(kind: type[nn.Module]) -> None:
    before = stream_states()
    one, same, other = build(kind, seed=1), build(kind, seed=1), build(kind, seed=2)
    assert stream_states() == before
    for (name, p), q, r in zip(
        one.named_parameters(), same.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(p, q)
        if "bias" in name:
            assert not p.any()
        else:
            assert not torch.equal(p, r)
            bound = (6 / sum(p.shape)) ** 0.5
            assert float(p.detach().abs().max()) <= bound
    narrow = build(kind, seed=1, dtype=torch.float32)
    assert all(p.dtype == torch.float32 for p in narrow.parameters())


# ------------------------------------------------------------------ top_f


def test_top_f_gives_the_better_half_equal_shares() -> None:
    factors = torch.tensor([[0.0, 0.0], [1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])
    assert top_f(factors).tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 1 / 3])


def test_top_f_weighs_both_factors_alike_whatever_their_scale() -> None:
    # by the raw sum the large second factor alone would decide: samples 2 and 3
    factors = torch.tensor([[3.0, 100.0], [2.9, 150.0], [0.0, 201.0], [0.1, 200.0]])
    # standardised sums: -0.47 0.66 -0.12 -0.07
    assert top_f(factors).tolist() == [0.0, 0.5, 0.0, 0.5]


def test_top_f_takes_the_earlier_of_equals() -> None:
    assert top_f(torch.ones(4, 2)).tolist() == [0.5, 0.5, 0.0, 0.0]
    assert top_f(torch.ones(1, 2)).tolist() == [1.0]


def test_top_f_is_not_decided_by_rounding() -> None:
    """One sample with factors among others without: its scores are opposite, but for rounding."""
    generator = torch.Generator().manual_seed(0)
    for kind in (torch.float32, torch.float64):
        for n in range(3, 15):
            for _ in range(20):
                loss, similarity = torch.rand(2, generator=generator, dtype=kind)
                factors = torch.zeros(n, 2, dtype=kind)
                factors[n - 1] = torch.stack([loss + 0.1, -similarity - 0.1])
                half = (n + 1) // 2
                assert top_f(factors).nonzero().flatten().tolist() == list(range(half))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12).flatmap(
    lambda n: arrays(np.float64, (n, 2), elements=st.integers(-40, 40).map(lambda v: v / 8))
))
def test_top_f_equals_numpy(factors: np.ndarray) -> None:
    spread = factors.std(axis=0)
    scores = ((factors - factors.mean(axis=0)) / np.where(spread > 0, spread, 1)).sum(axis=1)
    shares = top_f(torch.from_numpy(factors)).numpy()
    half = (len(factors) + 1) // 2
    assert (shares > 0).sum() == half
    assert shares[shares > 0].tolist() == pytest.approx([1 / half] * half)
    if half < len(factors):
        assert scores[shares > 0].min() >= scores[shares == 0].max() - 1e-5
