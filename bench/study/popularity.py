"""What popularity alone reaches: ``python -m bench.study.popularity --data FOLDER``.

The same ranking for every user, items by their number of training interactions. A model that is
not well above it has learned nothing about its users.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from bench.data.interaction_data import InteractionData
from bench.data.load import load_data
from bench.training.fit import rankings


def main(arguments: list[str] | None = None) -> None:
    """Reads the data that the command line names and prints the metrics on its test set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="as `load_data` takes it")
    data = load_data(parser.parse_args(arguments).data)
    print(data.describe())
    print("  ".join(f"{name} {value:.4f}" for name, value in by_popularity(data).items()))


def by_popularity(data: InteractionData) -> dict[str, float]:
    """Test metrics of items ranked by their number of training interactions, as `rankings` has
    them: train and validation items of a user masked."""
    counts = np.bincount(data.train_items, minlength=data.n_items)
    scores = torch.from_numpy(counts).float()
    _, test = rankings(data)
    return test(lambda users: scores.expand(len(users), -1))


if __name__ == "__main__":
    main()
