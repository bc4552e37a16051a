"""Made-up results for tests of what is done with results."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.study.run import RunResult
from bench.study.run_settings import RunSettings
from bench.study.store import ResultStore

PROVENANCE = {"commit": "abc1234", "torch": "2"}


def made_up(valid: float = 0.1, test: float = 0.2, **changes: Any) -> RunResult:
    metrics = dict.fromkeys(("recall@5", "recall@20", "ndcg@5"), 0.5) | {"ndcg@20": test}
    values = {"best_epoch": 3, "n_epochs": 5, "best_valid": valid, "test": metrics,
              "seconds": 9.0, "epoch_seconds": 0.5}  # fmt: skip
    return RunResult(**(values | changes))


def put(store: ResultStore, run: RunSettings, **changes: Any) -> None:
    store.put(run, asdict(made_up(**changes)), PROVENANCE)
