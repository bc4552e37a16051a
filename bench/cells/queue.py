"""Runs what is missing in worker processes, one run each at a time."""

from __future__ import annotations

import multiprocessing
import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.cells.cell import Cell, RunKey
from bench.cells.results import Results
from bench.cells.run import NDCG, execute
from bench.cells.tuning import MOST, Point, search

THREADS = 1  # of torch, in each worker
ATTEMPTS = 2  # at a run whose worker was killed, perhaps by what another one did

Execute = Callable[[RunKey, str], dict[str, Any]]
Wanted = Generator[list[RunKey], None, None]


@dataclass(frozen=True)
class Plan:
    """What is asked for in each cell."""

    methods: Sequence[str]
    seeds: Sequence[int]
    variant: str = ""
    tuning: bool = True
    at: Point | None = None  # the settings, in the place of those that tuning finds
    tune_as: str | None = None
    trials: int = MOST


@dataclass
class Queue:
    """The runs of some cells, each made once, however many cells want it.

    Attributes:
        failed: error of each run that failed. The others went on without it.
    """

    results: Results
    plan: Plan
    root: str | None
    provenance: dict[str, str]
    execute: Execute = execute
    failed: dict[RunKey, str] = field(default_factory=dict)

    def run(self, cells: Sequence[Cell], processes: int = 1) -> dict[RunKey, str]:
        """Runs what is missing.

        Args:
            execute: what a worker does; a function of a module, so that it reaches the worker.

        Returns:
            `failed`.
        """
        self._pending: deque[RunKey] = deque()
        self._attempts: dict[RunKey, int] = {}
        self._waiting: list[tuple[set[RunKey], Wanted]] = []
        for cell in cells:
            self._waiting.append((set(), self._wanted(cell)))
        self._advance()
        # spawned: forked children of a process that has used torch may hang
        context = multiprocessing.get_context("spawn")
        while self._pending:
            with ProcessPoolExecutor(processes, context, initializer=_begin) as pool:
                self._with(pool, processes)
        return self.failed

    def _with(self, pool: ProcessPoolExecutor, processes: int) -> None:
        """Until nothing is left, or a worker was killed, with which the whole pool is broken."""
        running: dict[Future[dict[str, Any]], RunKey] = {}
        broken = False
        while running or (self._pending and not broken):
            while self._pending and not broken and len(running) < processes:
                run = self._pending.popleft()
                self.results.refresh()  # another command may have made it by now
                if self.results.get(run) is not None:
                    self._advance()
                    continue
                try:
                    running[pool.submit(self.execute, run, self.root)] = run
                except BrokenProcessPool:
                    self._pending.appendleft(run)
                    broken = True
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                run, error = running.pop(future), future.exception()
                if error is None:
                    self.results.put(run, future.result(), self.provenance)
                    print(f"{run}: {line(future.result())}", flush=True)
                    continue
                self._attempts[run] = self._attempts.get(run, 0) + 1
                if isinstance(error, BrokenProcessPool):
                    broken = True
                    if self._attempts[run] < ATTEMPTS:
                        self._pending.append(run)
                        continue
                self.failed[run] = f"{type(error).__name__}: {error}"
                print(f"{run} failed: {self.failed[run]}", file=sys.stderr, flush=True)
            self._advance()

    def _advance(self) -> None:
        """Lets each cell whose runs are all made say what it wants next."""
        progress = True
        while progress:
            progress, waiting, self._waiting = False, self._waiting, []
            for wanted, cell in waiting:
                left = {run for run in wanted if not self._is_over(run)}
                if left:
                    self._waiting.append((left, cell))
                    continue
                runs = next(cell, None)
                if runs is None:
                    continue
                progress = True
                others = {run for of_other, _ in (*waiting, *self._waiting) for run in of_other}
                missing = [run for run in dict.fromkeys(runs) if not self._is_over(run)]
                self._pending.extend(run for run in missing if run not in others)
                self._waiting.append((set(missing), cell))

    def _is_over(self, run: RunKey) -> bool:
        return run in self.failed or self.results.get(run) is not None

    def _wanted(self, cell: Cell) -> Wanted:
        """The runs of a cell: one trial of the tuning at a time, then all that is asked for."""
        from bench.families import FAMILIES

        settings, plan = FAMILIES[cell.family].settings, self.plan
        point: Point = plan.at or (settings.learning_rate, settings.l2)
        if plan.tuning and plan.at is None:
            tuned_in = Cell(cell.family, cell.data, plan.tune_as or cell.condition)
            trials = search(point, most=plan.trials)
            trial = next(trials)
            while True:
                run = tuned_in.run("plain", 0, trial)
                yield [run]
                try:
                    trial = trials.send(_value(self.results.get(run)))
                except StopIteration as stop:
                    tuned = stop.value
                    break
            point = tuned.point
            if not tuned.inside:
                print(
                    f"{tuned_in}: the trials ran out, so the best settings, lr {point[0]:g} l2 "
                    f"{point[1]:g}, are at an edge of what was tried",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
        yield [
            cell.run(method, seed, point, plan.variant if method == "sgdl" else "")
            for seed in plan.seeds
            for method in plan.methods
            if (method, cell.condition) != ("clean-only", "clean")  # plain is the same
        ]


def _value(result: dict[str, Any] | None) -> float:
    """What the tuning compares; a trial that failed is worse than any other."""
    found = None if result is None else result.get("valid")
    return float("-inf") if found is None else float(found)


def line(result: dict[str, Any]) -> str:
    """A run's result on a line."""
    test = result["test"].get(NDCG)
    text = (
        f"valid {result['valid']:.4f}, test {'none' if test is None else f'{test:.4f}'}, epoch "
        f"{result['best_epoch']} of {result['n_epochs']}"
    )
    if result.get("epoch_seconds") is not None:
        text += f", {result['epoch_seconds']:.2f} s an epoch"
    if result.get("memorization_point") is not None:
        text += f", switch at {result['memorization_point']}"
    return text


def _begin() -> None:
    """One thread; and a worker ends with its command, else it would go on for nobody."""
    from bench.study.workers import end_with_parent

    torch.set_num_threads(THREADS)
    end_with_parent()
