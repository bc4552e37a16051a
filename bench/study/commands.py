"""What the commands of the bench have in common: their options, running, printing, writing."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.data.load import load_data
from bench.methods import METHODS
from bench.options import denoiser_setting, setting
from bench.study.conditions import check_condition
from bench.study.grids import BENCHES, TRIALS_PER_METHOD
from bench.study.report import markdown, provenances, summary
from bench.study.run_settings import Defaults, fingerprint
from bench.study.store import DEFAULTS, ResultFileError, ResultStore
from bench.study.study import Cell, cells
from bench.study.workers import run_missing
from sgdl_wrap import DenoiserConfig, DenoiserError

RECOVERED = (
    "; recovered: (method - plain) / (clean-only - plain), where clean-only is at least 2 % above "
    "plain in that metric."
)
TRAINING = ("batch_size", "epochs", "evaluate_every", "patience")


def study_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Options that say which runs there are, where they are kept, and how they are run."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument(
        "--data", required=True, nargs="+", metavar="FOLDER", help="as `load_data` takes it, each"
    )
    parser.add_argument(
        "--results", default="runs/reproduction", metavar="FOLDER",
        help="a line a run; what is there is not run again (default: %(default)s)",
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
    parser.add_argument(
        "--training", nargs="+", type=_training, default=[], metavar="NAME=NUMBER",
        help=f"of every run, whatever the model: {', '.join(TRAINING)}; the benches of the models "
        "are for MovieLens-100K",
    )  # fmt: skip
    parser.add_argument(
        "--set", nargs="+", type=setting, default=[], metavar="FIELD=VALUE",
        help="fields of DenoiserConfig, of every sgdl run",
    )  # fmt: skip
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    parser.add_argument(
        "--as-recorded", action="store_true",
        help="run nothing, and look for runs whose denoiser had the defaults that RESULTS/"
        f"{DEFAULTS} holds, not today's; --data then names data as the runs do",
    )  # fmt: skip
    parser.add_argument("--report", metavar="NAME", help="write NAME.md and NAME.json")
    return parser


def parse(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """The options, refused where seeds of the two kinds are not apart, something comes twice, or
    the denoiser has no such setting."""
    options = parser.parse_args(arguments)
    for name in ("data", "models", "methods", "conditions", "seeds", "tuning_seeds"):
        values = getattr(options, name) or []
        if len(set(values)) < len(values):
            parser.error(f"expected each of --{name.replace('_', '-')} once, got some twice")
    if options.processes < 1:
        parser.error(f"expected one process or more, got {options.processes}")
    if set(options.seeds) & set(options.tuning_seeds):
        parser.error("expected tuning seeds apart from the final seeds, got some in both")
    if len(dict(options.training)) < len(options.training):
        parser.error("expected each name of --training once, got some twice")
    if len(dict(options.set)) < len(options.set):
        parser.error("expected each field of --set once, got some twice")
    if options.as_recorded:
        options.only_report = True
        return options
    try:
        known = (denoiser_setting(f"{name}={value!r}") for name, value in options.set)
        DenoiserConfig().but(**dict(known))
    except (argparse.ArgumentTypeError, DenoiserError) as error:
        parser.error(str(error))
    return options


def cells_of(options: argparse.Namespace) -> dict[str, list[Cell]]:
    """The cells that the options ask for, by the data they run on."""
    found = {}
    for source in options.data:
        try:
            name, flagged, defaults = (
                _recorded(source, options) if options.as_recorded else _loaded(source)
            )
        except (OSError, ValueError) as error:
            raise SystemExit(f"{source}: {error}") from error
        found[source] = cells(
            name,
            models=options.models,
            conditions=options.conditions,
            methods=options.methods,
            tuning_seeds=options.tuning_seeds,
            seeds=options.seeds,
            flagged=flagged,
            training=dict(options.training),
            config=dict(options.set),
            defaults=defaults,
        )
    return found


def _loaded(source: str) -> tuple[str, bool, None]:
    """The name of data as runs have it, whether it is flagged, and no defaults but today's."""
    data = load_data(source)
    return fingerprint(data), data.train_clean is not None, None


def _recorded(name: str, options: argparse.Namespace) -> tuple[str, bool, Defaults]:
    """The same for data that the finished runs name, with the defaults of their time."""
    store = ResultStore(options.results)
    defaults, known = store.defaults(), store.data_sets()
    if defaults is None:
        raise ValueError(
            f"Expected {DEFAULTS} in {options.results}, got no such file. "
            "Leave out --as-recorded, or name a folder that has one."
        )
    if name not in known:
        raise ValueError(
            f"Expected data that {options.results} has runs on, got {name!r}. "
            f"Name one of {', '.join(sorted(known))}."
        )
    unknown = {field for field, _ in options.set} - set(defaults["ranking"]) - {"history_length"}
    if unknown:
        raise ValueError(
            f"Expected fields of {DEFAULTS} in --set, got {', '.join(sorted(unknown))}. "
            "Leave them out."
        )
    return name, known[name], defaults


def carry_out(
    options: argparse.Namespace,
    wanted: Mapping[str, Sequence[Cell]],
    *,
    title: str,
    command: str,
    note: str,
    reference: str = "plain",
) -> int:
    """Runs what is missing, prints the table, writes it where the options say.

    Args:
        wanted: cells by the data they run on, as `load_data` takes it.
        title, command, note: told above the table that is written.
        reference: the row that the others are compared with.

    Returns:
        2 where nothing is to be done or a file of results cannot be read, 1 where a run failed,
        else 0.
    """
    try:
        return _carry_out(
            options, wanted, title=title, command=command, note=note, reference=reference
        )
    except (ResultFileError, NotADirectoryError) as error:
        print(error, file=sys.stderr)
        return 2


def _carry_out(
    options: argparse.Namespace,
    wanted: Mapping[str, Sequence[Cell]],
    *,
    title: str,
    command: str,
    note: str,
    reference: str,
) -> int:
    store = ResultStore(options.results)
    failed: dict[str, str] = {}
    if not any(wanted.values()):
        print(
            "Expected something to compare, got no pair of method and model that goes together "
            "under these conditions. Methods for one kind of loss or graph models alone are not "
            "for others, and without flags there is neither clean_only nor any condition but "
            "natural.",
            file=sys.stderr,
        )
        return 2
    if not options.only_report:
        for source, some in wanted.items():
            failed |= run_missing(source, some, store, processes=options.processes)
    everything = [cell for some in wanted.values() for cell in some]
    rows = summary(everything, store, reference=reference)
    text = markdown(rows, reference=reference)
    print(f"\n{text}")
    for key, error in failed.items():
        print(f"failed: {key}: {error}", file=sys.stderr)
    if options.report is not None:
        origins = provenances(everything, store)
        names = ", ".join(dict.fromkeys(cell.data for cell in everything))
        head = [
            f"# {title}", "", "```", command, "```", "",
            *(_told(origin) for origin in origins),
            f"Data {names}. {len(rows)} of {len(everything)} cells are done; {note}",
            "",
        ]  # fmt: skip
        Path(options.report).parent.mkdir(parents=True, exist_ok=True)
        Path(f"{options.report}.md").write_text("\n".join([*head, text]), encoding="utf-8")
        record = {"command": command, "provenance": origins, "rows": rows}
        written = json.dumps(record, indent=1, allow_nan=False) + "\n"
        Path(f"{options.report}.json").write_text(written, encoding="utf-8")
    return 1 if failed else 0


def repeatable(program: str, options: argparse.Namespace, names: Sequence[str]) -> str:
    """The command with the named options written out, and places of files left open."""
    words = [
        word
        for name in names
        for word in (f"--{name.replace('_', '-')}", *map(str, _listed(getattr(options, name))))
    ]
    if options.training:
        words += ["--training", *(f"{name}={number}" for name, number in options.training)]
    if options.set:
        words += ["--set", *(f"{name}={value}" for name, value in options.set)]
    if options.as_recorded:
        places = ["--data", *options.data, "--results", options.results, "--as-recorded"]
    else:
        places = ["--data", *["FOLDER"] * len(options.data), "--results", "RUNS"]
    return f"python -m {program} {shlex.join([*places, *words])}"


def protocol(options: argparse.Namespace) -> str:
    """How every row came about, in a sentence or two."""
    return (
        f"{TRIALS_PER_METHOD} trials a method on tuning seeds {options.tuning_seeds}, the best on "
        f"validation then on seeds {options.seeds}. Mean ± standard deviation over those; p of "
        "the paired t-test of NDCG@20"
    )


def _told(origin: Mapping[str, str]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in origin.items())
    return f"Commit {versions.removeprefix('commit ')}."


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else [value]


def _condition(text: str) -> str:
    try:
        return check_condition(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _training(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in TRAINING or not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(
            f"Expected one of {', '.join(TRAINING)} and a number from 1, got {text!r}. "
            "Write it as batch_size=8192."
        )
    return name, int(number)
