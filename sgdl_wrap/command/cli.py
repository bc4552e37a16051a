"""``sgdl-wrap audit FILE``: how noisy are these clicks, and which rows are?"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from sgdl_wrap.command.columns import ITEM, TIME, USER
from sgdl_wrap.command.requirements import check_installed
from sgdl_wrap.errors import DenoiserError

WRONG = 2  # exit code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; messages go to standard error.

    Args:
        arguments: of the command line; None takes those of the process.

    Returns:
        The exit code: 0, or 2 if the file or an option is refused, with nothing written.
    """
    options = parser().parse_args(arguments)
    try:
        audit(options, sys.stderr)
    except (DenoiserError, OSError) as error:
        sys.stderr.write(f"sgdl-wrap: {error}\n")
        return WRONG
    except KeyboardInterrupt:
        sys.stderr.write("sgdl-wrap: interrupted, nothing was written.\n")
        return 130
    return 0


def audit(options: argparse.Namespace, stream: TextIO) -> None:
    """From a file to a folder with the answer.

    Args:
        options: as :func:`parser` gives them.
        stream: for what is said.

    Raises:
        DenoiserError: the file or an option is refused; nothing was written.
    """
    check_installed()
    from sgdl_wrap.command.answer import (
        check_folder,
        grouped,
        whole_folder,
        write_groups,
        write_rows,
    )
    from sgdl_wrap.command.audit_page import audit_page
    from sgdl_wrap.command.clicks import read_clicks
    from sgdl_wrap.command.columns import choose
    from sgdl_wrap.command.instrument import factory_named
    from sgdl_wrap.command.progress import Progress
    from sgdl_wrap.command.source import open_source
    from sgdl_wrap.command.verdict import judge

    start = time.perf_counter()
    check_folder(options.out, overwrite=options.overwrite)
    factory = None if options.model is None else factory_named(options.model)
    named = [name for name in (options.user, options.item, options.time, *options.keep) if name]
    source = open_source(
        options.file, no_header=options.no_header, skip_broken=options.skip_broken,
        known=(*USER, *ITEM, *TIME, *named),
    )  # fmt: skip
    columns = choose(
        source, user=options.user, item=options.item, time=options.time, keep=options.keep
    )
    header = "" if source.header or source.parquet else "No header. "
    _say(stream, f"{header}user: {columns.user!r}, item: {columns.item!r}, time: {columns.time!r}")
    clicks = read_clicks(source, columns)
    for note in clicks.notes:
        _say(stream, note)
    _say(
        stream,
        f"{clicks.rows:,} rows of {len(clicks.users):,} users and {len(clicks.items):,} items; "
        f"{clicks.repeats:,} repeat a pair of an earlier row"
        + (f"; {clicks.broken:,} broken lines are left out" if clicks.broken else ""),
    )
    progress = Progress(stream)
    try:
        verdict = judge(
            clicks, factory=factory, folds=options.folds, passes=options.passes, progress=progress
        )
    finally:
        progress.close()
    users, items = (grouped(clicks, verdict, what) for what in ("user", "item"))
    with whole_folder(options.out) as folder:
        rows = write_rows(source, verdict, folder)
        write_groups(users, folder / "users.csv")
        write_groups(items, folder / "items.csv")
        page = audit_page(source, columns, clicks, verdict, users, items)
        (folder / "audit.html").write_text(page, encoding="utf-8")
    low, high = verdict.interval
    _say(
        stream,
        f"Noise: {low:.0%} to {high:.0%} of the clicks. {int(verdict.suspect.sum()):,} rows are "
        f"suspects, {int((~verdict.known).sum()):,} have no evidence.",
    )
    _say(
        stream,
        f"{options.out}: {rows.name}, users.csv, items.csv, audit.html "
        f"({time.perf_counter() - start:.0f} s)",
    )


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    whole = argparse.ArgumentParser(prog="sgdl-wrap", description="Find noise in clicks.")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser(
        "audit", help="how noisy is a file of clicks, and which rows are?",
        description="How noisy is a file of clicks, and which rows are? Writes the rows with what "
        "was found, users and items, and a page to look at.",
    )  # fmt: skip
    one.add_argument("file", type=Path, help="CSV, TSV or Parquet, also gzip")
    one.add_argument("--user", metavar="COLUMN", help="name or number; default: a common name")
    one.add_argument("--item", metavar="COLUMN", help="name or number; default: a common name")
    one.add_argument("--time", metavar="COLUMN", help="name or number; default: a common name")
    one.add_argument("--keep", type=_names, default=[], metavar="COLUMNS",
                     help="columns shown on the page, with commas between")
    one.add_argument("--out", type=Path, default=Path("audit"), metavar="FOLDER",
                     help="where the answer goes; default: audit")
    one.add_argument("--overwrite", action="store_true", help="replace an audit in that folder")
    one.add_argument("--no-header", action="store_true", help="the first line is a row")
    one.add_argument("--skip-broken", action="store_true",
                     help="leave out lines with too many or too few fields, and count them")
    one.add_argument("--model", metavar="PACKAGE.MODULE:FACTORY",
                     help="a model of your own: factory(n_users, n_items) returns a module with "
                     "model(users, items), or the module and its optimizer")
    one.add_argument("--folds", type=_positive, default=4, metavar="N",
                     help="models, each trained without one part of the clicks; default: 4")
    one.add_argument("--passes", type=_positive, metavar="N",
                     help="over the clicks, of each model; default: follows their number")
    return whole


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"Expected a number from 1, got {number}. Give a larger.")
    return number


def _say(stream: TextIO, text: str) -> None:
    stream.write(f"{text}\n")
    stream.flush()
