"""Runs what is missing in worker processes, one run each at a time."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from bench.provenance import current_provenance
from bench.study.run import execute_from
from bench.study.run_settings import RunSettings, changed_options
from bench.study.store import ResultStore
from bench.study.study import Cell, next_run

Execute = Callable[[str, RunSettings], dict[str, Any]]


def run_missing(
    source: str,
    cells: Sequence[Cell],
    store: ResultStore,
    *,
    processes: int,
    execute: Execute = execute_from,
) -> dict[str, str]:
    """Runs every missing run of the cells and stores it as soon as it is done.

    Args:
        source: where the data is, as `load_data` takes it.
        processes: number of worker processes, each with one thread of torch.
        execute: what a worker does; a function of a module, so that it reaches the worker.

    Returns:
        Key and error of each run that failed; the others went on without it. A worker that is
        killed takes with it what the others were at, too.
    """
    provenance = current_provenance()  # of the start: later changes do not reach the workers
    failed: dict[str, str] = {}
    running: dict[Future[dict[str, Any]], RunSettings] = {}
    progress = _Progress(cells, store)
    # Forked children of a process that has used torch may hang; spawned ones start afresh.
    context = multiprocessing.get_context("spawn")
    while (run := next_run(cells, store, set(failed))) is not None:
        broken = False
        with ProcessPoolExecutor(processes, context, initializer=end_with_parent) as pool:
            while run is not None or running:
                try:
                    while run is not None and len(running) < processes:
                        running[pool.submit(execute, source, run)] = run
                        run = next_run(cells, store, {r.key for r in running.values()} | {*failed})
                except BrokenProcessPool:  # which fails all that is under way
                    broken = True
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    ended = running.pop(future)
                    error = future.exception()
                    if error is None:
                        store.put(ended, future.result(), provenance)
                        progress.finished(ended, future.result())
                        continue
                    broken |= isinstance(error, BrokenProcessPool)
                    failed[ended.key] = f"{type(error).__name__}: {error}"
                    progress.say(f"{ended.key} failed: {failed[ended.key]}")
                busy = {r.key for r in running.values()} | {*failed}
                run = None if broken else next_run(cells, store, busy)
    return failed


def end_with_parent() -> None:
    """A worker whose command was killed would go on for minutes, for nobody."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class _Progress:
    """On one line of a terminal, or else a line a run."""

    def __init__(self, cells: Sequence[Cell], store: ResultStore) -> None:
        self._total = sum(cell.n_runs() for cell in cells)
        self._done = sum(
            store.get(run) is not None
            for cell in cells
            for run in [*cell.tuning_runs(), *(cell.final_runs(store) or [])]
        )
        self._start, self._new = time.perf_counter(), 0

    def finished(self, run: RunSettings, result: dict[str, Any]) -> None:
        self._done += 1
        self._new += 1
        per_run = (time.perf_counter() - self._start) / self._new
        left = per_run * (self._total - self._done) / 60
        self.say(
            f"{self._done}/{self._total} runs, about {left:.0f} min left; {run.condition} "
            f"{run.model} {run.method} seed {run.seed} lr {run.learning_rate:g} l2 {run.l2:g} "
            f"{changed_options(run) or ''}: valid {result['best_valid']:.4f}, test "
            f"{result['test']['ndcg@20']:.4f} (epoch {result['best_epoch']}/{result['n_epochs']}, "
            f"{result['seconds']:.0f} s)"
        )

    def say(self, text: str) -> None:
        if sys.stdout.isatty():
            print(f"\r\033[K{text[:200]}", end="", flush=True)
        else:
            print(text, flush=True)
