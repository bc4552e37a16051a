"""Puts noise into clean data whose place is known: random pairs that nobody observed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bench.data.interaction_data import Flags, Ids, InteractionData


def clean_part(data: InteractionData) -> InteractionData:
    """The data without what is flagged as noise in train and valid; test stays as it is.

    Splits without flags stay as they are too, if train has some.

    Raises:
        ValueError: the train interactions have no flags.
    """
    if data.train_clean is None:
        raise ValueError(
            f"Expected train interactions with clean flags, got {data.name} without. "
            "Give train.tsv a third column, or use the data as it is."
        )
    train, valid = data.train_clean, data.valid_clean
    if valid is None:
        valid = np.ones(len(data.valid_users), dtype=np.bool_)
    return replace(
        data,
        name=f"{data.name}, clean part",
        train_users=data.train_users[train],
        train_items=data.train_items[train],
        train_clean=data.train_clean[train],
        valid_users=data.valid_users[valid],
        valid_items=data.valid_items[valid],
        valid_clean=None if data.valid_clean is None else data.valid_clean[valid],
    )


def inject_noise(
    data: InteractionData, *, rate: float, seed: int, popularity_biased: bool = False
) -> InteractionData:
    """The clean part of data, with random unobserved pairs added to train and to valid.

    Each of the two splits gets round(rate * its number of clean interactions) noisy pairs, so of
    the result rate / (1 + rate) is noise: 20 % of the clean count make 16.7 % of all. What the
    data itself flags as noise is taken out first, so that all noise there is was put there.
    The paper injects none; its data sets have natural noise alone (Sec. 4.1.1).

    A noisy pair is a user and an item that occur in the data and were never observed together:
    not in train, valid or test, and not among the flagged pairs that were taken out, which the
    user did see. No pair is added twice. Uniform over those pairs; with popularity_biased an
    item comes with probability proportional to its number of clean train interactions.

    Args:
        rate: noisy pairs per clean interaction, at least 0.
        seed: decides the pairs; the same seed and data give the same.

    Raises:
        ValueError: no flags, a negative rate, or more pairs than half of the unobserved ones.
    """
    if not rate >= 0:
        raise ValueError(f"Expected a rate of at least 0, got {rate}. Choose one such as 0.2.")
    clean = clean_part(data)
    generator = np.random.default_rng(seed)
    observed = np.unique(
        np.concatenate([data.train_users, data.valid_users, data.test_users]) * data.n_items
        + np.concatenate([data.train_items, data.valid_items, data.test_items])
    )
    users, items = np.unique(observed // data.n_items), np.unique(observed % data.n_items)
    counts = [round(rate * len(part)) for part in (clean.train_users, clean.valid_users)]
    if sum(counts) > (len(users) * len(items) - len(observed)) / 2:
        raise ValueError(
            f"Expected at most half as many noisy pairs as are unobserved, "
            f"{(len(users) * len(items) - len(observed)) // 2}, got {sum(counts)}. Lower the rate."
        )
    if popularity_biased:
        popularity = np.cumsum(np.bincount(clean.train_items, minlength=data.n_items)[items])

        def draw_items(count: int) -> Ids:
            places = generator.random(count) * popularity[-1]
            drawn: Ids = items[np.searchsorted(popularity, places, side="right")]
            return drawn
    else:

        def draw_items(count: int) -> Ids:
            return generator.choice(items, count)

    def draw_pairs(count: int) -> Ids:
        return generator.choice(users, count) * data.n_items + draw_items(count)

    noise = _draw_new(draw_pairs, observed, sum(counts))
    train = _with_noise(generator, clean.train_users, clean.train_items, noise[: counts[0]], data)
    valid = _with_noise(generator, clean.valid_users, clean.valid_items, noise[counts[0] :], data)
    bias = ", popularity-biased" if popularity_biased else ""
    return replace(
        clean,
        name=f"{data.name}, {rate:.0%} injected{bias}",
        train_users=train[0],
        train_items=train[1],
        train_clean=train[2],
        valid_users=valid[0],
        valid_items=valid[1],
        valid_clean=valid[2],
    )


def _draw_new(draw_pairs: Callable[[int], Ids], observed: Ids, count: int) -> Ids:
    # In the order drawn: the first `count` that are new.
    drawn = np.empty(0, dtype=np.int64)
    while len(drawn) < count:
        more = draw_pairs(2 * (count - len(drawn)))
        drawn = np.concatenate([drawn, more[~np.isin(more, observed)]])
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
    return drawn[:count]


def _with_noise(
    generator: np.random.Generator, users: Ids, items: Ids, noise: Ids, data: InteractionData
) -> tuple[Ids, Ids, Flags]:
    order = generator.permutation(len(users) + len(noise))
    return (
        np.concatenate([users, noise // data.n_items])[order],
        np.concatenate([items, noise % data.n_items])[order],
        (np.arange(len(order)) < len(users))[order],
    )
