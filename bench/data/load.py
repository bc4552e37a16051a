"""Data by the name that a command line gives it."""

from __future__ import annotations

from pathlib import Path

from bench.data.folder_reader import read_folder
from bench.data.interaction_data import InteractionData
from bench.data.movielens import download_ml100k
from bench.data.planted_preferences import generate
from bench.data.ratings_file import read_ratings_file


def load_data(
    source: str, *, least_clean_rating: float = 3.0, least_interactions: int = 10
) -> InteractionData:
    """The data that --data names: "generated", "ml-100k", a file of ratings, or a folder.

    A folder holds the three files of `read_folder`, or else a ratings.csv.

    Args:
        least_clean_rating, least_interactions: as `read_ratings_file` takes them, for a file of
            ratings alone.
    """
    if source == "generated":
        return generate(seed=0)
    if source == "ml-100k":
        return download_ml100k()
    path = Path(source)
    if path.is_dir() and not (path / "train.tsv").exists() and (path / "ratings.csv").is_file():
        path = path / "ratings.csv"
    if path.is_file():
        return read_ratings_file(
            path, least_clean_rating=least_clean_rating, least_interactions=least_interactions
        )
    return read_folder(path)
