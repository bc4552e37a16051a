"""How much each interaction looks like noise, by its losses and its ranks over the epochs."""

from __future__ import annotations

import numpy as np

from sgdl_wrap.interactions import Interactions
from sgdl_wrap.memorization.noise_rate import scaled_losses

CHUNK = 1 << 16  # interactions looked at at once, so that they stay in the cache


def suspicion(
    losses: np.ndarray, interactions: Interactions, percentile: np.ndarray | None = None
) -> np.ndarray:
    """x = (a + d) / 2 of one epoch, each part in [0, 1]; without d, a.

    a = (L_k - min_u) / (max_u - min_u) over the losses of the user u;
    d = the share of u's unobserved candidates that the model ranks before the interaction.

    a is what training itself saw, d does not depend on the negatives that it happened to draw. A
    user whose losses are all equal, as a single one is, has a = 0.

    Args:
        losses: L, (N,); NaN where unknown, which stays NaN.
        interactions: D.
        percentile: d, (N,), as of :class:`~sgdl_wrap.memorization.ranking.RankedEpoch`.

    Returns:
        (N,) float64.

    Source: ours (deviation 20).
    """
    found = np.empty(len(losses))
    starts = interactions.starts.numpy()
    for first, last in interactions.user_spans(CHUNK):
        ids = slice(starts[first], starts[last])
        users = np.repeat(np.arange(first, last), np.diff(starts[first : last + 1]))
        found[ids] = scaled_losses(losses[ids], users, "user")
    if percentile is not None:
        found += percentile
        found /= 2
    return found


def mean_over_epochs(past: np.ndarray, now: np.ndarray, epochs: int) -> np.ndarray:
    """s + (x - s) / t: the mean over t epochs of what each of them shows.

    Args:
        past: s, the mean over the epochs before, (N,); NaN where nothing was seen in them.
        now: x, of this epoch, (N,); NaN where nothing was seen, which changes nothing.
        epochs: t, this epoch counted.
    """
    mean: np.ndarray = np.where(np.isnan(past), now, past + (now - past) / epochs)
    found: np.ndarray = np.where(np.isnan(now), past, mean)
    return found
