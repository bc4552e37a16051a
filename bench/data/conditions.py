"""The conditions of the bench: what noise the data of a run holds.

The clean rows of a user keep their order, which is its sequence in time; noise rows come at
random places among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bench.data.interaction_data import Flags, Ids, InteractionData
from bench.study.noise_injection import clean_part

INJECTED = {
    f"{kind}-{percent}": (percent / 100, kind == "popular")
    for kind in ("random", "popular")
    for percent in (10, 20, 40)
}
NOISY_USERS = "noisy-users"
NAMES = ("natural", "clean", *INJECTED, NOISY_USERS)
_NOISY_USER_SHARE = 0.1


def under(condition: str, data: InteractionData, seed: int) -> InteractionData:
    """The data under a condition, one of NAMES.

    - "natural": as it is.
    - "clean": without what is flagged as noise in train and valid.
    - "random-10", "random-20", "random-40": the clean part and unobserved pairs, 10, 20 or 40 % of
      the clean count of train in train and of valid in valid; user and item uniform over those
      that occur.
    - "popular-10", "popular-20", "popular-40": the same with items drawn in proportion to their
      number of clean train interactions.
    - "noisy-users": the clean part; a tenth of the users gets as many unobserved items, uniform,
      as it has clean ones in train and in valid, but at most half of its unobserved items.

    An unobserved pair is in no split and not among the flagged ones that were taken out. No pair
    is added twice, test is never changed.

    Args:
        seed: decides the noise; the same seed and data give the same.

    Raises:
        ValueError: an unknown condition, no flags where they are needed, or more pairs to add
            than half of the unobserved ones.
    """
    if condition not in NAMES:
        raise ValueError(
            f"Expected one of {', '.join(NAMES)}, got {condition!r}. Choose one of these."
        )
    if condition == "natural":
        return data
    clean = clean_only(data)
    if condition == "clean":
        return replace(clean, name=f"{data.name}, clean")
    generator = np.random.default_rng(seed)
    if condition == NOISY_USERS:
        noise = _of_noisy_users(generator, data, clean)
    else:
        rate, popular = INJECTED[condition]
        noise = _pairs(generator, data, clean, rate, popular)
    mixed = {
        split: _mixed(
            generator, getattr(clean, f"{split}_users"), getattr(clean, f"{split}_items"), *added
        )
        for split, added in zip(("train", "valid"), noise, strict=True)
    }
    test = (data.test_users, data.test_items, data.test_clean)
    return InteractionData.of(
        f"{data.name}, {condition}", data.n_users, data.n_items, mixed | {"test": test}
    )


def clean_only(data: InteractionData) -> InteractionData:
    """The data without its flagged noise in train and valid; the order of rows is kept.

    What a model reaches that is trained on it is the best a denoiser can hope for. Evaluate it
    with the same `Evaluation` as the others, made from the noisy data: fewer masked items would
    make its ranking harder.

    Raises:
        ValueError: the train interactions have no flags.
    """
    return clean_part(data)


Pairs = tuple[Ids, Ids]


def _pairs(
    generator: np.random.Generator,
    data: InteractionData,
    clean: InteractionData,
    rate: float,
    popular: bool,
) -> tuple[Pairs, Pairs]:
    observed = _observed(data)
    users, items = np.unique(observed // data.n_items), np.unique(observed % data.n_items)
    counts = [round(rate * len(part)) for part in (clean.train_users, clean.valid_users)]
    most = (len(users) * len(items) - len(observed)) // 2
    if sum(counts) > most:
        raise ValueError(
            f"Expected at most half as many noisy pairs as are unobserved, {most}, got "
            f"{sum(counts)}. Choose a condition with less noise."
        )
    popularity = np.cumsum(np.bincount(clean.train_items, minlength=data.n_items)[items])

    def draw(count: int) -> Ids:
        if popular:
            places = generator.integers(popularity[-1], size=count)
            drawn = items[np.searchsorted(popularity, places, side="right")]
        else:
            drawn = items[generator.integers(len(items), size=count)]
        keys: Ids = users[generator.integers(len(users), size=count)] * data.n_items + drawn
        return keys

    noise = _draw_new(draw, observed, sum(counts))
    pairs = noise // data.n_items, noise % data.n_items
    return (
        (pairs[0][: counts[0]], pairs[1][: counts[0]]),
        (pairs[0][counts[0] :], pairs[1][counts[0] :]),
    )


def _of_noisy_users(
    generator: np.random.Generator, data: InteractionData, clean: InteractionData
) -> tuple[Pairs, Pairs]:
    observed = _observed(data)
    users, items = np.unique(observed // data.n_items), np.unique(observed % data.n_items)
    noisy = generator.choice(users, max(1, round(_NOISY_USER_SHARE * len(users))), replace=False)
    n_train, n_valid = (
        np.bincount(part, minlength=data.n_users)[noisy]
        for part in (clean.train_users, clean.valid_users)
    )
    starts = np.searchsorted(observed, noisy * data.n_items)
    stops = np.searchsorted(observed, (noisy + 1) * data.n_items)
    # A user who has clicked nearly everything would have nothing left to rank.
    total = np.minimum(n_train + n_valid, (len(items) - (stops - starts)) // 2)
    n_train = total * n_train // np.maximum(n_train + n_valid, 1)
    drawn = []
    for user, start, stop, count in zip(noisy, starts, stops, total, strict=True):
        # with as many more as are observed, enough unobserved ones are among them
        some = items[generator.choice(len(items), count + stop - start, replace=False)]
        seen = observed[start:stop] - user * data.n_items
        new = seen[np.searchsorted(seen, some).clip(max=len(seen) - 1)] != some
        drawn.append(some[new][:count])
    added_users, added_items = np.repeat(noisy, total), np.concatenate(drawn)
    place = np.arange(len(added_users)) - np.repeat(np.cumsum(total) - total, total)
    train = place < np.repeat(n_train, total)
    return (added_users[train], added_items[train]), (added_users[~train], added_items[~train])


def _observed(data: InteractionData) -> Ids:
    # Keys of all observed pairs, sorted, each once.
    return np.unique(
        np.concatenate([data.train_users, data.valid_users, data.test_users]) * data.n_items
        + np.concatenate([data.train_items, data.valid_items, data.test_items])
    )


def _draw_new(draw: Callable[[int], Ids], observed: Ids, count: int) -> Ids:
    # In the order drawn: the first `count` that are new.
    drawn = np.empty(0, dtype=np.int64)
    while len(drawn) < count:
        more = draw(2 * (count - len(drawn)))
        places = np.searchsorted(observed, more).clip(max=len(observed) - 1)
        drawn = np.concatenate([drawn, more[observed[places] != more]])
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
    return drawn[:count]


def _mixed(
    generator: np.random.Generator, users: Ids, items: Ids, noise_users: Ids, noise_items: Ids
) -> tuple[Ids, Ids, Flags]:
    """Users, items and flags with each noise row at a random place among its user's rows.

    A user with c clean rows has c + 1 places: before each of them and after the last; all are as
    likely. One key for the whole split would not do: where the rows are sorted by user, nearly
    every noise row would fall before or after all of its user's.
    """
    by_user = users.argsort(kind="stable")
    counts = np.bincount(users, minlength=int(noise_users.max(initial=-1)) + 1)
    first, count = (np.cumsum(counts) - counts)[noise_users], counts[noise_users]
    place = generator.integers(count + 1)
    keys = generator.random(len(noise_users)) * len(users)  # stays for users without a row
    among = count > 0
    after = among & (place == count)
    keys[among] = by_user[(first + place - after)[among]] - 0.5
    keys[after] += 1
    order = np.concatenate([np.arange(len(users)), keys]).argsort(kind="stable")
    return (
        np.concatenate([users, noise_users])[order],
        np.concatenate([items, noise_items])[order],
        (np.arange(len(order)) < len(users))[order],
    )
