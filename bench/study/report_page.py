"""The page of pictures from a real run: ``python -m bench.study.report_page --data FOLDER``.

Trains a recommender with the denoiser around it and saves the page of `draw_page` as
OUT/MODEL.png, with the command, the commit and what came out in OUT/MODEL.txt.
"""

from __future__ import annotations

import argparse
import io
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.data.load import load_data
from bench.provenance import current_provenance
from bench.training.fit import denoised_epoch, set_up, wrap
from bench.training.recipes import RECIPES, RECIPES_FOR_GENERATED_DATA
from sgdl_wrap import DenoiserConfig
from sgdl_wrap.report.epoch_display import epoch_line
from sgdl_wrap.report.pictures import draw_page

EPOCHS = {"lightgcn": 25, "ngcf": 40, "neumf": 8, "cdae": 30}
DPI = 150  # 1080 pixels across, shown at about 700


def main(arguments: list[str] | None = None) -> None:
    """Trains as the command line says, and saves the page."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    provenance = current_provenance()  # before the files it writes are changes of their own
    data = load_data(options.data)
    recipes = RECIPES_FOR_GENERATED_DATA if options.data == "generated" else RECIPES
    recipe = replace(recipes[options.model], epochs=options.epochs or EPOCHS[options.model])
    training = set_up(recipe, data, options.seed)
    config = DenoiserConfig(seed=options.seed, history_length=recipe.history_length)
    denoiser = wrap(training, config)
    for _ in range(recipe.epochs):
        denoised_epoch(training.model, denoiser, training.penalty_fn, training.batches)
        print(epoch_line(denoiser.history[-1]), flush=True)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    save_small(draw_page(denoiser, title=f"{recipe.name}, {data.name}"), out / options.model)
    given = {"model": options.model, "epochs": options.epochs, "seed": options.seed}
    words = shlex.join(
        [word for name, x in given.items() if x is not None for word in (f"--{name}", str(x))]
    )
    origin = ", ".join(f"{name} {value}" for name, value in provenance.items())
    (out / f"{options.model}.txt").write_text(
        f"python -m bench.study.report_page --data FOLDER {words}\n{origin}\n{data.describe()}\n"
        f"{epoch_line(denoiser.history[-1])}\n",
        encoding="utf-8",
    )


def save_small(figure: Any, path: Path) -> None:
    """Saves path.png in 256 colours: smaller, and nobody sees it."""
    from PIL import Image  # comes with matplotlib

    whole = io.BytesIO()
    figure.savefig(whole, dpi=DPI)
    picture = Image.open(whole).convert("RGB").quantize(
        256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    )
    picture.save(path.with_suffix(".png"), optimize=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.study.report_page", description="Draw the page of pictures of a run."
    )
    parser.add_argument("--data", required=True, metavar="PATH", help="as `load_data` takes it")
    parser.add_argument("--model", choices=list(EPOCHS), default="lightgcn")
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="pictures", metavar="FOLDER")
    return parser


if __name__ == "__main__":
    main()
