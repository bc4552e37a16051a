"""What comes out: the JSON with every number, and the Markdown table for docs/performance.md."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

COLUMNS = (
    "row", "threads", "plain step, ms", "Phase I step", "Phase I end of epoch",
    "Phase II lstm", "Phase II mlp", "Phase II top_f", "Phase II none", "Phase II fast",
    "memory Phase I, MiB", "memory Phase II, MiB", "memory fast, MiB",
    "loop of autograd.grad", "full unroll",
)  # fmt: skip
STEP_COLUMNS = ("lstm", "mlp", "top_f", "none", "fast")
MODELS = {
    "neumf": "NeuMF", "lightgcn": "LightGCN", "two-tower": "two-tower MLP",
    "mf": "matrix factorisation",
}  # fmt: skip
NOTES = """\
Every number but the first and the memory is a ratio to the plain step of the same process: steps of
all variants are taken in turn on the same batches, zero_grad and the optimizer's step included on
both sides, and medians are compared. The end of an epoch is `end_epoch()` after a loss of every
pair was seen, as a share of an epoch of plain steps. Phase II is the whole step with default
settings but for the scheduler; four of five interactions are memorized, by planted scores. Memory
is by how much the peak of resident memory (VmHWM, set back before the first step) of a process that
trains so exceeds that of one that trains plainly, on one thread, the same libraries loaded; Phase I
includes the end of an epoch, Phase II is the lstm. For scale: one `autograd.grad` for each sample
of the batch on top of a plain step, measured on eight samples and multiplied up; and a full unroll
of the assumed update through `higher`, without scheduler or gradient factor. Rows with † are large:
their variants are measured one at a time beside plain, and a machine with little memory may leave
them out (`--rows small`).
"""


def environment() -> dict[str, Any]:
    """What the numbers depend on besides the code, and which code it was."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "commit": _commit(),
    }


def markdown(found: dict[str, Any]) -> str:
    """The table, with a line on the environment above and notes below it."""
    about = found["environment"]
    lines = [
        f"torch {about['torch']}, Python {about['python']}, numpy {about['numpy']}, "
        f"{about['cpu']}, {about['cores']} cores, commit {about['commit'] or 'unknown'}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---|" + "---:|" * (len(COLUMNS) - 1),
        *(f"| {' | '.join(_cells(row))} |" for row in found["rows"]),
        "",
        NOTES,
    ]
    failed = [
        f"- {row['row']}, {row['threads']} threads, {name}: {' '.join(reason.split())}"
        for row in found["rows"]
        for name, reason in row["failed"].items()
    ]
    if failed:
        lines += ["Without a number, because it raised:", "", *failed, ""]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    steps, memory = row["steps"], row["memory_mib"]
    end = row["end_of_epoch"]
    return [
        label(row),
        str(row["threads"]),
        f"{row['plain_ms']['median']:.2f}",
        _ratio(steps.get("phase1")),
        _ratio(end),
        *(_ratio(steps.get(name)) for name in STEP_COLUMNS),
        *(_mib(memory.get(name)) for name in ("phase1", "lstm", "fast")),
        _ratio(row["loop"]),
        _ratio(steps.get("unroll")),
    ]


def label(row: dict[str, Any]) -> str:
    """What a row is: "NeuMF, 497 x 1683, batch 128, Adam"."""
    mark = " †" if row["large"] else ""
    return (
        f"{MODELS[row['model']]}, {_short(row['users'])} x {_short(row['items'])}, "
        f"batch {row['batch_size']}, {row['optimizer']}{mark}"
    )


def _short(count: int) -> str:
    # 497 -> 497, 50_000 -> 50k, 2_500_000 -> 2.5M
    if count >= 1_000_000:
        return f"{count / 1e6:g}M"
    return f"{count / 1e3:g}k" if count >= 10_000 or count % 1000 == 0 else str(count)


def _ratio(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "–"
    ratio = entry["ratio"]
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.2f}"


def _mib(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """HEAD, with a + where tracked files differ from it; None outside a repository."""
    folder = Path(__file__).resolve().parent
    answers = []
    for question in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(
                ["git", *question], cwd=folder, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        answers.append(done.stdout.strip())
    return answers[0] + ("+" if answers[1] else "")
