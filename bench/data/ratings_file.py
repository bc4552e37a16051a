"""Reads interactions from one file of ratings, as MovieLens, Amazon and many others publish.

Each line is ``user, item, rating`` and whatever follows, separated by commas, semicolons, tabs or
``::``; ids are any text, ratings are numbers. A header is optional: with one, the columns are
found by their names in any order, without one they are the first three.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.interaction_data import Ids, InteractionData
from bench.data.movielens import split_ratings

SEPARATORS = ("::", "\t", ";", ",")
COLUMN_NAMES = {
    "user": ("user", "userid", "user_id", "reviewerid"),
    "item": ("item", "itemid", "item_id", "movieid", "movie_id", "business_id", "asin"),
    "rating": ("rating", "ratings", "stars", "score", "overall"),
}

Ratings = NDArray[np.float64]


def read_ratings_file(
    path: str | Path,
    *,
    least_clean_rating: float = 3.0,
    least_interactions: int = 10,
    seed: int = 0,
) -> InteractionData:
    """Ratings as implicit interactions, split 8:1:1 per user, with a clean test set.

    A rating below least_clean_rating makes the interaction noisy. Users and items that are rarely
    seen are left out (`frequent`), the others numbered from 0. Noisy interactions are taken out
    of test and stay in train and valid.

    Args:
        path: the file; a pair given twice counts once, with its last rating.
        least_clean_rating: in the ratings' own units.
        least_interactions: of each user and of each item, 1 keeps all.
        seed: of the split.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not as described, or holds too little to be split.
    """
    file = Path(path)
    user_ids, item_ids, ratings = _last_of_each_pair(*_read_columns(file))
    kept = frequent(user_ids, item_ids, least_interactions)
    if not kept.any():
        raise ValueError(
            f"Expected users and items with at least {least_interactions} interactions each in "
            f"{file}, got none. Lower least_interactions."
        )
    items = np.unique(item_ids[kept], return_inverse=True)[1]
    data = split_ratings(
        user_ids[kept],
        items,
        ratings[kept],
        seed=seed,
        least_ratings=1,
        least_clean_rating=least_clean_rating,
    )
    for split, users in (("validation", data.valid_users), ("clean test", data.test_users)):
        if not len(users):
            raise ValueError(
                f"Expected {split} interactions in {file}, got none of {len(ratings)} ratings, "
                f"{kept.sum()} of them kept. Take a larger file, or lower least_clean_rating."
            )
    return replace(data, name=f"{file.resolve().parent.name}/{file.name}")


def frequent(users: Ids, items: Ids, least: int) -> NDArray[np.bool_]:
    """Which interactions are left when users and items with fewer than `least` are taken out.

    Taking out a user leaves its items with fewer, and the other way round, so this goes on until
    every user and every item left has enough (the k-core of the graph, k = least).

    Args:
        users, items: (N,) int64 each, no pair twice.

    Returns:
        (N,) bool.
    """
    kept = np.ones(len(users), dtype=np.bool_)
    while kept.any():
        enough = (np.bincount(users[kept])[users[kept]] >= least) & (
            np.bincount(items[kept])[items[kept]] >= least
        )
        if enough.all():
            break
        kept[np.flatnonzero(kept)[~enough]] = False
    return kept


def _read_columns(file: Path) -> tuple[Ids, Ids, Ratings]:
    """Users and items, numbered over the whole file, and ratings, (N,) each."""
    if not file.is_file():
        raise FileNotFoundError(
            f"Expected a file of ratings at {file}, got none. Name one with lines of user, item "
            "and rating."
        )
    rows = list(_cells(file.read_text(encoding="utf-8-sig").splitlines()))
    if not rows:
        raise ValueError(f"Expected ratings in {file}, got an empty file. Add lines to it.")
    columns, has_header = _columns(rows[0][1], file)
    table = [_row(cells, columns, file, number) for number, cells in rows[has_header:]]
    if not table:
        raise ValueError(f"Expected ratings in {file}, got only a header. Add lines to it.")
    users, items, ratings = zip(*table, strict=True)
    return (
        np.unique(users, return_inverse=True)[1],
        np.unique(items, return_inverse=True)[1],
        np.array(ratings, dtype=np.float64),
    )


def _cells(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line that is not blank."""
    first = next((line for line in lines if line.strip()), "")
    separator = next((mark for mark in SEPARATORS if mark in first), ",")
    rows: Iterable[list[str]]
    if len(separator) > 1:
        rows = (line.split(separator) for line in lines)
    else:
        rows = csv.reader(lines, delimiter=separator)
    for number, cells in enumerate(rows, start=1):
        if any(cell.strip() for cell in cells):
            yield number, cells


def _columns(first: list[str], file: Path) -> tuple[tuple[int, int, int], bool]:
    """Where user, item and rating stand, and whether the first line is a header."""
    if len(first) >= 3 and _number(first[2]) is not None:
        return (0, 1, 2), False
    names = [cell.strip().lower() for cell in first]
    places = [
        next((place for place, name in enumerate(names) if name in known), None)
        for known in COLUMN_NAMES.values()
    ]
    user, item, rating = places
    if user is None or item is None or rating is None:
        raise ValueError(
            f"Expected user, item and rating in the first line of {file}, or a header that names "
            f"them, got: {', '.join(first)}. Separate the columns by one of {SEPARATORS} and name "
            "them user, item and rating."
        )
    return (user, item, rating), True


def _row(
    cells: list[str], columns: tuple[int, int, int], file: Path, number: int
) -> tuple[str, str, float]:
    rating = _number(cells[columns[2]]) if len(cells) > max(columns) else None
    if rating is None:
        raise ValueError(
            f"Expected user, item and a number as rating in line {number} of {file}, got: "
            f"{', '.join(cells)}. Mend that line."
        )
    return cells[columns[0]].strip(), cells[columns[1]].strip(), rating


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _last_of_each_pair(users: Ids, items: Ids, ratings: Ratings) -> tuple[Ids, Ids, Ratings]:
    keys = users * (items.max() + 1) + items
    # np.unique gives the first place of a key: the last, in the reversed order
    _, places = np.unique(keys[::-1], return_index=True)
    last = len(keys) - 1 - places
    return users[last], items[last], ratings[last]
