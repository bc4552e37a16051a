"""``python -m bench.cells --root FOLDER --results FILE``: makes the runs that are missing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product

from bench.cells import report
from bench.cells.cell import METHODS, Cell, changes, variant_of
from bench.cells.queue import THREADS, Plan, Queue
from bench.cells.results import Results
from bench.cells.tuning import MOST
from bench.data import conditions, sources
from bench.provenance import current_provenance
from sgdl_wrap import DenoiserConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line asks for; what is there is not run again.

    Returns:
        The number of runs that failed.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        variant = variant_of(options.config)
        DenoiserConfig().but(**changes(variant))
    except ValueError as error:
        parser.error(f"--config: {error}")
    results = Results(options.results)
    failed = {}
    if not options.only_report:
        queue = Queue(
            results,
            Plan(
                options.methods, options.seeds, variant, tuning=not options.no_tuning,
                at=None if options.at is None else (options.at[0], options.at[1]),
                tune_as=options.tune_as, trials=options.trials,
            ),
            options.root,
            current_provenance() | {"threads": str(THREADS)},  # of the start, as the workers
        )  # fmt: skip
        cells = product(options.data, options.families, options.conditions)
        failed = queue.run(
            [Cell(family, data, condition) for data, family, condition in cells],
            options.processes,
        )
    if options.report:
        report.write(options.report, results.all())
    if failed:
        print(f"{len(failed)} runs failed; the same command tries them again", file=sys.stderr)
    return len(failed)


def _parser() -> argparse.ArgumentParser:
    from bench.families import FAMILIES

    parser = argparse.ArgumentParser(prog="python -m bench.cells", description=__doc__)
    parser.add_argument("--root", help="folder with ml100k, ml1m, ...; planted data needs none")
    parser.add_argument("--results", required=True, help="file that runs are added to")
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--data", nargs="+", choices=list(sources.NAMES), default=["ml100k"])
    parser.add_argument(
        "--conditions", nargs="+", choices=list(conditions.NAMES), default=list(conditions.NAMES)
    )
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--config", nargs="+", default=[], metavar="NAME=VALUE",
        help="fields of DenoiserConfig, for sgdl; kept apart from the runs with the defaults",
    )  # fmt: skip
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--trials", type=int, default=MOST, help="of the tuning, at most")
    parser.add_argument(
        "--at", type=float, nargs=2, metavar=("RATE", "L2"), help="take these settings"
    )
    parser.add_argument("--no-tuning", action="store_true", help="take the family's settings")
    parser.add_argument(
        "--tune-as", metavar="CONDITION", choices=list(conditions.NAMES),
        help="take the settings tuned under this condition",
    )  # fmt: skip
    parser.add_argument("--report", metavar="NAME", help="writes NAME.md and NAME.json")
    parser.add_argument("--only-report", action="store_true", help="runs nothing")
    return parser


if __name__ == "__main__":
    sys.exit(min(main(), 1))
