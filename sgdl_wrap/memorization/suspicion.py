"""How much each interaction looks like noise, by its losses over the epochs."""

from __future__ import annotations

import numpy as np

from sgdl_wrap.interactions import Interactions, places_among
from sgdl_wrap.memorization.noise_rate import scale_per_user

CHUNK = 1 << 16  # interactions looked at at once, so that they stay in the cache


def suspicion(losses: np.ndarray, interactions: Interactions) -> np.ndarray:
    """x = (a + b + c) / 3 of one epoch's losses L, each part in [0, 1].

    a = (L_k - min_u) / (max_u - min_u) over the losses of the user u, as the mixture sees them;
    b = the share of u's other interactions whose loss is smaller;
    c = the share of all other interactions whose loss is smaller.

    b is what a is without the pull of one extreme loss, and c also sees users who are noisy as a
    whole. A user whose losses are all equal, as a single one is, has a = b = 0. Losses of
    0, 2, 8 and of one user have a = 0, 1/4, 1 and b = 0, 1/2, 1.

    Args:
        losses: (N,); NaN where unknown, which stays NaN.
        interactions: D.

    Returns:
        (N,) float64.

    Source: ours (deviation 20).
    """
    everywhere = np.sort(losses)  # NaN last
    everywhere = everywhere[: everywhere.searchsorted(np.nan)]
    found = np.full(len(losses), np.nan)
    starts = interactions.starts.numpy()
    for first, last in interactions.user_spans(CHUNK):
        ids = slice(starts[first], starts[last])
        known = ~np.isnan(losses[ids])
        if not known.any():
            continue
        seen = losses[ids][known]
        users = np.repeat(np.arange(last - first), np.diff(starts[first : last + 1]))[known]
        smaller = places_among(everywhere, seen)
        parts = scale_per_user(seen, users)
        parts += share_smaller(smaller, users)  # of the same order and ties as the losses
        parts += smaller / max(len(everywhere) - 1, 1)
        found[ids][known] = parts / 3
    return found


def share_smaller(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """#{j in the group of k: x_j < x_k} / (n - 1), n the group's size; 0 where it is 1.

    Args:
        values: x, (N,) integers >= 0, N > 0.
        groups: (N,) int64 >= 0, sorted.

    Returns:
        (N,) float64 in [0, 1].
    """
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
    sizes = np.diff(starts, append=len(values))
    keys = groups * (values.max() + 1) + values
    smaller = np.sort(keys).searchsorted(keys) - np.repeat(starts, sizes)
    shares: np.ndarray = smaller / np.repeat(np.maximum(sizes - 1, 1), sizes)
    return shares


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
