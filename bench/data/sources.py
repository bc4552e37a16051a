"""The data sets of the bench by name: folders of files, ratings with times, and planted ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data import planted
from bench.data.folder_reader import read_folder
from bench.data.interaction_data import Ids, InteractionData

FOLDERS = ("ml100k", "ml1m")
TIMED = "ml-latest-small"
NAMES = (*FOLDERS, TIMED, *planted.NAMES)
_LEAST_RATINGS = 20
_LEAST_CLEAN_RATING = 3


def load(name: str, folder: str | Path | None = None) -> InteractionData:
    """The data set of that name, one of NAMES.

    Args:
        folder: holds ml100k/, ml1m/ and ml-latest-small/; planted data needs none.

    Raises:
        ValueError: an unknown name, or no folder for data that is read from one.
        FileNotFoundError: the folder does not hold the data.
    """
    if name in planted.NAMES:
        return planted.named(name)
    if name not in NAMES:
        raise ValueError(f"Expected one of {', '.join(NAMES)}, got {name!r}. Choose one of these.")
    if folder is None:
        raise ValueError(f"Expected the folder that holds {name}/, got none. Name that folder.")
    if name == TIMED:
        return _read_timed(Path(folder) / name / "ratings.csv")
    return read_folder(Path(folder) / name)


def _read_timed(file: Path) -> InteractionData:
    if not file.is_file():
        raise FileNotFoundError(
            f"Expected ratings in {file}, got no such file. Name a folder that holds it."
        )
    table = np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)
    users, items = (np.unique(column, return_inverse=True)[1] for column in table[:, :2].T)
    enough = np.bincount(users)[users] >= _LEAST_RATINGS
    return split_by_time(
        np.unique(users[enough], return_inverse=True)[1],
        np.unique(items[enough], return_inverse=True)[1],
        table[enough, 2] >= _LEAST_CLEAN_RATING,
        table[enough, 3],
        name=file.parent.name,
    )


def split_by_time(
    users: Ids, items: Ids, clean: NDArray[np.bool_], times: NDArray[np.float64], *, name: str
) -> InteractionData:
    """The last tenth of each user's clean interactions is test, the tenth before it valid.

    With C clean interactions of a user, the one of rank r by time (from 0) is train if
    r < 0.8 C, valid if r < 0.9 C, else test. A noisy one has the rank of the next clean one after
    it, so it stays in the split of its time; noisy ones of the test time are left out, as test is
    clean. Ties in time keep the given order. The rows of each split are sorted by user, then time.

    Args:
        users, items, clean, times: (N,) each, ids from 0 without gaps.
    """
    order = np.lexsort((times, users))
    users, items, clean = users[order], items[order], clean[order]
    counts = np.bincount(users)
    n_clean = np.bincount(users, weights=clean).astype(np.int64)
    before: Ids = np.cumsum(clean) - clean
    rank: Ids = before - before[np.cumsum(counts) - counts][users]
    # a user without clean interactions has no test time: all is train
    of_all = np.where(n_clean[users] > 0, n_clean[users], np.iinfo(np.int32).max)
    train, test = 10 * rank < 8 * of_all, 10 * rank >= 9 * of_all
    rows = {"train": train, "valid": ~train & ~test, "test": test & clean}
    splits = {split: (users[row], items[row], clean[row]) for split, row in rows.items()}
    return InteractionData.of(name, len(counts), int(items.max()) + 1, splits)
