"""Trials by number: each is repeatable by itself, and runs in a process that may die of it."""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PATIENCE = 120  # seconds for one trial
ROOM = 6 << 30  # bytes of address space beyond what the parent has


class Wrong(Exception):
    """A promise is broken.

    Args:
        kind: what a count is made of.
        what: one line on this case.
    """

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind, self.what = kind, " ".join(what.split())[:400]


class Trials(NamedTuple):
    """A section that is ready: the numbers of its trials, and what does one of them."""

    numbers: Sequence[int]
    trial: Callable[[int], None]  # raises Wrong
    alone: bool = False  # each in a process of its own: one may spoil the memory of the next


@dataclass(frozen=True)
class Outcome:
    """What came of a trial; the kind is empty where it survived."""

    number: int
    kind: str = ""
    what: str = ""


def told(error: BaseException) -> str:
    """An error in one line, with the innermost line of the library that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/sgdl_wrap/" in frame.filename] or list(frames)
    at = f" ({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else ""
    return f"{type(error).__name__}{at}: {error}"


def do(trial: Callable[[int], None], number: int) -> Outcome:
    """One trial, here."""
    try:
        trial(number)
    except Wrong as wrong:
        return Outcome(number, wrong.kind, wrong.what)
    except Exception as error:
        what = " ".join(told(error).split())
        return Outcome(number, f"undocumented {type(error).__name__}", what)
    return Outcome(number)


def run(trials: Trials, jobs: int) -> Iterator[Outcome]:
    """All trials, in forks of this process; one that dies counts as wrong, the others go on."""
    watched = selectors.DefaultSelector()
    for job in range(jobs):
        numbers = list(trials.numbers[job::jobs])
        if numbers:
            _Worker(trials, numbers).watched_by(watched)
    while watched.get_map():
        for key, _ in watched.select():
            worker: _Worker = key.data
            line = worker.pipe.readline()
            if line:
                worker.numbers.pop(0)
                yield Outcome(*json.loads(line))
                continue
            watched.unregister(worker.pipe)
            worker.pipe.close()
            status = os.waitpid(worker.process, 0)[1]
            if status and worker.numbers:
                number = worker.numbers.pop(0)
                death = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
                name = "hangs" if death == signal.SIGALRM else "kills the process"
                yield Outcome(number, name, signal.Signals(death).name if death else "exit")
            if worker.numbers:
                _Worker(trials, worker.numbers).watched_by(watched)


class _Worker:
    """A fork that does trials, one after another, and writes a line for each."""

    def __init__(self, trials: Trials, numbers: list[int]) -> None:
        self.numbers = numbers
        here, there = os.pipe()
        sys.stdout.flush()
        self.process = os.fork()
        if self.process == 0:
            os.close(here)
            try:
                _limit_memory()
                for number in numbers[:1] if trials.alone else numbers:
                    signal.alarm(PATIENCE)
                    outcome = do(trials.trial, number)
                    line = json.dumps([outcome.number, outcome.kind, outcome.what]) + "\n"
                    os.write(there, line.encode())
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(there)
        self.pipe = os.fdopen(here, "rb", buffering=0)

    def watched_by(self, selector: selectors.DefaultSelector) -> None:
        selector.register(self.pipe, selectors.EVENT_READ, self)


def _limit_memory() -> None:
    """A file or state that asks for gigabytes is a wrong trial, and not the machine's end."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        import resource  # of Unix alone

        has = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (has + ROOM, hard))
