"""How noisy is my log, and which rows? ``python -m examples.audit_my_log --data ratings.csv``.

Trains a recommender with the denoiser around it, prints the estimated noise rate and the most
suspicious interactions, and writes all of them to a CSV file. With ``--audit-only`` the training
itself stays as it is. Where it is known what is noise, it also prints how well the ranking finds
it, beside a ranking by the loss of the moment (which T-CE drops by) and by the loss averaged over
epochs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from bench.data.interaction_data import InteractionData
from bench.data.load import load_data
from bench.study.conditions import check_condition, under_condition
from bench.training.fit import denoised_epoch, set_up, wrap
from bench.training.recipes import RECIPES, RECIPES_FOR_GENERATED_DATA
from sgdl_wrap import DenoiserConfig
from sgdl_wrap.report.audit import Audit

EPOCHS = {"lightgcn": 100, "ngcf": 60, "neumf": 12, "cdae": 30}
RANKINGS = {
    "suspicion": "suspicion",
    "loss, averaged over epochs": "smoothed_loss",
    "loss of the moment": "loss",
}


def main(arguments: list[str] | None = None) -> None:
    """Audits the log that the command line names and prints what it finds."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    data = under_condition(options.condition, load_data(options.data), options.seed)
    print(data.describe())
    recipes = RECIPES_FOR_GENERATED_DATA if options.data == "generated" else RECIPES
    recipe = replace(recipes[options.model], epochs=options.epochs or EPOCHS[options.model])
    training = set_up(recipe, data, options.seed)
    denoiser = wrap(
        training,
        DenoiserConfig(
            seed=options.seed,
            history_length=recipe.history_length,
            audit_only=options.audit_only,
        ),
    )
    for _ in range(recipe.epochs):
        denoised_epoch(training.model, denoiser, training.penalty_fn, training.batches)
    audit = denoiser.report()
    audit.to_csv(options.out)
    print(f"{recipe.name}, {recipe.epochs} epochs, noise share (low, high) {denoiser.noise_share}")
    print("\nuser  item  suspicion  loss  memorization rate")
    for row in audit[: options.top]:
        print(
            f"{row['user']:4d}  {row['item']:4d}  {row['suspicion']:9.3f}  {row['loss']:4.2f}"
            f"  {row['memorization_rate']:.2f}"
        )
    if data.train_clean is not None:
        print(f"\n{quality(audit, data)}")
    print(f"\nAll of them: {options.out}")


def quality(audit: Audit, data: InteractionData) -> str:
    """A table of how well each ranking finds what is flagged as noise.

    AUC, and precision among as many as half of what is noise.
    """
    noisy = noisy_rows(audit, data)
    half = int(noisy.sum()) // 2
    lines = ["| ranked by | AUC | precision among the first half |", "|---|---|---|"]
    for name, column in RANKINGS.items():
        if np.isnan(audit[column]).any():
            continue
        first = np.argsort(-audit[column], kind="stable")[:half]
        auc = roc_auc_score(noisy, audit[column])
        lines.append(f"| {name} | {auc:.3f} | {noisy[first].mean():.3f} |")
    return "\n".join(lines)


def noisy_rows(audit: Audit, data: InteractionData) -> NDArray[np.bool_]:
    """Which rows of the audit are flagged as noise, (N,)."""
    assert data.train_clean is not None
    keys = data.train_users.astype(np.int64) * data.n_items + data.train_items
    order = np.argsort(keys)
    places = np.searchsorted(keys[order], audit["user"] * data.n_items + audit["item"])
    return ~data.train_clean[order][places].astype(bool)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.audit_my_log",
        description="Estimate how noisy a log of interactions is, and which of them.",
    )
    parser.add_argument("--data", default="generated", metavar="PATH", help="as the quickstart's")
    parser.add_argument("--model", choices=list(EPOCHS), default="lightgcn")
    parser.add_argument("--condition", type=check_condition, default="natural",
                        help="noise to put in, as the bench names it: injected-20")
    parser.add_argument("--epochs", type=int, help="default: what the model needs on MovieLens")
    parser.add_argument("--audit-only", action="store_true", help="leave the training as it is")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--top", type=int, default=10, help="interactions that are printed")
    parser.add_argument("--out", default="audit.csv", metavar="FILE")
    parser.add_argument("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    main()
