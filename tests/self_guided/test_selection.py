"""Straight-through Gumbel-softmax against numpy and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sgdl_wrap.self_guided.selection import guidance_shares, gumbel_noise
from tests.models_zoo import stream_states

CPU = torch.device("cpu")


def softmax(values: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(values - values.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def soft_shares(logits: np.ndarray, noise: np.ndarray, tau: float) -> np.ndarray:
    """mean over draws of softmax((log π + ε) / τ), π = softmax(o)."""
    return softmax((np.log(softmax(logits, 0)) + noise) / tau, 1).mean(axis=0)


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    return rng.normal(size=6), rng.gumbel(size=(9, 6))


@pytest.mark.parametrize("tau", [0.05, 0.5, 2.0])
def test_forward_is_the_mean_of_one_hot_draws(
    drawn: tuple[np.ndarray, np.ndarray], tau: float
) -> None:
    logits, noise = drawn
    winners = (np.log(softmax(logits, 0)) + noise).argmax(axis=1)
    expected = np.bincount(winners, minlength=6) / 9
    found = guidance_shares(torch.from_numpy(logits), torch.from_numpy(noise), tau)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    assert float(found.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("tau", [0.05, 0.5, 2.0])
def test_backward_is_the_gradient_of_the_soft_draws(
    drawn: tuple[np.ndarray, np.ndarray], tau: float
) -> None:
    logits, noise = drawn
    losses = np.random.default_rng(8).normal(size=6)
    parameter = torch.from_numpy(logits.copy()).requires_grad_()
    shares = guidance_shares(parameter, torch.from_numpy(noise), tau)
    (found,) = torch.autograd.grad((shares * torch.from_numpy(losses)).sum(), parameter)

    step = 1e-6 * tau
    expected = np.empty(6)
    for place in range(6):
        up, down = logits.copy(), logits.copy()
        up[place] += step
        down[place] -= step
        difference = soft_shares(up, noise, tau) - soft_shares(down, noise, tau)
        expected[place] = difference @ losses / (2 * step)
    assert np.abs(found.numpy() - expected).max() <= 1e-6 * np.abs(expected).max()

    # by hand: dy_dm/dlogπ_j = y_dm (δ_mj - y_dj) / τ, and Σ_m dlogπ_m = 0 leaves it as it is
    y = softmax((np.log(softmax(logits, 0)) + noise) / tau, 1)
    by_hand = (y * (losses - (y @ losses)[:, None])).mean(axis=0) / tau
    assert np.abs(found.numpy() - by_hand).max() <= 1e-10 * np.abs(by_hand).max()


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5], dtype=torch.float64)
    draws = 40_000
    noise = gumbel_noise(
        (draws, 5), torch.Generator().manual_seed(0), dtype=torch.float64, device=CPU
    )
    shares = guidance_shares(logits, noise, 0.05).numpy()
    probabilities = softmax(logits.numpy(), 0)
    deviation = np.sqrt(probabilities * (1 - probabilities) / draws)
    assert (np.abs(shares - probabilities) < 4.5 * deviation).all()


def test_noise_follows_gumbels_law_and_draws_from_its_own_generator_alone() -> None:
    before = stream_states()
    noise = gumbel_noise(
        (200_000,), torch.Generator().manual_seed(3), dtype=torch.float64, device=CPU
    ).numpy()
    assert stream_states() == before
    assert np.isfinite(noise).all()
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.015)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.04)
    for point in (-1.0, 0.0, 1.0, 3.0):  # P(ε <= x) = exp(-exp(-x))
        assert (noise <= point).mean() == pytest.approx(np.exp(-np.exp(-point)), abs=0.006)


def test_noise_is_the_same_for_the_same_generator_and_in_the_dtype_asked_for() -> None:
    one, other = (
        gumbel_noise((3, 4), torch.Generator().manual_seed(3), dtype=dtype, device=CPU)
        for dtype in (torch.float32, torch.float64)
    )
    assert one.dtype == torch.float32
    assert other.dtype == torch.float64
    assert torch.equal(one.double(), other)


def test_certain_samples_take_everything_without_nan() -> None:
    logits = torch.tensor([200.0, 0.0, -200.0], requires_grad=True)
    noise = torch.zeros(4, 3)
    shares = guidance_shares(logits, noise, 0.05)
    assert shares.tolist() == [1.0, 0.0, 0.0]
    (gradient,) = torch.autograd.grad((shares * torch.tensor([1.0, 2.0, 3.0])).sum(), logits)
    assert torch.isfinite(gradient).all()


def test_a_single_sample_guides_alone() -> None:
    assert guidance_shares(torch.tensor([-3.0]), torch.zeros(2, 1), 0.05).tolist() == [1.0]
