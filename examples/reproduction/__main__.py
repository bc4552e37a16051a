"""Runs a comparison as far as it is not done, and prints its table.

``python -m examples.reproduction --data FOLDER --results FOLDER`` may be interrupted at any time:
the same command goes on where it was. With ``--report NAME`` the table is also written to
NAME.md and NAME.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from examples.quickstart import load_data
from examples.reproduction.conditions import check_condition
from examples.reproduction.grids import BENCHES, TRIALS_PER_METHOD
from examples.reproduction.methods import METHODS
from examples.reproduction.report import markdown, provenances, summary
from examples.reproduction.run_settings import fingerprint
from examples.reproduction.store import ResultStore
from examples.reproduction.study import Cell, cells
from examples.reproduction.workers import run_missing


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line asks for; returns 1 where a run failed, else 0."""
    options = _parser().parse_args(arguments)
    if set(options.seeds) & set(options.tuning_seeds):
        _parser().error("expected tuning seeds apart from the final seeds, got some in both")
    store = ResultStore(options.results)
    wanted = cells(
        fingerprint(load_data(options.data)),
        models=options.models,
        conditions=options.conditions,
        methods=options.methods,
        tuning_seeds=options.tuning_seeds,
        seeds=options.seeds,
    )
    failed: dict[str, str] = {}
    if not options.only_report:
        failed = run_missing(options.data, wanted, store, processes=options.processes)
    rows = summary(wanted, store)
    text = markdown(rows)
    print(f"\n{text}")
    for key, error in failed.items():
        print(f"failed: {key}: {error}", file=sys.stderr)
    if options.report is not None:
        _write(options, wanted, store, text)
    return 1 if failed else 0


def _write(
    options: argparse.Namespace, wanted: Sequence[Cell], store: ResultStore, text: str
) -> None:
    rows, origins = summary(wanted, store), provenances(wanted, store)
    command = (
        "python -m examples.reproduction --data FOLDER --results FOLDER "
        + shlex.join(
            [
                word
                for name in ("models", "conditions", "methods", "tuning_seeds", "seeds")
                for word in (f"--{name.replace('_', '-')}", *map(str, getattr(options, name)))
            ]
        )
    )
    n_done = len(rows)
    head = [
        f"# {options.title}",
        "",
        "```",
        command,
        "```",
        "",
        *(
            "Commit " + ", ".join(f"{name} {value}".removeprefix("commit ") for name, value in
            origin.items()) + "."
            for origin in origins
        ),
        f"Data {wanted[0].data if wanted else ''}. {n_done} of {len(wanted)} cells are done; "
        f"{TRIALS_PER_METHOD} trials a method on tuning seeds {options.tuning_seeds}, the best on "
        f"validation then on seeds {options.seeds}. Mean ± standard deviation over those; p of "
        "the paired t-test of NDCG@20 against plain; recovered: (method - plain) / (clean-only "
        "- plain), where clean-only is at least 2 % above plain.",
        "",
    ]
    base = Path(options.report)
    base.parent.mkdir(parents=True, exist_ok=True)
    base.with_suffix(".md").write_text("\n".join([*head, text]), encoding="utf-8")
    record = {"command": command, "provenance": origins, "rows": rows}
    base.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.reproduction",
        description="Compare denoising methods: tuned alike, over seeds, with paired tests.",
    )
    parser.add_argument("--data", required=True, metavar="FOLDER", help="as for the quickstart")
    parser.add_argument(
        "--results", default="runs/reproduction", metavar="FOLDER",
        help="one file a run; what is there is not run again (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--models", nargs="+", choices=list(BENCHES), default=list(BENCHES))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument(
        "--conditions", nargs="+", type=_condition, metavar="CONDITION",
        default=["natural", "injected-20", "injected-40", "clean"],
        help="natural, clean, injected-PERCENT, injected-popular-PERCENT",
    )  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--tuning-seeds", nargs="+", type=int, default=[100])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    parser.add_argument("--report", metavar="NAME", help="write NAME.md and NAME.json")
    parser.add_argument("--title", default="Denoising methods compared")
    return parser


def _condition(text: str) -> str:
    try:
        return check_condition(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
