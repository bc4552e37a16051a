"""The noise rate of an epoch's losses, over all ranks (Eq. 4 in `equations/noise_rate.py`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from sgdl_wrap.equations.noise_rate import (
    NoiseRate,
    evenly_by_size,
    fitted_mixture,
    noise_posterior,
    scale_between,
    scale_per_user,
)
from sgdl_wrap.errors import NoiseRateError
from sgdl_wrap.ranks.ranks import ALONE, Ranks

CHUNK = 1 << 14  # losses whose posterior is taken at once


def estimate_noise_rate(
    losses: np.ndarray,
    users: np.ndarray,
    *,
    normalization: Literal["user", "global"],
    max_fitted: int,
    start: NoiseRate | None = None,
    ranks: Ranks = ALONE,
) -> NoiseRate:
    """σ̂ = E_k[p(noisy component | L_k)], the component with the larger mean (Eq. 4).

    Args:
        losses: this epoch's per-sample losses, (N,); NaN marks interactions not seen.
        users: user of each, (N,) int64, sorted.
        normalization: min-max scaling per user, or over all.
        max_fitted: the mixture is fitted on at most so many losses, evenly spaced by rank.
        start: the mixture of the epoch before, from which EM goes on.
        ranks: each has the losses of its own users; the estimate is over all, and the same on all.
            Each gives its part of the losses that are fitted, evenly spaced among its own
            (deviation 17).

    Raises:
        NoiseRateError: fewer than two losses, or all equal after scaling.

    Source: Sec. 3.1.2, Eq. 4; fitted with scikit-learn's EM.
    """
    seen = ~np.isnan(losses)
    if not seen.all():
        losses, users = losses[seen], users[seen]
    count, low, high = ranks.extent(losses)
    if count < 2:
        raise NoiseRateError(
            f"Expected at least two losses to estimate a noise rate, got {count}. "
            "Train on more interactions, or set noise_rate in the config."
        )
    if low == high:
        raise NoiseRateError(
            f"Expected losses that differ, got all {count} equal to {low:.6g}. "
            "Check that loss_fn returns unreduced losses and that the model trains, "
            "or set noise_rate in the config."
        )
    if normalization == "user":
        scaled = scale_per_user(losses, users)
    else:
        scaled = scale_between(losses, low, high)
    if ranks.extent(scaled)[2] == 0:
        raise NoiseRateError(
            "Expected users with two or more different losses, got none: per-user scaling maps "
            "all to 0. Set Variants(loss_normalization='global'), or noise_rate."
        )
    sample = scaled
    if count > max_fitted:
        sample = evenly_by_size(scaled, max_fitted * len(scaled) // count)
    sample = ranks.gather(torch.from_numpy(sample)).rows.numpy()
    fitted = fitted_mixture(sample, start)
    # a piece that fits the cache at a time; scikit-learn takes ten times as long for the same
    total = sum(
        float(noise_posterior(scaled[first : first + CHUNK], fitted).sum())
        for first in range(0, len(scaled), CHUNK)
    )
    return replace(fitted, value=min(max(ranks.sums(total)[0] / count, 0.0), 1.0))
