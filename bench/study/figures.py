"""Figures 1, 3, 4 and 5 of the paper on one's own data, by one command.

``python -m bench.study.figures --data FOLDER --out FOLDER`` trains each model plainly and
with SGDL, under each kind of noise, and writes one PNG a figure and condition, traces.jsonl (the
numbers behind them, a line a model and condition), and figures.md: how far the estimated noise rate
is from the true one, and the switch beside the epoch where memorization precision and recall meet.
Traces that are there are drawn again and not made again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.data.interaction_data import InteractionData
from bench.data.load import load_data
from bench.lines import Lines
from bench.provenance import current_provenance
from bench.study.conditions import check_condition
from bench.study.grids import BENCHES
from bench.study.run_settings import fingerprint
from bench.study.traces import TraceSettings, make_trace, trace_settings

Record = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Makes what is missing, and draws everything that the command line asks for."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.data is None and not options.only_report:
        parser.error("expected --data FOLDER, or --only-report")
    from bench.study.drawings import FIGURES  # needs matplotlib

    torch.set_num_threads(1)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    traces_file = Lines(out / "traces.jsonl")
    known: list[Record] = [json.loads(line) for line in traces_file.new()]
    data = None if options.only_report else load_data(options.data)
    records = []
    for condition in options.conditions:
        traces = {}
        for model in options.models:
            if data is None:
                record = recorded(known, model, condition, options.seed)
            else:
                settings = trace_settings(
                    fingerprint(data), model, condition, options.seed, options.epochs
                )
                record = found(known, settings) or made(settings, data, traces_file)
            records.append(record)
            traces[BENCHES[model].recipe.name] = record["trace"]
        for name, draw in FIGURES.items():
            draw(traces).savefig(out / f"{name}-{condition}.png", dpi=90)
    table = numbers(records)
    print(f"\n{table}")
    words = shlex.join(
        [
            *("--models", *options.models, "--conditions", *options.conditions),
            *("--seed", str(options.seed)),
            *(() if options.epochs is None else ("--epochs", str(options.epochs))),
        ]
    )
    command = f"python -m bench.study.figures --data FOLDER --out FOLDER {words}"
    (out / "figures.md").write_text(_page(command, records, table), encoding="utf-8")


def found(known: list[Record], settings: TraceSettings) -> Record | None:
    """The last trace with just these settings."""
    for record in reversed(known):
        if record["settings"] == asdict(settings):
            return record
    return None


def recorded(known: list[Record], model: str, condition: str, seed: int) -> Record:
    """The last trace of a model and a condition, whatever its other settings.

    Raises:
        SystemExit: there is none.
    """
    wanted = {"model": model, "condition": condition, "seed": seed}
    for record in reversed(known):
        if wanted.items() <= record["settings"].items():
            return record
    raise SystemExit(
        f"Expected a trace of {model}, {condition}, seed {seed}, got none. Leave out --only-report."
    )


def made(settings: TraceSettings, data: InteractionData, traces_file: Lines) -> Record:
    """A new trace with its settings and where it came from, added to the file."""
    name = f"{settings.model}, {settings.condition}"
    record = {
        "settings": asdict(settings),
        "provenance": current_provenance(),
        "trace": make_trace(settings, data, lambda text: print(f"{name}: {text}", flush=True)),
    }
    traces_file.add(record)
    return record


SHOWN = {
    "figure1": "Figure 1: the memorized share of clean and of noisy interactions",
    "figure3": "Figure 3: memorization precision (MP) and recall (MR) of plain training",
    "figure4": "Figure 4: losses at the switch, and the mixture fitted to them",
    "figure5": "Figure 5: weights of clean and noisy interactions, and the weighting function",
}


def numbers(records: list[Mapping[str, Any]]) -> str:
    """A table: the estimate beside the true rate, the switch beside where MP = MR."""
    lines = [
        "| condition | model | true noise rate | σ̂ at the switch | off by | switch after epoch "
        "| MP = MR at epoch | clean / noisy memorized there | at the end, plain | at the end, SGDL "
        "|",
        "|---" * 10 + "|",
    ]
    for record in records:
        settings, trace = record["settings"], record["trace"]
        crossing = trace["crossing"]
        plain, sgdl = trace["plain"], trace["sgdl"]
        off = abs(trace["noise_rate"] - trace["true_noise_rate"])
        cells = [
            settings["condition"], settings["model"], f"{trace['true_noise_rate']:.3f}",
            f"{trace['noise_rate']:.3f}", f"{off:.3f}", _epoch(trace["switch"]), _epoch(crossing),
            "" if crossing is None else _rates(plain, crossing), _rates(plain, 0), _rates(sgdl, 0),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _rates(memorization: Mapping[str, Any], epoch: int) -> str:
    # epoch 0 is the last one
    return f"{memorization['clean'][epoch - 1]:.2f} / {memorization['noisy'][epoch - 1]:.2f}"


def _epoch(epoch: int | None) -> str:
    return "not reached" if epoch is None else str(epoch)


def _page(command: str, records: list[dict[str, Any]], table: str) -> str:
    origins = list(dict.fromkeys(json.dumps(record["provenance"]) for record in records))
    told = [
        "Commit "
        + ", ".join(f"{name} {value}" for name, value in json.loads(origin).items()).removeprefix(
            "commit "
        )
        + "."
        for origin in origins
    ]
    settings = "; ".join(
        dict.fromkeys(
            f"{one['model']} lr {one['learning_rate']:g}, L2 {one['l2']:g}, {one['epochs']} epochs"
            for one in (record["settings"] for record in records)
        )
    )
    first = records[0]["settings"]
    lines = [
        "# Figures 1, 3, 4 and 5 of the paper", "", "```", command, "```", "", *told,
        f"Data {first['data']}, seed {first['seed']}; {settings}. MP and MR, memorization "
        "precision and recall, are those of plain training, not reached means not within "
        "these epochs; memorized: share of the clean / of the noisy interactions.",
        "",
    ]  # fmt: skip
    shown = []
    for name, title in SHOWN.items():
        shown += ["", f"## {title}", ""]
        conditions = dict.fromkeys(record["settings"]["condition"] for record in records)
        shown += [f"![{title}, {one}]({name}-{one}.png)\n" for one in conditions]
    return "\n".join(lines) + "\n" + table + "\n".join(shown)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.study.figures",
        description="Draw Figures 1, 3, 4 and 5 of the SGDL paper from trainings of one's own.",
    )
    parser.add_argument("--data", metavar="FOLDER", help="as `load_data` takes it")
    parser.add_argument("--out", default="bench/results/figures", metavar="FOLDER")
    parser.add_argument(
        "--only-report", action="store_true", help="draw the traces that OUT has, and make none"
    )
    parser.add_argument(
        "--models", nargs="+", choices=list(BENCHES), default=["neumf", "lightgcn"]
    )
    parser.add_argument(
        "--conditions", nargs="+", type=_condition, default=["natural", "injected-20"]
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="default: by model")
    return parser


def _condition(text: str) -> str:
    try:
        return check_condition(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
