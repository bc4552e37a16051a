"""The mixture over strangeness: against known mixtures, and its promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from sgdl_wrap.equations.suspicion import (
    BINS,
    FIFTHS,
    chance_densities,
    evened,
    fitted,
    fitted_share,
    histograms,
    looked_up,
    popularity_fifths,
    share_interval,
    sure_share,
)


def drawn(share: float, mean: float, spread: float, n: int = 60_000, seed: int = 0) -> np.ndarray:
    """Strangeness of n pairs, a share of them by chance; the noise comes first."""
    rng = np.random.default_rng(seed)
    noisy = round(share * n)
    z = np.concatenate([rng.normal(size=noisy), rng.normal(mean, spread, size=n - noisy)])
    return norm.sf(z)


def counted(d: np.ndarray) -> np.ndarray:
    return histograms(d, np.zeros(len(d), dtype=np.uint8))[0]


def test_densities_are_those_of_two_normals_and_fall() -> None:
    found = chance_densities(1.0, 1.0)
    z = norm.isf((np.arange(BINS) + 0.5) / BINS)
    expected = norm.pdf(z, 1.0) / norm.pdf(z)
    np.testing.assert_allclose(found, expected * BINS / expected.sum(), rtol=1e-9)
    for spread in (0.3, 0.8, 1.5):  # a narrow component would fall again beside its mean
        assert (np.diff(chance_densities(1.0, spread)) <= 1e-12).all()
        assert chance_densities(1.0, spread).mean() == pytest.approx(1)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.4])
def test_the_share_of_chance_is_found_where_it_can_be_told_apart(share: float) -> None:
    found, mean, _ = fitted_share(counted(drawn(share, 2.0, 0.8)))
    # never less; somewhat more, as the density of preferences is not let fall twice
    assert share - 0.01 < found < share + 0.06
    assert mean == pytest.approx(2.0, abs=0.1)


def test_what_is_sure_grows_with_the_noise_and_is_nothing_without() -> None:
    sure = []
    for share in (0.0, 0.2, 0.4):
        histogram = counted(drawn(share, 0.9, 0.85))
        start, mean, spread = fitted_share(histogram)
        sure.append(sure_share(histogram, chance_densities(mean, spread), start)[1])
    assert sure[0] == 0
    assert 0.05 < sure[1] < 0.25
    assert 0.2 < sure[2] < 0.45


def test_a_model_that_has_learned_nothing_is_sure_of_nothing() -> None:
    table, share = fitted(histograms(drawn(1.0, 1, 1), np.zeros(60_000, dtype=np.uint8)))
    assert share.value == 0
    assert share.confidence == (0.0,) * FIFTHS
    assert table.shape == (FIFTHS, BINS)


def test_few_interactions_are_sure_of_less() -> None:
    density = chance_densities(0.9, 0.85)
    many = counted(drawn(0.3, 0.9, 0.85))
    few = many * (300 / many.sum())
    assert sure_share(few, density, 0.3)[1] < sure_share(many, density, 0.3)[1] - 0.05


def test_suspicion_is_bayes_rule_of_the_fifth() -> None:
    d = np.concatenate([drawn(0.5, 1.5, 0.8, 30_000), drawn(0.05, 1.5, 0.8, 30_000, 1)])
    fifths = np.repeat([0, 4], 30_000).astype(np.uint8)
    table, _ = fitted(histograms(d, fifths))
    q = looked_up(table, d, fifths)
    assert q[:30_000].mean() == pytest.approx(0.5, abs=0.05)
    assert q[30_000:].mean() == pytest.approx(0.05, abs=0.05)
    pi, mean, spread = fitted_share(histograms(d, fifths)[0])
    density = chance_densities(mean, spread)
    place = int(d[7] * BINS)
    assert q[7] == pytest.approx(pi / (pi + (1 - pi) * density[place]), abs=0.01)
    noise = q[:15_000]  # of the first fifth
    assert noise.mean() > 1.5 * q[15_000:30_000].mean()


def test_preferences_of_a_less_popular_fifth_are_no_nearer_to_chance() -> None:
    """Each fifth has its own preferences; where nearly all is noise, those of the one above."""
    parts = [drawn(0.9, 1.2, 0.8, 30_000), drawn(0.1, 0.9, 0.8, 30_000, 1)]
    fifths = np.repeat([0, 4], 30_000).astype(np.uint8)
    counts = histograms(np.concatenate(parts), fifths)
    counts[0] = counts[0][::-1]  # what is left of its preferences looks worse than chance
    assert fitted_share(counts[0])[1] < fitted_share(counts[4])[1]
    table, _ = fitted(counts)
    _, mean, spread = fitted_share(counts[4])
    density = chance_densities(mean, spread)
    share, _ = sure_share(counts[0], density, 0.5)
    assert table[0] == pytest.approx(share / (share + (1 - share) * density), abs=1e-3)
    assert mean == pytest.approx(0.9, abs=0.1)
    assert share == pytest.approx(1, abs=0.05)


def means_of(noise: list[float], sizes: list[float]) -> tuple[np.ndarray, float]:
    """Mean belief of each fifth after evening, and the mean of 1 - p before."""
    kept = 1 - np.array(noise)
    found = kept * evened(np.array(sizes), np.array(noise))
    return found, float(np.average(kept, weights=sizes))


def test_fifths_whose_shares_differ_little_have_the_same_mean() -> None:
    found, mean = means_of([0.3, 0.25, 0.25, 0.2, 0.15], [10, 10, 20, 10, 10])
    assert found == pytest.approx([mean] * 5)


def test_weights_move_along_popularity_as_far_as_it_is_sure() -> None:
    """Less half the width of the interval, on either side."""
    noise = [0.7, 0.3, 0.1, 0.0, 0.0]
    found, mean = means_of(noise, [10] * 5)
    assert mean == pytest.approx(0.78)
    assert found == pytest.approx([0.3 + 0.125, 0.78, 0.78, 1 - 0.125, 1 - 0.125])
    low, high = share_interval(0.5)
    assert (high - low) / 2 == pytest.approx(0.125)


def test_where_nothing_is_noise_nothing_is_evened() -> None:
    assert (evened(np.array([5.0, 5, 5, 0, 5]), np.zeros(5)) == 1).all()
    odd = evened(np.array([5.0, 0, 5, 5, 5]), np.array([1.0, 0, 0, 0, 0]))
    assert np.isfinite(odd).all()


def test_unknown_strangeness_is_not_counted_and_stays_unknown() -> None:
    d = np.array([0.1, np.nan, 0.9])
    fifths = np.array([0, 1, 2], dtype=np.uint8)
    assert histograms(d, fifths).sum() == 2
    found = looked_up(np.full((FIFTHS, BINS), 0.25), d, fifths)
    assert np.isnan(found).tolist() == [False, True, False]


def test_no_known_interaction_is_no_noise() -> None:
    table, share = fitted(np.zeros((FIFTHS, BINS)))
    assert np.isfinite(table).all()
    assert (share.value, share.chance) == (0.0, 0.0)


def test_ends_of_strangeness_have_bins() -> None:
    assert histograms(np.array([0.0, 1.0]), np.array([0, 0], dtype=np.uint8))[0, [0, -1]].sum() == 2


def test_fifths_have_about_as_many_interactions_each() -> None:
    rng = np.random.default_rng(0)
    counts = rng.lognormal(3, 1, size=3000).astype(int) + 1
    fifths = popularity_fifths(counts)
    sizes = np.bincount(fifths, weights=counts, minlength=FIFTHS)
    assert (np.abs(sizes / counts.sum() - 0.2) < 0.06).all()
    order = np.argsort(counts, kind="stable")
    assert (np.diff(fifths[order].astype(int)) >= 0).all()
    for count in np.unique(counts):  # items of one count are together
        assert len(np.unique(fifths[counts == count])) == 1
    assert popularity_fifths(np.array([3, 3, 3])).max() < FIFTHS


def test_the_interval_stays_within_its_ends() -> None:
    assert share_interval(0.0) == (0.0, 0.15)
    low, high = share_interval(0.4)
    assert (low, high) == (pytest.approx(0.3), pytest.approx(0.55))
    assert share_interval(1.0)[1] == 1.0
    assert high - low <= 0.25 + 1e-9
