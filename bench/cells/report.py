"""The table of the cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy.stats import ttest_rel  # type: ignore[import-untyped]

from bench.cells.run import Run
from examples.reproduction.statistics import recovered_share

Rows = list[dict[str, Any]]
HEAD = (
    "cell", "method", "plain", "denoised", "change", "p below", "clean-only", "regained",
    "tail", "AUC weights / suspicion / within", "AUC rarity", "σ̂", "noise share", "true",
    "switch", "cost",
)  # fmt: skip


def markdown(results: Mapping[Run, dict[str, Any]]) -> str:
    """A row a cell and variant, then medians by condition."""
    rows = table(results)
    lines = ["# Cells", "", "How to read it: bench/README.md.", "",
             f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    for row in rows:
        lines.append(f"| {' | '.join(_cells(row))} |")
    head = ("condition", "method", "cells", "change, median (least)", "regained, median (least)",
            "tail, mean (least)")
    lines += ["", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    groups: dict[tuple[str, str], Rows] = defaultdict(list)
    for row in rows:
        groups[row["condition"], row["method"]].append(row)
    for (condition, method), group in sorted(groups.items()):
        change = [row["change"] for row in group]
        regained = [row["regained"] for row in group if row["regained"] is not None]
        tail = [row["tail"] for row in group if row["tail"] is not None]
        lines.append(
            f"| {condition} | {method} | {len(group)} | {_middle(change)} | {_middle(regained)} | "
            f"{np.mean(tail):+.1%} ({min(tail):+.1%}) |" if tail else
            f"| {condition} | {method} | {len(group)} | {_middle(change)} | {_middle(regained)} | |"
        )
    return "\n".join(lines) + "\n"


def table(results: Mapping[Run, dict[str, Any]]) -> Rows:
    """What is compared are runs of the same settings and seed."""
    by_cell: dict[tuple[Any, ...], dict[tuple[str, int], dict[str, Any]]] = defaultdict(dict)
    for run, result in results.items():
        if "error" not in result and result["test"]:
            cell = run.data, run.family, run.condition, run.learning_rate, run.l2
            by_cell[cell][f"{run.method}[{run.variant}]", run.seed] = result
    rows = []
    for (data, family, condition, _, _), runs in sorted(by_cell.items()):
        for method in sorted({name for name, _ in runs if name.startswith("sgdl")}):
            seeds = sorted(s for name, s in runs if name == method and ("plain[]", s) in runs)
            if seeds:
                rows.append(_row(data, family, condition, method, seeds, runs))
    return rows


def _row(
    data: str, family: str, condition: str, method: str, seeds: list[int],
    runs: dict[tuple[str, int], dict[str, Any]],
) -> dict[str, Any]:
    ours, plain = [[runs[name, seed] for seed in seeds] for name in (method, "plain[]")]
    clean = [runs["clean-only[]", s] for s in seeds if ("clean-only[]", s) in runs]
    a, b = _metric(ours, "ndcg@20"), _metric(plain, "ndcg@20")
    c = _metric(clean, "ndcg@20")
    p = None
    if len(a) > 1 and np.ptp(np.subtract(a, b)) > 0:
        p = float(ttest_rel(a, b, alternative="less").pvalue)
    tails = _metric(ours, "recall_tail@20"), _metric(plain, "recall_tail@20")
    looks = [one["looks"] for one in ours]
    return {
        "data": data, "family": family, "condition": condition, "method": method.removesuffix("[]"),
        "seeds": seeds, "plain": b, "denoised": a, "clean-only": c,
        "change": np.mean(a) / np.mean(b) - 1, "p": p,
        "regained": recovered_share(float(np.mean(a)), float(np.mean(b)), float(np.mean(c)))
        if len(c) == len(a) else None,
        "tail": np.mean(tails[0]) / np.mean(tails[1]) - 1
        if tails[0] and tails[1] and np.mean(tails[1]) > 0 else None,
        "weights": _mean(look.get("weights", {}).get("overall") for look in looks),
        "suspicion": _mean(look.get("suspicion", {}).get("overall") for look in looks),
        "within": _mean(look.get("suspicion", {}).get("within") for look in looks),
        "rarity": _mean(look.get("rarity_auc") for look in looks),
        "noise_rate": _mean(one["noise_rate"] for one in ours),
        "share": [one["noise_share"] for one in ours if one.get("noise_share")],
        "true": _mean(one["true_share"] for one in ours),
        "switch": [one["memorization_point"] for one in ours],
        "cost": _mean(
            one["guided_seconds"] / other["epoch_seconds"]
            for one, other in zip(ours, plain, strict=True) if one["guided_seconds"]
        ),
    }  # fmt: skip


def _metric(runs: Iterable[dict[str, Any]], name: str) -> list[float]:
    return [one["test"][name] for one in runs if one["test"].get(name) is not None]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _cells(row: dict[str, Any]) -> list[str]:
    share = ""
    if row["share"]:
        low, high = np.mean(row["share"], axis=0)
        share = f"{low:.2f} to {high:.2f}"
    return [
        f"{row['family']}, {row['data']}, {row['condition']}", row["method"],
        _spread(row["plain"]), _spread(row["denoised"]), f"{row['change']:+.1%}",
        _number(row["p"], 2), _spread(row["clean-only"]),
        "" if row["regained"] is None else f"{row['regained']:.0%}",
        "" if row["tail"] is None else f"{row['tail']:+.1%}",
        " / ".join(_number(row[name], 2) for name in ("weights", "suspicion", "within")),
        _number(row["rarity"], 2), _number(row["noise_rate"], 2), share, _number(row["true"], 2),
        " ".join(str(one) for one in row["switch"]), _number(row["cost"], 1),
    ]


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    mean = f"{np.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.4f} ({len(values)})"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _middle(values: list[float]) -> str:
    return f"{np.median(values):+.1%} ({min(values):+.1%})" if values else ""
