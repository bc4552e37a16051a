"""Breaks the denoiser on purpose, by the public interface alone, and counts what survives.

    python -m tests.stress [SECTION ...] [--seed S] [--tries N] [--only NUMBER] [--jobs J] [--all]

prints a table of sections, and a line for each trial that went wrong: its number repeats it, as in
``python -m tests.stress states --seed 0 --only 17``, which shows the traceback too. Exits with 1 if
anything went wrong. All of it takes minutes. What a section tries and demands is at the top of its
file.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import sklearn.mixture  # noqa: F401  (else every fork imports it)
import torch
import torch._dynamo  # as the first optimizer step does

from tests.stress.trials import Outcome, Trials, Wrong, run

SECTIONS = ("bits", "interrupts", "writers", "sequences", "states", "resume")
SHOWN = 5  # wrong trials of a kind


def prepared(section: str, seed: int, tries: int | None) -> Trials:
    """A section by its name."""
    trials: Trials = importlib.import_module(f"tests.stress.{section}").prepare(seed, tries)
    return trials


def survey(section: str, seed: int, tries: int | None, jobs: int = 1) -> list[Outcome]:
    """What comes of a section's trials."""
    with quiet():
        return list(run(prepared(section, seed, tries), jobs))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's warnings and lines, of which there are many."""
    logger = logging.getLogger("sgdl_wrap")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def main(words: list[str] | None = None) -> int:
    """The command; 1 where anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tries", type=int, help="a section's own number by default")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one trial, with traceback")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--all", action="store_true", help="shows every wrong trial")
    asked = parser.parse_args(words)
    chosen = asked.sections or SECTIONS
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    if asked.only is not None:
        if len(chosen) != 1:
            parser.error("--only needs one section")
        return _repeat(chosen[0], asked.seed, asked.only)
    rows, wrong = [], False
    for section in chosen:
        began = time.perf_counter()
        outcomes = survey(section, asked.seed, asked.tries, asked.jobs)
        failed = sorted((o for o in outcomes if o.kind), key=lambda outcome: outcome.number)
        rows.append((section, len(outcomes), len(outcomes) - len(failed), len(failed)))
        wrong = wrong or bool(failed)
        _tell(section, failed, shown=len(failed) if asked.all else SHOWN)
        print(f"{section}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    print("| section | tries | survived | wrong |\n|---|---|---|---|")
    for row in rows:
        print("| {} | {} | {} | {} |".format(*row))
    return int(wrong)


def _tell(section: str, failed: list[Outcome], shown: int) -> None:
    kinds: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in failed:
        kinds[outcome.kind].append(outcome)
    for kind, those in sorted(kinds.items(), key=lambda pair: -len(pair[1])):
        print(f"{section}: {len(those)} x {kind}")
        for outcome in those[:shown]:
            print(f"    --only {outcome.number}: {outcome.what}")
        if len(those) > shown:
            print(f"    and {len(those) - shown} more, which --all shows")


def _repeat(section: str, seed: int, number: int) -> int:
    try:
        with quiet():
            prepared(section, seed, 0).trial(number)
    except Exception as error:
        traceback.print_exc()
        kind = error.kind if isinstance(error, Wrong) else "undocumented"
        print(f"{section} {number} is wrong: {kind}")
        return 1
    print(f"{section} {number} survives")
    return 0


if __name__ == "__main__":
    sys.exit(main())
