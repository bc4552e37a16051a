"""Straight-through Gumbel-softmax against numpy and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sgdl_wrap.equations.selection import (
    expected_draw,
    guidance_shares,
    gumbel_noise,
    negative_entropy_gradient,
    shares_gradient,
    soft_draws,
)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


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
    soft = soft_draws(torch.from_numpy(logits), torch.from_numpy(noise), tau)
    assert soft.mean(dim=0).tolist() == pytest.approx(soft_shares(logits, noise, tau).tolist())
    found = guidance_shares(soft)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    assert float(found.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("tau", [0.05, 0.5, 2.0])
def test_backward_is_the_gradient_of_the_soft_draws(
    drawn: tuple[np.ndarray, np.ndarray], tau: float
) -> None:
    logits, noise = drawn
    losses = np.random.default_rng(8).normal(size=6)
    soft = soft_draws(torch.from_numpy(logits), torch.from_numpy(noise), tau)
    found = shares_gradient(soft, torch.from_numpy(losses), tau)

    step = 1e-6 * tau
    expected = np.empty(6)
    for place in range(6):
        up, down = logits.copy(), logits.copy()
        up[place] += step
        down[place] -= step
        difference = soft_shares(up, noise, tau) - soft_shares(down, noise, tau)
        expected[place] = difference @ losses / (2 * step)
    assert np.abs(found.numpy() - expected).max() <= 1e-6 * np.abs(expected).max()

    # and of the draws that autograd sees
    parameter = torch.from_numpy(logits.copy()).requires_grad_()
    log_probabilities = torch.log_softmax(parameter, dim=0)
    draws = torch.softmax((log_probabilities + torch.from_numpy(noise)) / tau, dim=1)
    objective = (draws.mean(dim=0) * torch.from_numpy(losses)).sum()
    (slow,) = torch.autograd.grad(objective, parameter)
    assert torch.allclose(found, slow, rtol=1e-10, atol=1e-10 * float(slow.abs().max()))


def test_gradient_of_the_negative_entropy_is_what_autograd_finds(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    logits = torch.from_numpy(drawn[0].copy()).requires_grad_()
    probabilities = torch.softmax(logits, dim=0)
    (slow,) = torch.autograd.grad((probabilities * probabilities.log()).sum(), logits)
    assert torch.allclose(negative_entropy_gradient(logits.detach()), slow, rtol=1e-10, atol=1e-15)


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5], dtype=torch.float64)
    draws = 40_000
    noise = gumbel_noise(uniform(draws, 5)).double()
    shares = guidance_shares(soft_draws(logits, noise, 0.05)).numpy()
    probabilities = softmax(logits.numpy(), 0)
    deviation = np.sqrt(probabilities * (1 - probabilities) / draws)
    assert (np.abs(shares - probabilities) < 4.5 * deviation).all()


def test_noise_follows_gumbels_law() -> None:
    noise = gumbel_noise(uniform(200_000, seed=3)).double().numpy()
    assert np.isfinite(noise).all()
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.015)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.04)
    for point in (-1.0, 0.0, 1.0, 3.0):  # P(ε <= x) = exp(-exp(-x))
        assert (noise <= point).mean() == pytest.approx(np.exp(-np.exp(-point)), abs=0.006)


def test_noise_of_zero_is_finite_and_what_it_was_made_of_stays() -> None:
    ends = torch.tensor([0.0, 0.5])
    assert gumbel_noise(ends).isfinite().all()
    assert ends.tolist() == [0.0, 0.5]


def test_certain_samples_take_everything_without_nan() -> None:
    logits = torch.tensor([200.0, 0.0, -200.0])
    soft = soft_draws(logits, torch.zeros(4, 3), 0.05)
    assert guidance_shares(soft).tolist() == [1.0, 0.0, 0.0]
    assert shares_gradient(soft, torch.tensor([1.0, 2.0, 3.0]), 0.05).isfinite().all()
    assert negative_entropy_gradient(logits).isfinite().all()


def test_a_single_sample_guides_alone() -> None:
    soft = soft_draws(torch.tensor([-3.0]), torch.zeros(2, 1), 0.05)
    assert guidance_shares(soft).tolist() == [1.0]


def test_the_expected_draw_is_the_mean_of_draws_and_has_the_gradient_of_its_shares() -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)
    losses = torch.tensor([1.0, 3.0, 0.5, 2.0], dtype=torch.float64)
    expected = expected_draw(logits)
    assert expected.shape == (1, 4)
    noise = gumbel_noise(uniform(200_000, 4)).double()
    drawn = guidance_shares(soft_draws(logits.detach(), noise, 0.05))
    torch.testing.assert_close(expected[0], drawn, atol=0.005, rtol=0)
    (torch.softmax(logits, dim=0) * losses).sum().backward()
    torch.testing.assert_close(shares_gradient(expected, losses, 1.0), logits.grad)
