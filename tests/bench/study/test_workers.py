from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.study.run_settings import RunSettings
from bench.study.store import ResultStore
from bench.study.study import Cell
from bench.study.workers import run_missing
from tests.bench.study.results import made_up

CELLS = [Cell("d", "neumf", "natural", method, (100,), (0, 1)) for method in ("plain", "sgdl")]


def pretend(source: str, run: RunSettings) -> dict[str, Any]:
    if run.method == "sgdl" and run.seed == 1:
        raise FloatingPointError("no number")
    best = run.learning_rate == 0.003 and run.l2 == 0.01
    result = asdict(made_up(valid=0.9 if best else 0.1, test=float(run.seed)))
    with Path(source).open("a") as log:
        log.write(f"{os.getpid()} {run.key}\n")
    return result


def test_runs_all_that_is_missing_in_other_processes_and_survives_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, log = ResultStore(tmp_path / "runs"), tmp_path / "log"
    failed = run_missing(str(log), CELLS, store, processes=2, execute=pretend)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert str(os.getpid()) not in {process for process, _ in lines}
    assert len({key for _, key in lines}) == len(lines) == 2 * 6 + 4 - 1
    finals = CELLS[0].final_runs(store)
    assert finals is not None
    assert {(run.learning_rate, run.l2) for run in finals} == {(0.003, 0.01)}
    assert CELLS[0].results(store) is not None

    assert list(failed.values()) == ["FloatingPointError: no number"]
    (key,) = failed
    assert key.startswith("neumf-natural-sgdl-seed1-")
    printed = capsys.readouterr().out
    assert "15/16 runs" in printed
    assert f"{key} failed: FloatingPointError: no number" in printed

    again = run_missing(str(log), CELLS, store, processes=1, execute=pretend)
    assert list(again) == [key]
    assert len(log.read_text().splitlines()) == len(lines)


def hang(source: str, run: RunSettings) -> dict[str, Any]:
    with open(source, "w") as pipe:  # which ends with this process
        pipe.write("begun\n")
        pipe.flush()
        threading.Event().wait()
    return {}


def command(pipe: str, folder: str) -> None:
    run_missing(pipe, CELLS, ResultStore(folder), processes=1, execute=hang)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="waits at a pipe with a name")
def test_workers_end_with_a_command_that_is_killed(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    killed = subprocess.Popen(
        [sys.executable, "-c",
         "import sys; from tests.bench.study.test_workers import command; command(*sys.argv[1:])",
         str(pipe), str(tmp_path / "runs")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,  # where Python tells of what the killed one left behind
    )  # fmt: skip
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert select.select([reader], [], [], 120)[0], "no worker has begun"
        assert os.read(reader, 100) == b"begun\n"
        killed.send_signal(signal.SIGKILL)
        assert select.select([reader], [], [], 60)[0], "the worker lives on"
        assert os.read(reader, 100) == b""  # nobody holds the other end
    finally:
        os.close(reader)
        killed.kill()
        killed.wait()


def die(source: str, run: RunSettings) -> dict[str, Any]:
    if run.method == "sgdl" and run.seed == 1:
        os._exit(1)
    return pretend(source, run)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_that_dies_is_replaced(tmp_path: Path, processes: int) -> None:
    store, log = ResultStore(tmp_path / "runs"), tmp_path / "log"
    # the one that dies comes first, so that others are left to do
    for run in CELLS[1].tuning_runs():
        store.put(run, pretend(str(log), run), {})
    order = [CELLS[1], CELLS[0]]
    failed = run_missing(str(log), order, store, processes=processes, execute=die)
    dead = {key: error for key, error in failed.items() if "-sgdl-seed1-" in key}
    assert len(dead) == 1
    assert next(iter(dead.values())).startswith("BrokenProcessPool")
    assert len(failed) <= processes
    missing = {run.key for cell in order for run in cell.missing(store)}
    assert missing <= set(failed) | {run.key for run in CELLS[0].final_runs(store) or []}
    again = run_missing(str(log), order, store, processes=1, execute=die)
    assert list(again) == list(dead)
    assert CELLS[0].results(store) is not None
