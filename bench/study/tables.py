"""One of the paper's tables, by one command that goes on where it was interrupted.

``python -m bench.study.tables --table 3 --data FOLDER --results RUNS --processes 2``

Table 2: all methods on all models. Table 3: SGDL without denoising learning (w/o DLS), and without
the denoising scheduler (w/o ADS). Table 4: the estimated noise rate shifted, for an early or a late
switch. Table 5: other schedulers. Tables 3 to 5 change one part of SGDL under the trial that was
chosen for SGDL itself; runs are shared with every other table of the same results folder.
"""

from __future__ import annotations

import sys

from bench.study.commands import (
    RECOVERED,
    carry_out,
    cells_of,
    parse,
    protocol,
    repeatable,
    study_parser,
)
from bench.study.variants import VARIANTS, with_variants

PROGRAM = "bench.study.tables"
TITLES = {
    2: "Table 2: methods compared",
    3: "Table 3: without denoising learning, without the scheduler",
    4: "Table 4: the estimated noise rate shifted",
    5: "Table 5: the denoising scheduler",
}
MODELS_OF_VARIANTS = ["neumf", "lightgcn"]  # those that the paper takes for Tables 3 to 5


def main(arguments: list[str] | None = None) -> int:
    """Runs what the table lacks and writes it; returns 1 where a run failed, else 0."""
    parser = study_parser(PROGRAM, "Make one of the paper's tables.")
    parser.add_argument("--table", type=int, choices=list(TITLES), required=True)
    parser.set_defaults(conditions=["natural"], models=None, methods=None)
    options = parse(parser, arguments)
    table = options.table
    defaults = study_parser(PROGRAM, "")
    if table == 2:
        options.models = options.models or defaults.get_default("models")
        options.methods = options.methods or defaults.get_default("methods")
    elif options.methods not in (None, ["sgdl"]):
        parser.error("expected --methods with Table 2 alone, as the others are about sgdl")
    else:
        options.models, options.methods = options.models or MODELS_OF_VARIANTS, ["sgdl"]
    if options.report is None and not options.only_report:
        options.report = f"bench/results/table{table}"
    wanted = cells_of(options)
    if table in VARIANTS:
        wanted = {
            source: [variant for cell in some for variant in with_variants(cell, table)]
            for source, some in wanted.items()
        }
    names = ["table", "models", "conditions", "tuning_seeds", "seeds"]
    if table == 2:
        names.append("methods")
        reference, note = "plain", RECOVERED
    else:
        reference = "sgdl"
        note = ". The other rows have the trial that was chosen for sgdl and are not tuned anew."
    return carry_out(
        options,
        wanted,
        title=TITLES[table],
        command=repeatable(PROGRAM, options, names),
        note=f"{protocol(options)} against {reference}{note}",
        reference=reference,
    )


if __name__ == "__main__":
    sys.exit(main())
