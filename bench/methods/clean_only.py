"""Clean-only: ordinary training on what is flagged as clean, the ceiling of all denoising.

No row of the paper. It reads the flags, which no method may: an oracle. Everything else is as for
the methods it is compared with: validation as noisy as theirs, the same items masked in the
rankings, its settings tuned with as many trials.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.data.interaction_data import InteractionData
from bench.methods.method import Method


@dataclass(frozen=True)
class CleanOnly(Method):
    """Ordinary training on the clean train interactions alone."""

    def trained_on(self, data: InteractionData) -> InteractionData:
        """The data with the train interactions that are flagged as clean.

        Raises:
            ValueError: the train interactions have no flags.
        """
        flags = data.train_clean
        if flags is None:
            raise ValueError(
                f"Expected train interactions with clean flags, got {data.name} without. "
                "Give train.tsv a third column, or leave out clean_only."
            )
        return replace(
            data,
            train_users=data.train_users[flags],
            train_items=data.train_items[flags],
            train_clean=flags[flags],
        )
