"""Which runs a comparison needs, which of them may run now, and what they say when all are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import Any

from bench.methods import METHODS
from bench.study.grids import BENCHES, Trial, trials
from bench.study.run import RunResult
from bench.study.run_settings import Defaults, RunSettings, settings_of
from bench.study.store import ResultStore


@dataclass(frozen=True)
class Cell:
    """One method with one model under one condition: tuned first, then repeated over seeds.

    Every trial runs under the tuning seeds; the one with the best mean validation NDCG@20 runs
    under the final seeds. Both kinds of seeds are apart, so that no reported run was chosen for
    its luck.
    """

    data: str
    model: str
    condition: str
    method: str
    tuning_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    training: Mapping[str, int] = field(default_factory=dict)
    """Fields of RunSettings that differ from the model's bench: data of another size want another
    batch size."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of DenoiserConfig that differ from its defaults, where the method is the denoiser."""
    defaults: Defaults | None = None
    """The denoiser's defaults that runs are named by; None takes today's."""

    @property
    def label(self) -> str:
        """What its row is called."""
        return self.method

    def tuning_runs(self) -> list[RunSettings]:
        """Every trial under every tuning seed."""
        return [run for trial in self._trials() for run in self._runs(trial, self.tuning_seeds)]

    def chosen(self, store: ResultStore) -> Trial | None:
        """The trial with the best mean on validation, the first of equals; None before all ran."""
        scores = []
        for trial in self._trials():
            results = [store.get(run) for run in self._runs(trial, self.tuning_seeds)]
            done = [result.best_valid for result in results if result is not None]
            if len(done) < len(results):
                return None
            scores.append(mean(done))
        return self._trials()[scores.index(max(scores))]

    def final_runs(self, store: ResultStore) -> list[RunSettings] | None:
        """The chosen trial under every final seed; None before it is chosen."""
        trial = self.chosen(store)
        return None if trial is None else self._runs(trial, self.seeds)

    def results(self, store: ResultStore) -> list[RunResult] | None:
        """The final runs' results, in the order of the seeds; None before all ran."""
        runs = self.final_runs(store)
        if runs is None:
            return None
        done = [result for run in runs if (result := store.get(run)) is not None]
        return done if len(done) == len(runs) else None

    def n_runs(self) -> int:
        """Number of runs of the cell, finished or not."""
        return len(self._trials()) * len(self.tuning_seeds) + len(self.seeds)

    def missing(self, store: ResultStore) -> list[RunSettings]:
        """The runs that are not there and may run now."""
        runs = self.tuning_runs()
        final_runs = self.final_runs(store)
        if final_runs is not None:
            runs = final_runs
        return [run for run in runs if store.get(run) is None]

    def _trials(self) -> list[Trial]:
        found = trials(self.model, self.method)
        if self.method != "sgdl" or not self.config:
            return found
        return [
            replace(trial, options={**trial.options, "config": dict(self.config)})
            for trial in found
        ]

    def _runs(self, trial: Trial, seeds: Sequence[int]) -> list[RunSettings]:
        return [
            replace(
                settings_of(
                    self.data, self.model, self.condition, self.method, trial, seed, self.defaults
                ),
                **self.training,
            )
            for seed in seeds
        ]


def cells(
    data: str,
    *,
    models: Sequence[str],
    conditions: Sequence[str],
    methods: Sequence[str],
    tuning_seeds: Sequence[int],
    seeds: Sequence[int],
    flagged: bool = True,
    training: Mapping[str, int] | None = None,
    config: Mapping[str, Any] | None = None,
    defaults: Defaults | None = None,
) -> list[Cell]:
    """The cells of a comparison, in the order they run: by condition, then model, then method.

    Leaves out methods that are not defined for a model, and the clean-only run where the plain one
    is trained on clean interactions alone.

    Args:
        flagged: whether it is known which train interactions are clean; without, there is no
            clean-only run, and no condition but natural.
        training, config, defaults: what differs from each model's bench, and of the denoiser, as
            in `Cell`.
    """
    return [
        Cell(
            data,
            model,
            condition,
            method,
            tuple(tuning_seeds),
            tuple(seeds),
            dict(training or {}),
            dict(config or {}),
            defaults,
        )
        for condition in conditions
        for model in models
        for method in methods
        if METHODS[method]().supports(BENCHES[model].recipe)
        and (condition, method) != ("clean", "clean_only")
        and (flagged or (condition == "natural" and method != "clean_only"))
    ]


def next_run(
    all_cells: Sequence[Cell], store: ResultStore, not_again: set[str]
) -> RunSettings | None:
    """The first run that is missing and may run now, None where there is none.

    Args:
        not_again: keys of the runs that are under way or have failed.
    """
    for cell in all_cells:
        for run in cell.missing(store):
            if run.key not in not_again:
                return run
    return None
