"""MovieLens-100K, downloaded from GroupLens and split as the authors of SGDL do.

The data may not be redistributed, so this project ships a loader only.
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.interaction_data import Ids, InteractionData

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
MD5 = "0e33842e24a9c977be4e0107933c0723"
"""As published beside the archive by GroupLens."""

TERMS = """\
MovieLens-100K, by GroupLens Research at the University of Minnesota.
  For research; no redistribution and no commercial use without permission.
  In publications cite: F. M. Harper and J. A. Konstan. 2015. The MovieLens Datasets: History and
  Context. ACM Transactions on Interactive Intelligent Systems 5, 4: 19:1-19:19."""


def default_cache_dir() -> Path:
    """$SGDL_WRAP_CACHE, or else the folder sgdl-wrap in the user's cache folder."""
    chosen = os.environ.get("SGDL_WRAP_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sgdl-wrap"


def download_ml100k(
    cache_dir: str | Path | None = None, *, seed: int = 0, url: str = URL, md5: str = MD5
) -> InteractionData:
    """MovieLens-100K as interactions: from the cache, or else from GroupLens.

    Prints the terms of use. Checks the archive's MD5 before anything is read from it.

    Args:
        cache_dir: where ml-100k.zip is kept; None takes `default_cache_dir`.
        seed: seed of the split, see `split_ratings`.
        url, md5: where the archive is and the checksum it must have.

    Raises:
        ConnectionError: the archive is not in the cache and cannot be downloaded.
        ValueError: the archive is not the published one.
    """
    archive = Path(default_cache_dir() if cache_dir is None else cache_dir) / "ml-100k.zip"
    print(TERMS)
    if not archive.is_file():
        _download(url, archive)
    found = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(
            f"Expected {archive} to have the published MD5 {md5}, got {found}. "
            "Delete that file and try again."
        )
    return split_ratings(*read_ratings(archive), seed=seed)


def read_ratings(archive: str | Path) -> tuple[Ids, Ids, Ids]:
    """Users, items and ratings in ml-100k/u.data of the archive, (N,) int64 each."""
    with zipfile.ZipFile(archive) as content, content.open("ml-100k/u.data") as lines:
        table = np.loadtxt(lines, dtype=np.int64, delimiter="\t", ndmin=2)
    return table[:, 0], table[:, 1], table[:, 2]


def split_ratings(
    users: Ids,
    items: Ids,
    ratings: Ids | NDArray[np.float64],
    *,
    seed: int = 0,
    least_ratings: int = 60,
    least_clean_rating: float = 3,
) -> InteractionData:
    """Ratings as implicit interactions, split 8:1:1 per user.

    Users with fewer than least_ratings are left out and the others numbered from 0 (497 users of
    MovieLens-100K); items keep their ids. A rating below least_clean_rating makes the
    interaction noisy. Noisy interactions are taken out of test.

    Args:
        users, items, ratings: (N,) int64 each; ratings may be fractions.

    Source: the data preparation of the SGDL authors (Sec. 4.1.1 of the paper).
    """
    _, compact, counts = np.unique(users, return_inverse=True, return_counts=True)
    active = counts[compact] >= least_ratings
    _, kept_users = np.unique(users[active], return_inverse=True)
    if not len(kept_users):
        raise ValueError(
            f"Expected users with at least {least_ratings} ratings, got none. Lower least_ratings."
        )
    kept_items, clean = items[active], ratings[active] >= least_clean_rating

    # Shuffle, then sort by user: the place within a user's run is a random rank of the rating.
    shuffled = np.random.default_rng(seed).permutation(len(kept_users))
    order = shuffled[np.argsort(kept_users[shuffled], kind="stable")]
    counts = np.bincount(kept_users)
    starts = np.cumsum(counts) - counts
    share = (np.arange(len(order)) - starts[kept_users[order]]) / counts[kept_users[order]]
    test = order[share >= 0.9]
    rows = {
        "train": order[share < 0.8],
        "valid": order[(share >= 0.8) & (share < 0.9)],
        "test": test[clean[test]],
    }
    splits = {split: (kept_users[i], kept_items[i], clean[i]) for split, i in rows.items()}
    return InteractionData.of("ml-100k", len(counts), int(items.max()) + 1, splits)


def _download(url: str, archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_suffix(".part")
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            partial.write_bytes(response.read())
    except (urllib.error.URLError, OSError) as error:
        raise ConnectionError(
            f"Expected to download {url}, got: {error}. "
            f"Download it by hand and put it at {archive}."
        ) from error
    partial.replace(archive)
