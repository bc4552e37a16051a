"""How much of the data is noise: a mixture of two Gaussians over the losses (Eq. 4)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np

BINS = 40  # of the histogram that is kept for a picture
_Two = tuple[float, float]  # clean, noisy


@dataclass(frozen=True)
class NoiseRate:
    """An estimated noise rate and the mixture behind it.

    Attributes:
        value: σ̂ in [0, 1].
        means, variances, weights: of the two components, the noisy one last; losses are scaled
            to [0, 1].
        converged: whether EM settled within its iterations.
        n_fitted: losses that the mixture was fitted on.
        histogram: how many of those lie in each of BINS equal parts of [0, 1].
    """

    value: float
    means: _Two
    variances: _Two
    weights: _Two
    converged: bool
    n_fitted: int
    histogram: tuple[int, ...] = ()


def scale_per_user(losses: np.ndarray, users: np.ndarray) -> np.ndarray:
    """(L_k - min_u) / (max_u - min_u) over the losses of each user u.

    A user whose losses are all equal, as a single one is, gives no evidence: they map to 0, the
    clean end, and nothing is divided by zero.

    Args:
        losses: (N,) finite.
        users: (N,) int64, sorted.

    Returns:
        (N,) float64 in [0, 1].

    Source: Sec. 3.1.2, "we normalize the loss values"; per user as the authors' code (deviation 3).

    >>> losses, users = np.array([1.0, 3.0, 2.0, 7.0]), np.array([4, 4, 4, 9])
    >>> scale_per_user(losses, users).tolist()
    [0.0, 1.0, 0.5, 0.0]
    """
    starts = np.flatnonzero(np.diff(users, prepend=users[:1] - 1))
    sizes = np.diff(starts, append=len(users))
    # halves are subtracted, so that losses near the type's limits cannot overflow
    scaled: np.ndarray = losses.astype(np.float64)
    scaled *= 0.5
    low = np.minimum.reduceat(scaled, starts)
    spread = np.maximum.reduceat(scaled, starts) - low
    spread[spread == 0] = np.inf
    scaled -= np.repeat(low, sizes)  # in place: they may be many
    scaled /= np.repeat(spread, sizes)
    return scaled


def scale_between(losses: np.ndarray, low: float, high: float) -> np.ndarray:
    """(L_k - low) / (high - low), (N,) float64, of finite losses in [low, high], low < high.

    Source: Sec. 3.1.2, "we normalize the loss values"; over all users (deviation 3).

    >>> scale_between(np.array([1.0, 3.0, 2.0]), 1.0, 3.0).tolist()
    [0.0, 1.0, 0.5]
    """
    scaled: np.ndarray = (losses.astype(np.float64) * 0.5 - 0.5 * low) / (0.5 * high - 0.5 * low)
    return scaled


def scaled_losses(
    losses: np.ndarray, users: np.ndarray, normalization: Literal["user", "global"]
) -> np.ndarray:
    """Losses min-max scaled to [0, 1] per user, or over all, as the mixture sees them.

    Args:
        losses: (N,); NaN where unknown, which stays NaN.
        users: user of each, (N,) int64, sorted.

    Returns:
        (N,) float64.

    Source: Sec. 3.1.2 (deviation 3).

    >>> losses, users = np.array([1.0, 3.0, np.nan, 7.0]), np.array([4, 4, 4, 9])
    >>> scaled_losses(losses, users, "user").tolist()
    [0.0, 1.0, nan, 0.0]
    """
    found = np.full(len(losses), np.nan)
    known = ~np.isnan(losses)
    if known.any():
        groups = users[known] if normalization == "user" else np.zeros_like(users[known])
        found[known] = scale_per_user(losses[known], groups)
    return found


def evenly_by_size(values: np.ndarray, most: int) -> np.ndarray:
    """`most` of the values, evenly spaced by rank, ascending: nearer to all than a random draw.

    Args:
        values: (N,), N >= most.

    Source: ours (deviation 4).

    >>> evenly_by_size(np.array([0.3, 0.1, 0.2, 0.5, 0.4]), 3).tolist()
    [0.1, 0.3, 0.5]
    """
    places = np.linspace(0, len(values) - 1, most).round().astype(np.int64)
    found: np.ndarray = np.sort(values)[places]
    return found


def fitted_mixture(sample: np.ndarray, start: NoiseRate | None = None) -> NoiseRate:
    """Two Gaussians fitted to losses by EM; its `value` is NaN, as σ̂ is over all losses.

    Args:
        sample: losses scaled to [0, 1], (n,) float64, n >= 2.
        start: the mixture of the epoch before, from which EM goes on: overlapping components need
            hundreds of iterations, which epochs then share. None starts from quartiles
            (deviation 4).

    Source: Sec. 3.1.2, Eq. 4; fitted with scikit-learn's EM.

    >>> sample = np.array([0.0, 0.1, 0.0, 0.1, 0.05, 0.8, 0.9, 0.85])
    >>> mixture = fitted_mixture(sample)
    >>> [round(mean, 2) for mean in mixture.means], round(mixture.weights[1], 2)
    ([0.05, 0.85], 0.38)
    """
    from sklearn import config_context  # costs a second to import
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if start is None or min(start.weights) < 0.01:  # a starved component never comes back
        means, weights, variances = _quartile_start(sample)
        max_iter = 1000
    else:
        means, weights, variances = start.means, start.weights, start.variances
        max_iter = 100
    mixture = GaussianMixture(
        n_components=2,
        max_iter=max_iter,
        tol=1e-6,  # slow progress is no standstill: at 1e-4, σ̂ of overlapping modes is off by .3
        reg_covar=5e-4,  # DivideMix, the paper's [29]
        means_init=np.array(means)[:, None],
        weights_init=np.array(weights) / sum(weights),
        precisions_init=1.0 / np.array(variances)[:, None, None],
        random_state=0,  # never the global stream
    )
    # losses were checked when they were seen: scikit-learn need not
    with warnings.catch_warnings(), config_context(assume_finite=True):
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported as `converged`
        mixture.fit(sample[:, None])
    order = np.argsort(mixture.means_[:, 0])
    return NoiseRate(
        value=np.nan,
        means=_two(mixture.means_[order, 0]),
        variances=_two(mixture.covariances_[order, 0, 0]),
        weights=_two(mixture.weights_[order]),
        converged=bool(mixture.converged_),
        n_fitted=len(sample),
        histogram=tuple(np.histogram(sample, BINS, (0.0, 1.0))[0].tolist()),
    )


def noise_posterior(scaled: np.ndarray, mixture: NoiseRate) -> np.ndarray:
    """p(noisy | x) = π_n N(x; μ_n, v_n) / Σ_c π_c N(x; μ_c, v_c) of losses scaled to [0, 1].

    The noise rate is its mean over all losses: σ̂ = (1/N) Σ_k p(noisy | x_k)   (Eq. 4).

    Args:
        scaled: (N,), as :func:`scaled_losses` gives them; NaN stays NaN.
        mixture: as :func:`fitted_mixture` gave it.

    Returns:
        (N,) float64 in [0, 1].

    Source: Eq. 4.

    >>> mixture = NoiseRate(np.nan, (0.2, 0.8), (0.01, 0.01), (0.5, 0.5), True, 2)
    >>> noise_posterior(np.array([0.2, 0.5, 0.8]), mixture).round(3).tolist()
    [0.0, 0.5, 1.0]
    """
    clean, noisy = (
        np.log(weight) - (np.log(variance) + (scaled - mean) ** 2 / variance) / 2
        for mean, variance, weight in zip(
            mixture.means, mixture.variances, mixture.weights, strict=True
        )
    )
    with np.errstate(invalid="ignore"):  # NaN among them is no surprise
        posterior: np.ndarray = np.exp(noisy - np.logaddexp(clean, noisy))
    return posterior


def _quartile_start(sample: np.ndarray) -> tuple[_Two, _Two, _Two]:
    """Where EM starts: quartile means, equal weights, the pooled spread. No k-means, no chance."""
    low, high = np.quantile(sample, [0.25, 0.75])
    if high - low < 1e-3:
        low, high = 0.0, 1.0  # the ends of scaled losses
    spread = max(float(sample.var()), 1e-3)
    return (float(low), float(high)), (0.5, 0.5), (spread, spread)


def _two(values: np.ndarray) -> _Two:
    return float(values[0]), float(values[1])
