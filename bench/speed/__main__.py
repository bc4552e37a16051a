"""One command, one table: ``python -m bench.speed [--rows small] [--json FILE] ...``."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from bench.speed.cases import CASES, chosen
from bench.speed.measurement import measure, measure_memory
from bench.speed.table import COLUMNS, environment, markdown
from bench.speed.workload import build


def main(arguments: list[str] | None = None) -> None:
    """Measures what the command line asks for, prints the table, writes the files."""
    options = _parser().parse_args(arguments)
    threads_before = torch.get_num_threads()
    counts = dict.fromkeys(_all_threads() if t == "all" else int(t) for t in options.threads)
    folder = None if options.quick else options.data
    found: dict[str, Any] = {"environment": environment(), "columns": list(COLUMNS), "rows": []}
    try:
        for case in chosen(options.rows, quick=options.quick):
            started = time.perf_counter()
            workload = build(case, folder)
            memory = {} if options.no_memory else measure_memory(workload, folder)
            for threads in counts:
                row = measure(workload, threads=threads, steps=options.steps)
                found["rows"].append({**row, "memory_mib": memory})
            print(f"{case.name}: {time.perf_counter() - started:.0f} s", flush=True)
            # after each row: a long run that is stopped leaves what it has
            if options.json is not None:
                options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            if options.markdown is not None:
                options.markdown.write_text(markdown(found), encoding="utf-8")
    finally:
        torch.set_num_threads(threads_before)
    print()
    print(markdown(found))


def _all_threads() -> int:
    """As many as there are cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="train.tsv, valid.tsv, test.tsv of MovieLens-100K; else generated data of its size",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        default=["all"],
        metavar="ROW",
        help=f"all, small (no row that needs some GiB), or names: {', '.join(CASES)}",
    )
    parser.add_argument("--steps", type=int, default=60, help="measured steps of each variant")
    parser.add_argument("--threads", nargs="+", default=["1", "all"], metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory columns out")
    parser.add_argument(
        "--quick", action="store_true", help="toy sizes: tries the command, measures nothing"
    )
    return parser


if __name__ == "__main__":
    main()
