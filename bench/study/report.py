"""The table of a comparison, as far as its runs are done, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from statistics import mean, median
from typing import Any

from bench.statistics import mean_and_spread, paired_p_value, recovered_share
from bench.study.run import RunResult
from bench.study.store import ResultStore
from bench.study.study import Cell

METRICS = {"recall@5": "R@5", "recall@20": "R@20", "ndcg@5": "N@5", "ndcg@20": "N@20"}
MAIN_METRIC = "ndcg@20"
RECOVERED = {"recovered_ndcg@20": "ndcg@20", "recovered_recall@20": "recall@20"}
"""Recovered shares of a row, each with its metric."""


def summary(
    cells: Sequence[Cell], store: ResultStore, *, reference: str = "plain"
) -> list[dict[str, Any]]:
    """One entry a cell whose final runs are done, with what is reported of it.

    Args:
        reference: the row of a table that its others are compared with.
    """
    rows = []
    for _, group in _by_table(cells):
        done = {cell.label: (cell, cell.results(store)) for cell in group}
        compared = _values(done.get(reference))
        for method, (cell, results) in done.items():
            if results is None:
                continue
            values = _values((cell, results))
            chosen = cell.chosen(store)
            row: dict[str, Any] = {
                "data": cell.data,
                "condition": cell.condition,
                "model": cell.model,
                "method": method,
                "seeds": list(cell.seeds),
                "chosen": None if chosen is None else asdict(chosen),
                "valid": mean(result.best_valid for result in results),
                "best_epochs": [result.best_epoch for result in results],
                "epoch_cpu_seconds": _median_cpu_seconds(results),
            }
            for metric in METRICS:
                row[metric] = mean_and_spread([result.test[metric] for result in results])
            if compared and method != reference:
                row[f"over_{reference}"] = mean(values) / mean(compared) - 1
                row["p_value"] = paired_p_value(values, compared)
            if method not in ("plain", "clean_only"):
                for name, metric in RECOVERED.items():
                    row[name] = _recovered(metric, results, done)
            if cell.method == "sgdl":
                row["memorization_points"] = [result.memorization_point for result in results]
                row["noise_rates"] = [result.noise_rate for result in results]
                row["aucs"] = [result.final_auc for result in results]
            rows.append(row)
    return rows


def markdown(rows: Sequence[dict[str, Any]], *, reference: str = "plain") -> str:
    """The rows as tables, one for each data, condition and model."""
    lines: list[str] = []
    several = len({row["data"] for row in rows}) > 1
    for (data, condition, model), grouped in groupby(
        rows, lambda row: (row["data"], row["condition"], row["model"])
    ):
        group = list(grouped)
        columns = _columns(group, reference)
        lines += [
            f"### {f'{data}, ' if several else ''}{model}, {condition}",
            "",
            "| method | " + " | ".join(columns) + " |",
            "|---" * (len(columns) + 1) + "|",
        ]
        for row in group:
            cells = [row["method"], *(write(row) for write in columns.values())]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def provenances(cells: Sequence[Cell], store: ResultStore) -> list[dict[str, str]]:
    """The different commits and versions that the finished runs came from, in order."""
    found: list[dict[str, str]] = []
    for cell in cells:
        for run in [*cell.tuning_runs(), *(cell.final_runs(store) or [])]:
            if store.get(run) is not None and (origin := store.provenance(run)) not in found:
                found.append(origin)
    return found


def _by_table(cells: Sequence[Cell]) -> Iterator[tuple[tuple[str, str, str], list[Cell]]]:
    for table, group in groupby(cells, lambda cell: (cell.data, cell.condition, cell.model)):
        yield table, list(group)


def _values(
    done: tuple[Cell, list[RunResult] | None] | None, metric: str = MAIN_METRIC
) -> list[float]:
    results = None if done is None else done[1]
    return [result.test[metric] for result in results or []]


def _recovered(
    metric: str,
    results: Sequence[RunResult],
    done: Mapping[str, tuple[Cell, list[RunResult] | None]],
) -> float | None:
    """The recovered share in one metric, None where it is not defined."""
    plain, ceiling = (_values(done.get(name), metric) for name in ("plain", "clean_only"))
    if not plain or not ceiling:
        return None
    return recovered_share(
        mean(result.test[metric] for result in results), mean(plain), mean(ceiling)
    )


def _median_cpu_seconds(results: Sequence[RunResult]) -> float | None:
    known = [result.epoch_cpu_seconds for result in results if result.epoch_cpu_seconds is not None]
    return median(known) if known else None


def _columns(
    rows: Sequence[dict[str, Any]], reference: str
) -> dict[str, Callable[[dict[str, Any]], str]]:
    """Headers, each with what it writes of a row."""

    def of_metric(metric: str) -> Callable[[dict[str, Any]], str]:
        def written(row: dict[str, Any]) -> str:
            centre, spread = row[metric]
            return f"{centre:.4f}" if spread is None else f"{centre:.4f} ± {spread:.4f}"

        return written

    def optional(key: str, form: str) -> Callable[[dict[str, Any]], str]:
        return lambda row: "" if row.get(key) is None else format(row[key], form)

    columns = {name: of_metric(metric) for metric, name in METRICS.items()}
    columns[f"N@20 over {reference}"] = optional(f"over_{reference}", "+.1%")
    columns["p"] = optional("p_value", ".2g")
    if all("memorization_points" in row for row in rows):  # SGDL and what is changed of it
        columns["switch after"] = lambda row: ", ".join(
            "never" if epoch is None else str(epoch) for epoch in row["memorization_points"]
        )
    else:
        for name, metric in RECOVERED.items():
            columns[f"recovered, {METRICS[metric]}"] = optional(name, ".0%")
    columns["chosen"] = _chosen
    columns["best epochs"] = lambda row: ", ".join(map(str, row["best_epochs"]))
    columns["CPU s/epoch"] = optional("epoch_cpu_seconds", ".2f")
    return columns


def _chosen(row: dict[str, Any]) -> str:
    chosen = row["chosen"]
    options = "".join(f", {name} {value}" for name, value in chosen["options"].items())
    return f"lr {chosen['learning_rate']:g}, L2 {chosen['l2']:g}{options}"
