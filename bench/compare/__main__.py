"""Trains a recommender as usual and denoised, side by side: ``python -m bench.compare``.

The two loops are in `bench/training/fit.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from bench.compare.comparison import findings, metric_table
from bench.compare.memorization_picture import save_memorization_picture
from bench.data.load import load_data
from bench.options import denoiser_setting
from bench.training.fit import TrainingRun, train
from bench.training.recipes import RECIPES, RECIPES_FOR_GENERATED_DATA, Recipe
from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser

MODEL_GROUPS = {"both": ["lightgcn", "neumf"], "all": list(RECIPES)}


def main(arguments: list[str] | None = None) -> None:
    """Runs the comparison that the command line asks for and prints it."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    data = load_data(
        options.data,
        least_clean_rating=options.least_clean_rating,
        least_interactions=options.least_interactions,
    )
    print(data.describe())
    names = MODEL_GROUPS.get(options.model, [options.model])
    first_denoisers: dict[str, SelfGuidedDenoiser] = {}
    for name in names:
        recipe = choose_recipe(name, options)
        plain: list[TrainingRun] = []
        denoised: list[TrainingRun] = []
        for seed in options.seeds:
            for runs, denoise in ((plain, False), (denoised, True)):
                label = f"{recipe.name}, {'SGDL' if denoise else 'plain'}, seed {seed}"
                runs.append(
                    train(
                        recipe,
                        data,
                        denoise=denoise,
                        seed=seed,
                        config=DenoiserConfig(
                            **{"seed": seed, "history_length": recipe.history_length}
                            | dict(options.set)
                        ),
                        evaluate_every=options.evaluate_every,
                        on_epoch=progress(label, recipe.epochs),
                    )
                )
        print()
        print(metric_table(recipe.name, {"plain": plain, "SGDL": denoised}))
        print(findings(plain, denoised, data))
        print()
        if denoised[0].denoiser is not None:
            first_denoisers[recipe.name] = denoised[0].denoiser
    rate = data.train_noise_rate
    save_memorization_picture(
        first_denoisers, options.out, true_clean_ratio=None if rate is None else 1 - rate
    )
    print(f"Memorization curve: {options.out}")


def choose_recipe(name: str, options: argparse.Namespace) -> Recipe:
    """The recipe for a model and the data, with what the command line changes of it."""
    recipes = RECIPES_FOR_GENERATED_DATA if options.data == "generated" else RECIPES
    changes = {
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "learning_rate": options.lr,
        "l2": options.l2,
    }
    return replace(
        recipes[name], **{key: value for key, value in changes.items() if value is not None}
    )


def progress(label: str, epochs: int) -> Callable[[int, float | None], None]:
    """Tells how a run goes: on one line of a terminal, or else on about five lines in all."""
    start = time.perf_counter()
    latest = float("nan")

    def on_epoch(epoch: int, valid: float | None) -> None:
        nonlocal latest
        latest = latest if valid is None else valid
        text = (
            f"{label}: epoch {epoch}/{epochs}, validation NDCG@20 {latest:.4f}, "
            f"{time.perf_counter() - start:.0f} s"
        )
        if sys.stdout.isatty():
            print(f"\r{text}", end="\n" if epoch == epochs else "", flush=True)
        elif epoch == epochs or epoch % max(1, epochs // 4) == 0:
            print(text, flush=True)

    return on_epoch


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description="Train a recommender as usual and denoised, and compare the two.",
    )
    parser.add_argument("--model", choices=[*RECIPES, *MODEL_GROUPS], default="both")
    parser.add_argument(
        "--data",
        default="generated",
        metavar="PATH",
        help="generated (default), ml-100k (downloads it), a folder with train.tsv, valid.tsv "
        "and test.tsv, or a file of user, item, rating",
    )
    parser.add_argument(
        "--least-clean-rating",
        type=float,
        default=3.0,
        metavar="RATING",
        help="a rating below makes a click noisy, in a file of ratings (default: %(default)s)",
    )
    parser.add_argument(
        "--least-interactions",
        type=_positive,
        default=10,
        metavar="COUNT",
        help="users and items with fewer are left out of a file of ratings (default: %(default)s)",
    )
    parser.add_argument("--epochs", type=_positive, help="default: as the model's recipe says")
    parser.add_argument("--batch-size", type=_positive)
    parser.add_argument("--lr", type=float, help="learning rate of Adam")
    parser.add_argument("--l2", type=float, help="coefficient of the model's own L2 term")
    parser.add_argument(
        "--seed", "--seeds", dest="seeds", type=int, nargs="+", default=[0], metavar="SEED"
    )
    parser.add_argument(
        "--set",
        type=denoiser_setting,
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="fields of DenoiserConfig, e.g. denoising_scheduler=none guidance_interval=1",
    )
    parser.add_argument("--evaluate-every", type=_positive, default=1, metavar="EPOCHS")
    parser.add_argument(
        "--out",
        metavar="PICTURE",
        default="memorization.png",
        help="where to save the memorization curve (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=_positive,
        default=1,
        help="threads of torch; more than 1 rarely help models of this size",
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {value}")
    return value


if __name__ == "__main__":
    main()
