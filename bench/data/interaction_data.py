"""What a data set is to the bench: three lists of (user, item), with flags where known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class InteractionData:
    """Interactions split into train, valid and test.

    Ids run from 0 to n_users - 1 and n_items - 1. Each split has (N,) int64 users and items and,
    where it is known, (N,) bool flags, true where the interaction is clean. The flags serve the
    evaluation alone: no training code reads them.
    """

    name: str
    n_users: int
    n_items: int
    train_users: Ids
    train_items: Ids
    valid_users: Ids
    valid_items: Ids
    test_users: Ids
    test_items: Ids
    train_clean: Flags | None = None
    valid_clean: Flags | None = None
    test_clean: Flags | None = None

    @classmethod
    def of(
        cls,
        name: str,
        n_users: int,
        n_items: int,
        splits: Mapping[str, tuple[Ids, Ids, Flags | None]],
    ) -> InteractionData:
        """From (users, items, flags) of "train", "valid" and "test"."""
        columns: dict[str, Any] = {
            f"{split}_{column}": values
            for split, parts in splits.items()
            for column, values in zip(("users", "items", "clean"), parts, strict=True)
        }
        return cls(name, n_users, n_items, **columns)

    @property
    def train_noise_rate(self) -> float | None:
        """Share of noisy interactions in train, None where the flags are unknown."""
        return None if self.train_clean is None else float(1 - self.train_clean.mean())

    def describe(self) -> str:
        """One line with the sizes: "generated: 400 users, 600 items, 22,144 train, ..."."""
        noise = self.train_noise_rate
        return (
            f"{self.name}: {self.n_users:,} users, {self.n_items:,} items, "
            f"{len(self.train_users):,} train, {len(self.valid_users):,} valid, "
            f"{len(self.test_users):,} test"
            + ("" if noise is None else f", {noise:.1%} of train is noise")
        )
