"""Peak memory of training, each variant in a process of its own.

The peak is the high-water mark of resident memory (VmHWM), set back after the data and the
variant are built, so that it covers what is held and what steps need on top. `ru_maxrss` cannot be
set back, and a child inherits its parent's; it serves where there is no /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from bench.speed.cases import CASES, Case
from bench.speed.variants import denoised, make, memorizing, watch_epoch
from bench.speed.workload import build

STATUS = Path("/proc/self/status")


def peak_mib(case: Case, variant: str, folder: str | None, steps: int) -> float | None:
    """The peak of `steps` steps of a variant, in MiB; None where the process failed."""
    command = [sys.executable, "-m", "bench.speed.memory", case.name, variant, str(steps)]
    if folder is not None:
        command += ["--data", str(Path(folder).resolve())]
    if case.toy:
        command.append("--quick")
    # freed blocks go back to the system at once, else the mark counts what was freed before it
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        print(f"{case.name}, memory of {variant}: {done.stderr.strip()}", file=sys.stderr)
        return None
    return float(json.loads(done.stdout.splitlines()[-1]))


def main(arguments: list[str] | None = None) -> None:
    """Measures one variant in this process and prints its peak in MiB."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("variant")
    parser.add_argument("steps", type=int)
    parser.add_argument("--data")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    import sklearn.mixture  # noqa: F401  Phase I loads it: its code is on both sides

    torch.set_num_threads(1)
    case = CASES[options.case].shrunk() if options.quick else CASES[options.case]
    workload = build(case, options.data)
    denoiser = memorizing(workload) if options.variant == "phase1" else None
    step = make(options.variant, workload) if denoiser is None else denoised(workload, denoiser)
    set_mark_back()
    for number in range(options.steps):
        step(workload.batches[number % len(workload.batches)])
    if denoiser is not None:  # the end of an epoch belongs to Phase I
        watch_epoch(denoiser, workload)
        denoiser.end_epoch()
    print(json.dumps(mark_mib()))


def set_mark_back() -> None:
    with contextlib.suppress(OSError):  # the mark then covers the building too
        Path("/proc/self/clear_refs").write_text("5")


def mark_mib() -> float:
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource  # no such module on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    main()
