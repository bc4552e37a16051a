"""One row of the table: everything that is measured of one case at one number of threads."""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from bench.speed.memory import peak_mib
from bench.speed.naive import sample_gradient_ms
from bench.speed.timing import CYCLE, LARGE_CYCLE, Spread, in_turn
from bench.speed.variants import (
    Step,
    denoised,
    make,
    memorizing,
    variant_names,
    watch_epoch,
)
from bench.speed.workload import Workload
from sgdl_wrap import DenoiserConfig, DenoiserError, SelfGuidedDenoiser

VISITS = 6  # rounds of the pool before measuring: optimizers and guidance have their state by then
MEMORY_VARIANTS = ("phase1", "lstm", "fast")


def measure(workload: Workload, *, threads: int, steps: int) -> dict[str, Any]:
    """Times of one case, memory apart. Ratios are medians over the median plain step.

    Args:
        threads: of torch.
        steps: measured of each variant, in rounds of CYCLE; in a large case in at most three
            rounds of LARGE_CYCLE.

    Returns:
        A row as it stands in the JSON: the case, `plain_ms`, under `steps` each variant's median,
        quartiles and ratio, under `end_of_epoch` that of Phase I and the time of the model's
        scores alone, under `loop` the loop of autograd.grad, and under `failed` the variants that
        raised, with the reason.
    """
    case = workload.case
    torch.set_num_threads(threads)
    rounds = max(1, steps // CYCLE)
    if case.large:
        rounds = min(rounds, 3)
    row = _header(workload, threads, rounds)
    others = [name for name in variant_names() if name != "plain"]
    groups = [[name] for name in others] if case.large else [others]
    for group in groups:
        _measure_group(row, workload, group, rounds)
        gc.collect()  # higher's functional models are cycles
    row["loop"] = _loop(workload, row["plain_ms"]["median"])
    return row


def _header(workload: Workload, threads: int, rounds: int) -> dict[str, Any]:
    case = workload.case
    return {
        "row": case.name,
        "model": case.model,
        "data": workload.data_name,
        "users": workload.n_users,
        "items": workload.n_items,
        "pairs": len(workload.users),
        "parameters": sum(p.numel() for p in workload.initial.parameters()),
        "batch_size": len(workload.batches[0][0]),
        "optimizer": case.optimizer,
        "large": case.large,
        "threads": threads,
        "rounds": rounds,
        "plain_ms": None,
        "steps": {},
        "end_of_epoch": None,
        "loop": None,
        "failed": {},
    }


def _measure_group(
    row: dict[str, Any], workload: Workload, names: list[str], rounds: int
) -> None:
    """Some variants and plain, in turn; what raises is noted and left out."""
    steps: dict[str, Step] = {}
    denoiser: SelfGuidedDenoiser | None = None
    for name in ["plain", *names]:
        try:
            if name == "phase1":
                denoiser = memorizing(workload)
                steps[name] = denoised(workload, denoiser)
            else:
                steps[name] = make(name, workload)
            for batch in workload.batches * VISITS:
                steps[name](batch)
        except (DenoiserError, RuntimeError, ValueError) as error:
            if name == "plain":
                raise
            row["failed"][name] = f"{type(error).__name__}: {error}"
            print(f"{row['row']}, {name}: {row['failed'][name]}", file=sys.stderr)
            steps.pop(name, None)
    cycle = LARGE_CYCLE if workload.case.large else CYCLE
    times = in_turn(steps, workload.batches, rounds, cycle)
    plain = Spread.of(times.pop("plain"))
    row["plain_ms"] = row["plain_ms"] or asdict(plain)  # of the first group, beside Phase I
    for name, taken in times.items():
        spread = Spread.of(taken)
        row["steps"][name] = {
            "ms": asdict(spread),
            "plain_ms": asdict(plain),
            "ratio": spread.median / plain.median,
        }
    if denoiser is not None and "phase1" in steps:
        row["end_of_epoch"] = _end_of_epoch(workload, denoiser, plain)


def _end_of_epoch(
    workload: Workload, denoiser: SelfGuidedDenoiser, plain: Spread, times: int = 3
) -> dict[str, Any]:
    """`end_epoch()` after a whole epoch's losses, as a share of an epoch of plain steps."""
    taken = []
    for _ in range(times):
        watch_epoch(denoiser, workload)
        start = time.perf_counter()
        denoiser.end_epoch()
        taken.append(1000 * (time.perf_counter() - start))
    spread = Spread.of(taken)
    epoch_ms = workload.steps_per_epoch * plain.median
    scores = Spread.of([_scores_ms(workload, denoiser.model) for _ in range(times)])
    return {
        "ms": asdict(spread),
        "scores_ms": asdict(scores),
        "plain_epoch_ms": epoch_ms,
        "ratio": spread.median / epoch_ms,
    }


def _scores_ms(workload: Workload, model: nn.Module) -> float:
    """What the model takes for two pairs an interaction: the part of an end of epoch that is its.

    Users in order and in the chunks of the default settings; which items does not matter.
    """
    users = workload.users.repeat_interleave(2).sort().values
    items = torch.stack([workload.items, workload.items.flip(0)], dim=1).flatten()
    chunk = DenoiserConfig().ranking_chunk
    training = model.training
    model.eval()
    start = time.perf_counter()
    with torch.no_grad():
        for first in range(0, len(users), chunk):
            model(users[first : first + chunk], items[first : first + chunk])
    taken = time.perf_counter() - start
    model.train(training)
    return 1000 * taken


def _loop(workload: Workload, plain_ms: float) -> dict[str, Any]:
    """A plain step and one autograd.grad per sample of the batch, multiplied up from a few."""
    per_sample = sample_gradient_ms(workload)
    total = plain_ms + per_sample * len(workload.batches[0][0])
    return {"per_sample_ms": per_sample, "ms": total, "ratio": total / plain_ms}


def measure_memory(workload: Workload, folder: str | None) -> dict[str, float | None]:
    """Peak MiB of plain training, and by how much Phase I, Phase II and `fast` exceed it.

    Every pass round the pool is a few steps; the peak is reached in the second, when optimizers
    and histories exist.
    """
    steps = 2 * workload.case.pool + 2
    plain = peak_mib(workload.case, "plain", folder, steps)
    found: dict[str, float | None] = {"plain": plain}
    for name in MEMORY_VARIANTS:
        if name in variant_names():
            peak = peak_mib(workload.case, name, folder, steps)
            found[name] = None if peak is None or plain is None else peak - plain
    return found
