"""The table of the cells, in Markdown and JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.cells.cell import RunKey
from bench.cells.run import NDCG
from bench.measures import CUTOFF
from bench.statistics import mean_and_spread, paired_p_value, recovered_share

TAIL = f"recall_tail@{CUTOFF}"
BASE, BEST = "plain", "clean-only"
HEAD = (
    "cell", "lr, l2", "method", "plain", "denoised", "change", "p below", "clean-only", "regained",
    "tail", "AUC weights / suspicion / within", "AUC rarity", "σ̂", "noise share", "true",
    "switch", "cost watched / unwatched",
)  # fmt: skip
MEDIANS_HEAD = (
    "condition", "method", "cells", "change, median (least)", "regained, median (least)",
    "tail, median (least)", "cost, median watched / unwatched",
)  # fmt: skip
Results = Mapping[RunKey, dict[str, Any]]
Row = dict[str, Any]
BySeed = dict[int, dict[str, Any]]


def write(name: str | Path, results: Results) -> None:
    """Writes NAME.md and NAME.json; a name that ends in .md or .json is taken without that."""
    path = Path(name)
    if path.suffix in (".md", ".json"):
        path = path.with_suffix("")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = table(results)
    text = json.dumps({"cells": rows, "medians": medians(rows)}, indent=1, allow_nan=False)
    # not with_suffix: a name may have a dot in it
    Path(f"{path}.json").write_text(text + "\n", encoding="utf-8")
    Path(f"{path}.md").write_text(markdown(rows), encoding="utf-8")


def table(results: Results) -> list[Row]:
    """A row for each cell, settings and variant of the denoiser.

    Only runs of the same settings and seed are compared. A cell that has no denoised run yet has
    a row if it has one without noise.
    """
    groups: dict[tuple[Any, ...], dict[str, BySeed]] = defaultdict(lambda: defaultdict(dict))
    for run, result in results.items():
        if result.get("test"):
            group = run.data, run.family, run.condition, run.learning_rate, run.l2
            groups[group][run.label][run.seed] = result
    rows = []
    for (data, family, condition, rate, l2), runs in sorted(groups.items()):
        named = {
            "data": data, "family": family, "condition": condition, "learning_rate": rate, "l2": l2
        }  # fmt: skip
        labels = sorted(label for label in runs if label not in (BASE, BEST))
        if not labels and BEST in runs:
            labels = [""]
        for label in labels:
            row = _row(label, runs)
            if row is not None:
                rows.append(named | row)
    return rows


def _row(label: str, runs: Mapping[str, BySeed]) -> Row | None:
    all_plain, all_ours, all_clean = (runs.get(name, {}) for name in (BASE, label, BEST))
    seeds = sorted(set(all_plain) & set(all_ours if label else all_clean))
    if not seeds:
        return None
    ours = [all_ours[seed] for seed in seeds] if label else []
    plain = [all_plain[seed] for seed in seeds]
    of_three = [seed for seed in seeds if seed in all_clean]
    row: Row = {
        "method": label, "seeds": seeds, "plain": _tested(plain), "denoised": _tested(ours),
        "clean-only": _tested(all_clean[seed] for seed in of_three),
        "change": None, "p": None, "regained": None, "tail": None,
    }  # fmt: skip
    if ours:
        row["change"] = _change(row["denoised"], row["plain"])
        row["p"] = p_below(row["denoised"], row["plain"])
        pairs = zip(ours, plain, strict=True)
        tails = [(a["test"].get(TAIL), b["test"].get(TAIL)) for a, b in pairs]
        known = [(a, b) for a, b in tails if a is not None and b is not None]
        row["tail"] = _change([a for a, _ in known], [b for _, b in known])
        if of_three:
            row["regained"] = recovered_share(
                *(float(np.mean(_tested(of[seed] for seed in of_three)))
                  for of in (all_ours, all_plain, all_clean))
            )  # fmt: skip
    for name, look in (("", "looks"), ("_at_best", "looks_at_best")):
        looks = [one.get(look) or {} for one in ours]
        row |= {
            f"weights{name}": _mean(_overall(one, "weights") for one in looks),
            f"weights_within{name}": _mean(_within(one, "weights") for one in looks),
            f"suspicion{name}": _mean(_overall(one, "suspicion") for one in looks),
            f"within{name}": _mean(_within(one, "suspicion") for one in looks),
            f"rarity{name}": _mean(one.get("rarity_auc") for one in looks),
            f"noise_over_clean{name}": _mean(one.get("noise_over_clean") for one in looks),
        }
    shares = [one["noise_share"] for one in ours if one.get("noise_share")]
    return row | {
        "noise_rate": _mean(one.get("noise_rate") for one in ours),
        "share": [float(value) for value in np.mean(shares, axis=0)] if shares else None,
        "true": _mean(one.get("true_share") for one in (ours or plain)),
        "switch": [one.get("memorization_point") for one in ours],
        "cost": _cost(ours, plain, "epoch_seconds"),
        "cost_unwatched": _cost(ours, plain, "unwatched_seconds"),
    }


def _cost(
    ours: Sequence[dict[str, Any]], plain: Sequence[dict[str, Any]], name: str
) -> float | None:
    return _mean(
        one["guided_seconds"] / other[name]
        for one, other in zip(ours, plain, strict=False)  # there may be none of ours
        if one.get("guided_seconds") and other.get(name)
    )


def p_below(values: Sequence[float], reference: Sequence[float]) -> float | None:
    """One-sided p-value of the paired t-test: small if the values are below the reference.

    None with fewer than two pairs, or if all differences are equal.
    """
    both = paired_p_value(values, reference)
    if both is None:
        return None
    return both / 2 if np.mean(values) < np.mean(reference) else 1 - both / 2


def medians(rows: Iterable[Row]) -> list[Row]:
    """For each condition and method, medians over the cells, and the least of them."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["method"]:
            groups[row["condition"], row["method"]].append(row)
    found = []
    for (condition, method), group in sorted(groups.items()):
        one: Row = {"condition": condition, "method": method, "cells": len(group)}
        for name in ("change", "regained", "tail", "cost", "cost_unwatched"):
            known = [row[name] for row in group if row[name] is not None]
            one[name] = float(np.median(known)) if known else None
            one[f"{name}_least"] = float(min(known)) if known else None
        found.append(one)
    return found


def markdown(rows: Sequence[Row]) -> str:
    """The rows, then the medians by condition."""
    lines = ["# Cells", "", "How to read it: bench/README.md.", "", *_head(HEAD)]
    lines += [f"| {' | '.join(_fields(row))} |" for row in rows]
    lines += ["", *_head(MEDIANS_HEAD)]
    for one in medians(rows):
        fields = [
            one["condition"], one["method"], str(one["cells"]),
            *(_with_least(one, name) for name in ("change", "regained", "tail")),
            " / ".join(_number(one[name], 1) or "-" for name in ("cost", "cost_unwatched")),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(fields)} |")
    return "\n".join(lines) + "\n"


def _head(names: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]


def _fields(row: Row) -> list[str]:
    share = "" if row["share"] is None else "{:.2f} to {:.2f}".format(*row["share"])
    return [
        f"{row['family']}, {row['data']}, {row['condition']}",
        f"{row['learning_rate']:g}, {row['l2']:g}", row["method"],
        _spread(row["plain"]), _spread(row["denoised"]), _percent(row["change"]),
        _number(row["p"], 2), _spread(row["clean-only"]),
        "" if row["regained"] is None else f"{row['regained']:.0%}", _percent(row["tail"]),
        " / ".join(_number(row[name], 2) or "-" for name in ("weights", "suspicion", "within")),
        _number(row["rarity"], 2), _number(row["noise_rate"], 2), share, _number(row["true"], 2),
        " ".join("never" if one is None else str(one) for one in row["switch"]),
        " / ".join(_number(row[name], 1) or "-" for name in ("cost", "cost_unwatched")),
    ]  # fmt: skip


def _tested(runs: Iterable[dict[str, Any]]) -> list[float]:
    return [float(one["test"][NDCG]) for one in runs]


def _change(values: Sequence[float], reference: Sequence[float]) -> float | None:
    below = float(np.mean(reference)) if len(reference) else 0.0
    return float(np.mean(values)) / below - 1 if below > 0 else None


def _overall(look: dict[str, Any], name: str) -> float | None:
    return (look.get(name) or {}).get("overall")


def _within(look: dict[str, Any], name: str) -> float | None:
    return (look.get(name) or {}).get("within")


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean, spread = mean_and_spread(values)
    return f"{mean:.4f} ({len(values)})" if spread is None else (
        f"{mean:.4f} ± {spread:.4f} ({len(values)})"
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1%}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _with_least(one: Row, name: str) -> str:
    if one[name] is None:
        return ""
    return f"{_percent(one[name])} ({_percent(one[f'{name}_least'])})"
