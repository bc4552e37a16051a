"""How much of the data is like pairs that nobody chose, and which interactions are.

Strangeness d (`watching/strangeness.py`) is uniform for pairs that nobody chose, whatever their
popularity. So its distribution tells how many of them there are, as far as they differ from
preferences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BINS = 128  # of strangeness
FIFTHS = 5  # parts of equal popularity
ALLOWANCE = 0.07  # of the share, at an overlap of 1/2: what may be preferences nobody else has
BELOW, ABOVE = 0.10, 0.15  # how far the interval reaches from its middle
STEPS = 100  # of EM, at most
PAST = 0.7  # share of the epochs before in averages of strangeness and suspicion
TINY = 1e-300  # keeps 0 / 0 away
LEAST_MEAN, LEAST_SPREAD = 0.1, 0.1  # of the preferences' component, in standard deviations


@dataclass(frozen=True)
class NoiseShare:
    """What one epoch's strangeness says of the noise in the data.

    Attributes:
        value: the share of noise that is sure, in [0, 1].
        chance: π, the share that is like pairs nobody chose, unusual preferences included.
        confidence: π° / π of each fifth of the interactions by popularity, least popular first:
            how much of the share that is like chance is sure to be noise.
    """

    value: float
    chance: float
    confidence: tuple[float, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """Where the share of noise lies; see :func:`share_interval`."""
        return share_interval(self.value)


def share_ahead(ahead: Tensor, strangers: Tensor) -> Tensor:
    """d = (#{s: p_s T > p_u T} + 1/2) / (S + 1): strangeness, in (0, 1).

    p_u is the profile of the interaction's user, p_s that of a stranger, a user without the item,
    and T the sum of the profiles of the item's other users. For a pair that nobody chose, the user
    is a stranger as well: all S + 1 ranks are as likely, and d is uniform. For a preference it is
    near 0.

    Args:
        ahead: how many strangers are more like the item's users than the user is, (N,).
        strangers: S, (N,).

    Returns:
        (N,) float32.

    Source: ours (deviation 23).

    >>> share_ahead(torch.tensor([0, 4]), torch.tensor([4, 4])).tolist()
    [0.10000000149011612, 0.8999999761581421]
    """
    return (ahead + 0.5) / (strangers + 1)


def share_interval(value: float) -> tuple[float, float]:
    """[value - 0.1, value + 0.15], cut to [0, 1].

    The width is the error that was measured where noise was injected (docs/noise_share.md); it is
    no standard error, which would be far smaller: what limits the estimate is not the number of
    interactions, but that some preferences look like noise.

    Args:
        value: the share of noise that is sure, in [0, 1].

    Source: ours (deviation 23).

    >>> share_interval(0.25), share_interval(0.05)
    ((0.15, 0.4), (0.0, 0.2))
    """
    return max(0.0, value - BELOW), min(1.0, value + ABOVE)


def popularity_fifths(counts: np.ndarray) -> np.ndarray:
    """The fifth of the interactions, 0 to 4, least popular first, that each item's belong to.

    Items of one count are in one fifth, so that fifths may differ in size.

    Args:
        counts: users of each item, (n_items,).

    Returns:
        (n_items,) uint8.

    Source: ours (deviation 23).

    >>> popularity_fifths(np.array([1, 2, 3, 4, 5])).tolist()
    [0, 0, 1, 2, 3]
    """
    items_with = np.bincount(counts)
    interactions = (np.arange(len(items_with)) * items_with).cumsum()
    wanted = interactions[-1] * np.arange(1, FIFTHS) / FIFTHS
    edges = interactions.searchsorted(wanted)
    found: np.ndarray = edges.searchsorted(counts).astype(np.uint8)
    return found


def chance_densities(mean: float, spread: float) -> np.ndarray:
    """f_1(d) of preferences in bins of d, of which chance has 1 each, (BINS,).

    z = Φ^-1(1 - d) is standard normal by chance and N(μ, s) for preferences, so that
    f_1(d) = N(z; μ, s) / N(z; 0, 1), which is kept from rising with d.

    Args:
        mean: μ.
        spread: s > 0.

    Source: ours (deviation 23).

    >>> density = chance_densities(1.0, 1.0)
    >>> round(float(density.mean()), 3), bool(density[0] > 1 > density[-1])
    (1.0, True)
    """
    z = _normal_scores()
    log_ratio = (z**2 - ((z - mean) / spread) ** 2) / 2
    found = np.exp(np.minimum.accumulate(log_ratio - log_ratio.max()))
    density: np.ndarray = found * (BINS / found.sum())
    return density


def fitted_share(histogram: np.ndarray) -> tuple[float, float, float]:
    """π, μ, s of f(d) = π + (1 - π) f_1(d).

    As EM, but for two things: f_1 falls with d (:func:`chance_densities`), and a bin counts as its
    middle. Both take a little off the preferences, so that π is up to 0.1 too high. The likelihood
    itself is of no use here: where it is largest, π falls from 0.4 to 0 as s passes 1.

    Args:
        histogram: interactions in each bin of d, (BINS,).

    Source: ours (deviation 23).

    >>> share, mean, spread = fitted_share(100 * (0.4 + 0.6 * chance_densities(1.5, 1.0)))
    >>> round(share, 1), round(mean, 1), round(spread, 1)
    (0.5, 1.6, 0.7)
    """
    total, z = histogram.sum(), _normal_scores()
    if total == 0:  # nothing is known of any interaction
        return 0.0, LEAST_MEAN, 1.0
    share, mean = 0.3, 1.0
    spread = 1.0
    for _ in range(STEPS):
        density = chance_densities(mean, spread)
        preference = (1 - share) * density
        preference /= np.maximum(preference + share, TINY)
        weight = histogram * preference
        kept = weight.sum()
        if kept < 1e-9 * total:
            return 1.0, LEAST_MEAN, 1.0
        before, share = share, 1.0 - kept / total
        mean = max(float((weight * z).sum() / kept), LEAST_MEAN)
        spread = max(float(np.sqrt((weight * (z - mean) ** 2).sum() / kept)), LEAST_SPREAD)
        if abs(share - before) < 1e-5:
            break
    return float(share), mean, spread


def sure_share(histogram: np.ndarray, density: np.ndarray, start: float) -> tuple[float, float]:
    """π of some interactions, and what of it is sure to be noise.

    The sure part is max(0, π - 0.07 o / (1 - o) - 2 e): o is the overlap Σ min(1, f_1) / BINS, and
    e the standard error of π, (n mean_f[(1 - f_1)² / f²])^-1/2.

    Args:
        histogram: interactions in each bin of d, (BINS,).
        density: f_1, (BINS,).
        start: where EM begins.

    Returns:
        π, and the sure share.

    Source: ours (deviation 23).

    >>> density = chance_densities(1.5, 1.0)
    >>> share, sure = sure_share(100 * (0.4 + 0.6 * density), density, 0.3)
    >>> round(share, 2), round(sure, 2)
    (0.4, 0.33)
    """
    total = histogram.sum()
    if total == 0:
        return 0.0, 0.0
    share = start
    for _ in range(STEPS):
        before = share
        chance = share / np.maximum(share + (1 - share) * density, TINY)
        share = float((histogram * chance).sum() / total)
        if abs(share - before) < 1e-5:
            break
    mixed = np.maximum(share + (1 - share) * density, TINY)
    information = float((histogram * ((1 - density) / mixed) ** 2).sum())
    error = information**-0.5 if information > 0 else np.inf
    overlap = _overlap(density)
    allowance = ALLOWANCE * overlap / max(1 - overlap, 1e-9)
    return share, max(0.0, share - allowance - 2 * error)


def histograms(strangeness: np.ndarray, fifths: np.ndarray) -> np.ndarray:
    """Interactions in each bin of d in each fifth of popularity, (5, BINS) float64.

    Args:
        strangeness: d, (N,) in [0, 1]; NaN, which is not counted, where unknown.
        fifths: of the interactions by popularity, 0 to 4, (N,).

    Source: ours (deviation 23).

    >>> counts = histograms(np.array([0.0, 0.004, np.nan, 1.0]), np.array([0, 0, 0, 4]))
    >>> counts.sum(axis=1).tolist(), counts[0, :2].tolist()
    ([2.0, 0.0, 0.0, 0.0, 1.0], [2.0, 0.0])
    """
    known = ~np.isnan(strangeness)
    places = _places(strangeness[known], fifths[known])
    counts = np.bincount(places, minlength=FIFTHS * BINS)
    return counts.reshape(FIFTHS, BINS).astype(np.float64)


def fitted(counts: np.ndarray) -> tuple[np.ndarray, NoiseShare]:
    """q = π / (π + (1 - π) f_1(d)): how likely an interaction is like those nobody chose.

    Bayes' rule with the π and f_1 of the interaction's own fifth of popularity. Users of all sorts
    have a popular item, so that its preferences lie nearer to chance. So μ does not fall from one
    fifth to the next less popular one; where it would, as most of that fifth is noise, f_1 is that
    of the more popular one. q times the fifth's confidence π° / π is the probability that the
    interaction is noise: where noise cannot be told from preferences that is 0, however strange
    some interactions are.

    Args:
        counts: as of :func:`histograms`, over all ranks; a mean of several epochs has less noise.

    Returns:
        q of each bin in each fifth, (5, BINS), and the summary.

    Source: ours (deviations 20 and 23), in the place of Eq. 4's mixture over losses.

    >>> table, share = fitted(np.tile(100 * (0.4 + 0.6 * chance_densities(1.5, 1.0)), (5, 1)))
    >>> table.shape, bool(table[0, 0] < 0.1), bool(table[0, -1] > 0.9), round(share.value, 1)
    ((5, 128), True, True, 0.4)
    """
    table, confidence = np.zeros((FIFTHS, BINS)), np.zeros(FIFTHS)
    shares, sure = np.zeros(FIFTHS), np.zeros(FIFTHS)
    mean, spread = 0.0, 1.0
    for fifth in reversed(range(FIFTHS)):  # the most popular first
        start, own_mean, own_spread = fitted_share(counts[fifth])
        if own_mean >= mean:
            mean, spread = own_mean, own_spread
        density = chance_densities(mean, spread)
        share, sure[fifth] = sure_share(counts[fifth], density, start)
        table[fifth] = share / np.maximum(share + (1 - share) * density, TINY)
        confidence[fifth] = sure[fifth] / share if share > 0 else 0.0
        shares[fifth] = share
    sizes = counts.sum(axis=1) / max(float(counts.sum()), 1.0)
    value, chance = float(sure @ sizes), float(shares @ sizes)
    return table, NoiseShare(value, chance, tuple(confidence.tolist()))


def evened(sizes: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """t_f / m_f, by which 1 - p of each fifth of popularity is multiplied, (5,) > 0.

    m_f = 1 - the mean p of the fifth, m the mean of all. The share of noise in a fifth is known to
    half the width of the interval, 0.125, so that weights move from one fifth to another only as
    far as ::

        t_f = m + sign(m_f - m) max(0, |m_f - m| - 0.125)

    says. Where the fifths differ by less, all have the same mean weight: what is won is no
    popularity.

    Args:
        sizes: interactions of each fifth, (5,).
        noise: the mean p of each, (5,) in [0, 1].

    Source: ours (deviation 23).

    >>> evened(np.full(5, 20), np.array([0.6, 0.1, 0.1, 0.1, 0.1])).round(2).tolist()
    [1.31, 0.89, 0.89, 0.89, 0.89]
    """
    kept = np.maximum(1 - noise, TINY)
    mean = float((sizes @ kept) / max(sizes.sum(), 1))
    beyond = np.maximum(np.abs(kept - mean) - (BELOW + ABOVE) / 2, 0.0)
    found: np.ndarray = (mean + np.sign(kept - mean) * beyond) / kept
    return np.where((sizes > 0) & (noise < 1), found, 1.0)


def looked_up(table: np.ndarray, strangeness: np.ndarray, fifths: np.ndarray) -> np.ndarray:
    """q of interactions, their suspicion in one epoch, (N,) float32; NaN where d is.

    Args:
        table: as of :func:`fitted`, (5, BINS).
        strangeness: d, (N,).
        fifths: of the interactions by popularity, 0 to 4, (N,).

    Source: ours (deviations 20 and 23).

    >>> table = np.zeros((5, 128))
    >>> table[1, -1] = 0.5
    >>> looked_up(table, np.array([1.0, np.nan]), np.array([1, 1])).tolist()
    [0.5, nan]
    """
    found: np.ndarray = table.ravel()[_places(np.nan_to_num(strangeness), fifths)]
    return np.where(np.isnan(strangeness), np.nan, found).astype(np.float32)


def averaged(past: np.ndarray, now: np.ndarray) -> np.ndarray:
    """0.7 past + 0.3 now: suspicion over the epochs, (N,) float32.

    Where nothing was known before, what is known now; where nothing new is known, what was known.

    Args:
        past, now: suspicion, (N,); NaN where nothing is known.

    Source: ours (deviation 20).

    >>> averaged(np.array([1.0, np.nan, 0.2]), np.array([0.0, 0.5, np.nan])).round(3).tolist()
    [0.699999988079071, 0.5, 0.20000000298023224]
    """
    found = np.where(np.isnan(past), now, PAST * past + (1 - PAST) * now)
    return np.where(np.isnan(now), past, found).astype(np.float32)


def _places(strangeness: np.ndarray, fifths: np.ndarray) -> np.ndarray:
    bins = np.minimum((strangeness * BINS).astype(np.int64), BINS - 1)
    found: np.ndarray = fifths.astype(np.int64) * BINS + bins
    return found


def _overlap(density: np.ndarray) -> float:
    return float(np.minimum(density, 1).mean())


def _normal_scores() -> np.ndarray:
    """z of the middle of each bin, (BINS,): falls with d."""
    middles = torch.arange(0.5, BINS, dtype=torch.float64) / BINS
    z: np.ndarray = torch.special.ndtri(1 - middles).numpy()
    return z
