"""Runs a comparison as far as it is not done, and prints its table.

``python -m bench.study --data FOLDER --results RUNS`` may be interrupted at any time:
the same command goes on where it was. With ``--report NAME`` the table is also written to
NAME.md and NAME.json. The paper's own tables: ``python -m bench.study.tables``.
"""

from __future__ import annotations

import sys

from bench.methods import METHODS
from bench.study.commands import (
    RECOVERED,
    carry_out,
    cells_of,
    parse,
    protocol,
    repeatable,
    study_parser,
)

PROGRAM = "bench.study"


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line asks for; returns 1 where a run failed, else 0."""
    parser = study_parser(
        PROGRAM, "Compare denoising methods: tuned alike, over seeds, with paired tests."
    )
    parser.add_argument("--title", default="Denoising methods compared")
    parser.add_argument(
        "--against", choices=list(METHODS), default="plain",
        help="the method that the others are compared with (default: %(default)s)",
    )  # fmt: skip
    options = parse(parser, arguments)
    return carry_out(
        options,
        cells_of(options),
        title=options.title,
        command=repeatable(
            PROGRAM,
            options,
            ("title", "models", "conditions", "methods", "tuning_seeds", "seeds", "against"),
        ),
        note=f"{protocol(options)} against {options.against}{RECOVERED}",
        reference=options.against,
    )


if __name__ == "__main__":
    sys.exit(main())
