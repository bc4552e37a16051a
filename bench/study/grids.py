"""What each method is tried with: the same number of trials for all, and the same patience.

A method without settings of its own gets six pairs of learning rate and L2 coefficient; one with
settings of its own gets three of those, or two, on each of two, or three, of the pairs.

The pairs reach beyond the L2 coefficient that suits plain training: a grid that ends there would
sell a denoiser's regularisation as denoising.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, cast

from torch import Tensor, nn

from bench.models.neumf import NeuMF
from bench.training.batches import Batch
from bench.training.recipes import RECIPES, Recipe

TRIALS_PER_METHOD = 6


@dataclass(frozen=True)
class Trial:
    """One setting of a model's training and of the method."""

    learning_rate: float
    l2: float
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the method."""


@dataclass(frozen=True)
class Bench:
    """How a model is trained on the bench, whatever the method."""

    recipe: Recipe
    evaluate_every: int
    patience: int
    """Epochs without a better validation NDCG@20 after which a run ends."""
    base: Sequence[Trial]
    """Learning rates and L2 coefficients for methods without settings of their own."""
    middle: Sequence[Trial]
    """The three of them that leave room for a method's own settings, the likeliest first: pairs
    that plain training chose, or came close to, under one noise or another."""


def _embedding_l2(model: nn.Module, batch: Batch) -> Tensor:
    # 1/(2B) Σ_k of the squared norms of the sample's four embeddings, as LightGCN's term has it
    neumf, (users, items, _) = cast(NeuMF, model), batch
    rows = (
        neumf.gmf_user(users),
        neumf.mlp_user(users),
        neumf.gmf_item(items),
        neumf.mlp_item(items),
    )
    return cast(Tensor, sum(row.square().sum() for row in rows)) / (2 * len(users))


# NeuMF has no penalty in its paper. Without one it overfits after six epochs on MovieLens-100K
# (NDCG@20 .323 on test); with the one of LightGCN it reaches .340, and a plain row without it
# would be no fair rival.
BENCHES = {
    "lightgcn": Bench(
        recipe=replace(RECIPES["lightgcn"], epochs=800),
        evaluate_every=5,
        patience=80,
        base=[
            Trial(0.005, 3e-4),
            Trial(0.005, 1e-3),
            Trial(0.005, 3e-3),
            Trial(0.005, 1e-2),
            Trial(0.002, 1e-3),
            Trial(0.002, 3e-3),
        ],
        middle=[Trial(0.005, 1e-3), Trial(0.002, 1e-3), Trial(0.005, 3e-3)],
    ),
    "neumf": Bench(
        recipe=replace(RECIPES["neumf"], batch_size=4096, epochs=60, penalty_fn=_embedding_l2),
        evaluate_every=1,
        patience=12,
        base=[Trial(rate, l2) for rate in (0.001, 0.003) for l2 in (3e-3, 1e-2, 3e-2)],
        middle=[Trial(0.001, 1e-2), Trial(0.001, 3e-3), Trial(0.003, 3e-3)],
    ),
    "cdae": Bench(
        recipe=replace(RECIPES["cdae"], epochs=120),
        evaluate_every=1,
        patience=20,
        base=[
            Trial(0.001, 3e-3),
            Trial(0.001, 1e-2),
            Trial(0.001, 3e-2),
            Trial(0.0005, 1e-2),
            Trial(0.0005, 3e-2),
            Trial(0.0005, 1e-1),
        ],
        middle=[Trial(0.001, 1e-2), Trial(0.0005, 3e-2), Trial(0.001, 3e-2)],
    ),
    "ngcf": Bench(
        recipe=replace(RECIPES["ngcf"], epochs=300),
        evaluate_every=5,
        patience=40,
        base=[Trial(rate, l2) for rate in (0.001, 0.002) for l2 in (1e-4, 3e-4, 1e-3)],
        middle=[Trial(0.001, 3e-4), Trial(0.001, 1e-4), Trial(0.001, 1e-3)],
    ),
}

# The settings of a method's own that are tried, see `trials`.
OPTIONS: dict[str, Sequence[dict[str, Any]]] = {
    "t_ce": [{"drop_rate": 0.05}, {"drop_rate": 0.1}, {"drop_rate": 0.2}],
    "r_ce": [{"exponent": 0.05}, {"exponent": 0.1}, {"exponent": 0.25}],
    "wbpr": [{"power": 1.0}, {"power": 0.5}],
    "ir": [{"drop_rate": 0.05}, {"drop_rate": 0.1}, {"drop_rate": 0.2}],
    "deca": [
        {"c1": 1.0, "c2": 1.0},
        {"c1": 10.0, "c2": 1.0},
        {"c1": 100.0, "c2": 10.0, "alpha": 1.0},
    ],
    "sgcn": [{"sparsity": 0.003}, {"sparsity": 0.01}, {"sparsity": 0.03}],
    "sgl": [{"weight": 0.002}, {"weight": 0.005}, {"weight": 0.02}],
}


def trials(model: str, method: str) -> list[Trial]:
    """The settings that a method is tuned over with a model, TRIALS_PER_METHOD of them."""
    bench = BENCHES[model]
    if method not in OPTIONS:
        return list(bench.base)
    n_bases = TRIALS_PER_METHOD // len(OPTIONS[method])
    return [
        replace(base, options=options)
        for base, options in product(bench.middle[:n_bases], OPTIONS[method])
    ]
