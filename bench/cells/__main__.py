"""``python -m bench.cells --root FOLDER --results FILE``: runs the cells that are missing."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import product
from pathlib import Path
from typing import Any

from bench.cells.report import markdown
from bench.cells.results import Results
from bench.cells.run import METHODS, Run, execute
from bench.cells.tuning import Point, tuned
from bench.data import conditions, sources
from bench.families import FAMILIES
from examples.reproduction.provenance import current_provenance


def main(arguments: list[str] | None = None) -> None:
    """Does what the command line asks for; what is there is not run again."""
    options = _parser().parse_args(arguments)
    results = Results(options.results)
    if not options.only_report:
        _run_missing(options, results)
    if options.report:
        Path(options.report).write_text(markdown(results.all()), encoding="utf-8")


def _run_missing(options: argparse.Namespace, results: Results) -> None:
    provenance = current_provenance()
    cells = list(product(options.data, options.families, options.conditions))
    work = [_of_cell(options, results, *cell) for cell in cells]
    # spawned: forked children of a process that has used torch may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, context) as pool:
        running: dict[Any, tuple[Run, Iterator[Run]]] = {}
        waiting = iter(work)
        while True:
            while len(running) < options.processes:
                cell = next(waiting, None)
                if cell is None:
                    break
                _submit(pool, running, cell, options, results)
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                run, cell = running.pop(future)
                error = future.exception()
                if error is None:
                    results.put(run, future.result(), provenance)
                    print(_line(run, future.result()), flush=True)
                else:
                    results.put(run, {"error": f"{type(error).__name__}: {error}"}, provenance)
                    print(f"{run} failed: {type(error).__name__}: {error}", file=sys.stderr)
                _submit(pool, running, cell, options, results)


def _submit(
    pool: ProcessPoolExecutor, running: dict[Any, Any], cell: Iterator[Run],
    options: argparse.Namespace, results: Results,
) -> None:
    run = next(cell, None)
    if run is not None:
        running[pool.submit(execute, run, options.root)] = run, cell


def _of_cell(
    options: argparse.Namespace, results: Results, data: str, family: str, condition: str
) -> Iterator[Run]:
    """The missing runs of a cell, one after the other: tuning, and then every method and seed."""
    settings = FAMILIES[family].settings
    start = settings.learning_rate, settings.l2
    point = start
    if not options.no_tuning:
        tuned_as = options.tune_as or condition
        while True:  # the search is played again with what is known, until it asks for more
            asked: list[Run] = []

            def value(
                point: Point, asked: list[Run] = asked, tuned_as: str = tuned_as
            ) -> float:
                run = Run(family, data, tuned_as, "plain", 0, *point)
                found = results.get(run)
                if found is None:
                    asked.append(run)
                    raise LookupError
                return float(found.get("valid", -1.0))

            try:
                point = tuned(start, value, most=options.trials)
                break
            except LookupError:
                yield asked[0]
    for seed, method in product(options.seeds, options.methods):
        variant = options.config if method == "sgdl" else ""
        run = Run(family, data, condition, method, seed, *point, variant)
        if method == "clean-only" and condition == "clean":
            continue
        if results.get(run) is None:
            yield run


def _line(run: Run, result: dict[str, Any]) -> str:
    test = result["test"].get("ndcg@20") or 0.0
    return (
        f"{run.family} {run.data} {run.condition} {run.method}[{run.variant}] seed {run.seed} "
        f"lr {run.learning_rate:g} l2 {run.l2:g}: valid {result['valid']:.4f} test {test:.4f} "
        f"epoch {result['best_epoch']}/{result['n_epochs']}, {result['epoch_seconds']:.2f} s an "
        f"epoch, switch {result.get('memorization_point')}, share {result.get('noise_share')}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.cells", description=__doc__)
    parser.add_argument("--root", required=True, help="folder with ml100k, ml1m, ...")
    parser.add_argument("--results", required=True, help="file that runs are added to")
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--data", nargs="+", choices=list(sources.NAMES), default=["ml100k"])
    parser.add_argument(
        "--conditions", nargs="+", choices=list(conditions.NAMES), default=list(conditions.NAMES)
    )
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--config", default="", help="denoiser's settings, as a=1,b=none")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--trials", type=int, default=9, help="of the tuning, at most")
    parser.add_argument("--no-tuning", action="store_true", help="take the family's settings")
    parser.add_argument("--tune-as", metavar="CONDITION", help="take another condition's settings")
    parser.add_argument("--report", metavar="FILE", help="writes a Markdown table")
    parser.add_argument("--only-report", action="store_true", help="runs nothing")
    return parser


if __name__ == "__main__":
    main()
