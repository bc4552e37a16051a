"""The noise rate against exact fractions, Bayes' rule and an EM of its own (Eq. 4)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdl_wrap.equations.noise_rate import NoiseRate, noise_posterior, scale_per_user
from sgdl_wrap.errors import NoiseRateError
from sgdl_wrap.watching import noise_rate as module
from sgdl_wrap.watching.noise_rate import estimate_noise_rate

REG_COVAR = 5e-4  # added to every variance, as DivideMix does


def estimate(losses: np.ndarray, users: np.ndarray, *, normalization: str = "user",
             max_fitted: int = 10_000) -> NoiseRate:  # fmt: skip
    return estimate_noise_rate(losses, users, normalization=normalization, max_fitted=max_fitted)


def planted(seed: int, share: float, separation: float, n_users: int = 100, each: int = 60
            ) -> tuple[np.ndarray, np.ndarray, float]:  # fmt: skip
    """Losses of two kinds, `separation` standard deviations apart, every user's own scale."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users) * 3, each)  # ids with gaps
    noisy = rng.random(len(users)) < share
    scale = np.repeat(rng.uniform(0.1, 10, n_users), each)
    losses = scale * (10 + rng.normal(size=len(users)) + separation * noisy)
    return losses, users, float(noisy.mean())


# ------------------------------------------------------------------ independent references


def slow_scaled(losses: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Min-max of each user in exact fractions; a user without spread gives zeros."""
    scaled = []
    for loss, user in zip(losses.tolist(), users.tolist(), strict=True):
        own = [Fraction(x) for x, u in zip(losses.tolist(), users.tolist(), strict=True)
               if u == user]  # fmt: skip
        low, high = min(own), max(own)
        scaled.append(float((Fraction(loss) - low) / (high - low)) if high > low else 0.0)
    return np.array(scaled)


def quick_scaled(losses: np.ndarray, users: np.ndarray) -> np.ndarray:
    """The same in floats, a user at a time."""
    scaled = np.zeros(len(losses))
    for user in set(users.tolist()):
        own = losses[users == user].astype(np.float64)
        if own.max() > own.min():
            scaled[users == user] = (own - own.min()) / (own.max() - own.min())
    return scaled


def posterior(x: np.ndarray, means, variances, weights) -> np.ndarray:
    """p(second component | x) by Bayes' rule, through logarithms."""
    logs = [
        np.log(w) - 0.5 * np.log(2 * np.pi * v) - (x - m) ** 2 / (2 * v)
        for m, v, w in zip(means, variances, weights, strict=True)
    ]
    return 1 / (1 + np.exp(np.clip(logs[0] - logs[1], -700, 700)))


def em_noise_rate(x: np.ndarray) -> float:
    """EM for two Gaussians from the two ends of the data until nothing moves any more."""
    means = np.array([x.min(), x.max()])
    variances = np.full(2, x.var() / 4)
    weights = np.full(2, 0.5)
    for _ in range(20_000):
        second = posterior(x, means, variances, weights)
        shares = np.stack([1 - second, second])
        sums = shares.sum(axis=1)
        updated = shares @ x / sums
        variances = np.array([
            (share * (x - mean) ** 2).sum() / total + REG_COVAR
            for share, mean, total in zip(shares, updated, sums, strict=True)
        ])  # fmt: skip
        weights = sums / len(x)
        settled = np.abs(updated - means).max() < 1e-10
        means = updated
        if settled:
            break
    second = posterior(x, means, variances, weights).mean()
    return float(second if means[1] > means[0] else 1 - second)


# ------------------------------------------------------------------ scaling

LOSSES = st.one_of(
    st.floats(-4, 4, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),  # up to 3e38, down to 1e-45
    st.sampled_from([0.0, 1.0, 1e-38, 2.0**127, -(2.0**127)]),
)


@settings(deadline=None)
@given(groups=st.lists(st.tuples(st.integers(1, 5), st.lists(LOSSES, min_size=1, max_size=6)),
                       min_size=1, max_size=6))  # fmt: skip
def test_scaling_agrees_with_exact_fractions_user_by_user(groups):
    user, users, losses = 0, [], []
    for gap, own in groups:
        user += gap
        users += [user] * len(own)
        losses += own
    stored, owners = np.array(losses, dtype=np.float32), np.array(users)
    found = scale_per_user(stored, owners)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, slow_scaled(stored, owners), rtol=0, atol=1e-12)


def test_scaling_maps_constant_and_single_losses_to_the_clean_end():
    losses = np.array([7.0, 7.0, 7.0, 3.0, -1.0, 1.0, 0.0])
    users = np.array([0, 0, 0, 2, 5, 5, 5])
    assert scale_per_user(losses, users).tolist() == [0, 0, 0, 0, 0, 1, 0.5]


@pytest.mark.parametrize("size", [1e-300, 1.7e308, 1.0])
def test_scaling_neither_overflows_nor_vanishes(size):
    losses = np.array([-1.0, 1.0, 0.0, 0.5]) * size
    np.testing.assert_allclose(scale_per_user(losses, np.zeros(4, int)), [0, 1, 0.5, 0.75])


def test_scaling_leaves_its_input_alone():
    losses, users = np.array([1.0, 5.0, 3.0]), np.array([0, 0, 1])
    scale_per_user(losses, users)
    assert losses.tolist() == [1.0, 5.0, 3.0]
    assert users.tolist() == [0, 0, 1]


# ------------------------------------------------------------------ the estimate


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", [0, 1])
def test_recovers_well_separated_noise(share, seed):
    losses, users, truth = planted(seed, share, separation=8)
    found = estimate(losses, users)
    assert found.value == pytest.approx(truth, abs=0.02)
    assert found.converged


@pytest.mark.parametrize(
    # Seen over three seeds: 1e-7 at 8 standard deviations, 4e-5 at 6 and 0.007 at 4, where the
    # library's EM stops short of the optimum; the reference runs to the end.
    ("separation", "tolerance"), [(8, 1e-5), (6, 2e-4), (4, 0.01)]
)  # fmt: skip
@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_agrees_with_an_independent_em(separation, tolerance, share):
    losses, users, _ = planted(2, share, separation)
    expected = em_noise_rate(quick_scaled(losses, users))
    assert estimate(losses, users).value == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_agrees_with_an_independent_em_where_components_touch(share):
    losses, users, truth = planted(2, share, separation=3)
    expected = em_noise_rate(quick_scaled(losses, users))
    assert expected == pytest.approx(truth, abs=0.04)
    assert estimate(losses, users).value == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize("normalization", ["user", "global"])
@pytest.mark.parametrize("max_fitted", [500, 10_000])
@pytest.mark.parametrize("separation", [0, 2, 6])
def test_is_the_mean_posterior_of_the_noisier_component_over_all(
    normalization, max_fitted, separation
):
    losses, users, _ = planted(4, 0.3, separation, n_users=30, each=40)
    found = estimate(losses, users, normalization=normalization, max_fitted=max_fitted)
    groups = users if normalization == "user" else np.zeros_like(users)
    scaled = quick_scaled(losses, groups)
    expected = posterior(scaled, found.means, found.variances, found.weights).mean()
    assert found.value == pytest.approx(float(expected), abs=1e-9)
    assert found.means[0] < found.means[1]
    assert sum(found.weights) == pytest.approx(1)
    assert min(found.variances) >= REG_COVAR * 0.999
    assert found.n_fitted == min(max_fitted, len(losses))
    assert type(found.value) is float


def test_posteriors_taken_in_chunks_are_the_same(monkeypatch):
    losses, users, _ = planted(5, 0.3, separation=5, n_users=20)
    whole = estimate(losses, users)
    monkeypatch.setattr(module, "CHUNK", 7)
    assert estimate(losses, users).value == pytest.approx(whole.value, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_bounded_sample_moves_the_rate_by_less_than_half_a_percent(seed):
    losses, users, truth = planted(seed, 0.25, separation=8, n_users=1000, each=100)
    bounded = estimate(losses, users, max_fitted=4_000)
    whole = estimate(losses, users, max_fitted=len(losses))
    assert (bounded.n_fitted, whole.n_fitted) == (4_000, 100_000)
    assert abs(bounded.value - whole.value) < 0.005
    assert abs(whole.value - truth) < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_so_it_does_where_the_modes_overlap_and_lean(seed):
    # as losses of recommenders do
    rng = np.random.default_rng(seed)
    noisy = rng.random(60_000) < 0.2
    losses = np.where(noisy, rng.gamma(4, 0.3, 60_000), rng.gamma(2, 0.15, 60_000))
    users = np.repeat(np.arange(600), 100)
    bounded = estimate(losses, users, max_fitted=4_000)
    whole = estimate(losses, users, max_fitted=len(losses))
    assert abs(bounded.value - whole.value) < 0.005


def test_losses_not_seen_are_left_out():
    losses, users, _ = planted(6, 0.3, separation=6, n_users=40)
    unseen = np.random.default_rng(0).random(len(losses)) < 0.4
    holes = np.where(unseen, np.nan, losses)
    holes[users == 3] = np.nan  # a user not seen at all
    kept = ~np.isnan(holes)
    for bound in (10_000, 300):
        found = estimate(holes, users, max_fitted=bound)
        assert found == estimate(losses[kept], users[kept], max_fitted=bound)


def test_scales_of_users_do_not_matter_per_user_and_do_over_all():
    losses, users, truth = planted(7, 0.3, separation=8)
    plain = losses / np.repeat(losses.reshape(100, 60).min(axis=1), 60)
    assert estimate(losses, users).value == pytest.approx(estimate(plain, users).value, abs=1e-6)
    over_all = estimate(losses, users, normalization="global").value
    assert abs(over_all - truth) > 0.05  # users' scales from 0.1 to 10 hide the noise


def test_is_deterministic_and_leaves_the_global_streams_alone():
    losses, users, _ = planted(8, 0.3, separation=3)
    theirs = np.random.get_state()[1].copy()  # noqa: NPY002 - the user's stream must not move
    assert estimate(losses, users, max_fitted=500) == estimate(losses, users, max_fitted=500)
    assert (np.random.get_state()[1] == theirs).all()  # noqa: NPY002


def test_two_losses_are_enough():
    found = estimate(np.array([0.0, 1.0]), np.array([0, 0]))
    assert found.value == pytest.approx(0.5, abs=1e-6)
    assert found.means == pytest.approx((0, 1), abs=1e-6)


def test_few_noisy_among_many_clean_are_few():
    # the upper quartile is as clean as the lower one
    losses, users = np.zeros(5_000), np.zeros(5_000, dtype=np.int64)
    losses[:5] = 1.0
    assert estimate(losses, users).value == pytest.approx(0.001, abs=1e-4)


def test_few_noisy_between_two_that_are_fitted_are_few():
    losses, users = np.zeros(100_000), np.zeros(100_000, dtype=np.int64)
    losses[:5] = 1.0
    found = estimate(losses, users)
    assert found.n_fitted == 10_000
    assert found.value < 0.01


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("losses", [[], [np.nan, np.nan], [np.nan, 0.5, np.nan]])
def test_fewer_than_two_losses_are_refused(losses):
    count = int(np.sum(~np.isnan(losses)))
    with pytest.raises(
        NoiseRateError,
        match=rf"Expected at least two losses to estimate a noise rate, got {count}\. Train on "
        r"more interactions, or set noise_rate in the config\.",
    ):
        estimate(np.array(losses, dtype=np.float32), np.zeros(len(losses), dtype=np.int64))


@pytest.mark.parametrize("normalization", ["user", "global"])
def test_losses_that_are_all_equal_are_refused(normalization):
    with pytest.raises(
        NoiseRateError,
        match=r"Expected losses that differ, got all 4 equal to 0\.25\. Check that loss_fn "
        r"returns unreduced losses and that the model trains, or set noise_rate in the config\.",
    ):
        estimate(
            np.array([0.25, 0.25, np.nan, 0.25, 0.25]), np.array([0, 0, 0, 1, 1]),
            normalization=normalization,
        )  # fmt: skip


@pytest.mark.parametrize("users", [[0, 1, 2, 3], [0, 0, 2, 2]], ids=["single", "constant"])
def test_users_without_spread_are_refused_with_the_remedy(users):
    losses = np.array([0.1, 0.1, 0.7, 0.7])
    with pytest.raises(
        NoiseRateError,
        match=r"Expected users with two or more different losses, got none: per-user scaling "
        r"maps all to 0\. Set Variants\(loss_normalization='global'\), or noise_rate\.",
    ):
        estimate(losses, np.array(users))
    # and the remedy helps
    assert estimate(losses, np.array(users), normalization="global").value == pytest.approx(0.5)


def test_the_posterior_of_an_interaction_without_loss_is_nan_and_says_nothing() -> None:
    mixture = NoiseRate(0.3, (0.2, 0.8), (0.01, 0.01), (0.7, 0.3), True, 10)
    found = noise_posterior(np.array([0.2, np.nan, 0.8] * 8), mixture)  # warnings are errors here
    assert np.isnan(found).tolist() == [False, True, False] * 8
    assert found[0] < 0.01
    assert found[2] > 0.99
