"""The four models of the paper, as `bench.training.recipes` trains them."""

from __future__ import annotations

from bench.families.family import Family, Settings
from bench.training.recipes import RECIPES


def _of(name: str, patience: int, **changes: float) -> Family:
    recipe = RECIPES[name]
    return Family(
        name, recipe.build, recipe.batches, recipe.loss_fn, recipe.penalty_fn,
        Settings(
            recipe.learning_rate, changes.get("l2", recipe.l2), recipe.batch_size,
            int(changes.get("epochs", recipe.epochs)), patience, recipe.history_length,
        ),
    )  # fmt: skip


LIGHTGCN = _of("lightgcn", 40, epochs=200)
NEUMF = _of("neumf", 10, l2=1e-5, epochs=40)
CDAE = _of("cdae", 15)
NGCF = _of("ngcf", 30)
