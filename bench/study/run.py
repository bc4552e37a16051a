"""One run of the bench: from its settings to its result."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from statistics import median

import torch

from bench.data.interaction_data import InteractionData
from bench.data.load import load_data
from bench.methods import METHODS
from bench.study.conditions import under_condition
from bench.study.grids import BENCHES
from bench.study.run_settings import RunSettings
from bench.training.fit import fit, rankings, set_up
from bench.training.metrics import CUTOFFS, ScoresError
from sgdl_wrap import NonFiniteError


@dataclass(frozen=True)
class RunResult:
    """What came of a run. Epochs count from 1; metrics are those of the best on validation.

    A run that diverges has what it had before: a best epoch of 0 and zeros where that is nothing.
    """

    best_epoch: int
    n_epochs: int
    best_valid: float
    """Validation NDCG@20."""
    test: dict[str, float]
    seconds: float
    """The whole run, evaluations included."""
    epoch_seconds: float
    """The median epoch, evaluations excluded."""
    epoch_cpu_seconds: float | None = None
    """The same in processor time; None in results that are older than this field."""
    memorization_point: int | None = None
    noise_rate: float | None = None
    """The denoiser's estimate."""
    best_auc: float | None = None
    """Of its weights, clean against noise, at the best epoch."""
    final_auc: float | None = None


def execute(settings: RunSettings, data: InteractionData) -> RunResult:
    """Trains as the settings say, on data before its condition.

    Raises:
        ValueError: the method is not defined for the model's loss.
    """
    start = time.perf_counter()
    bench = BENCHES[settings.model]
    method = METHODS[settings.method](**settings.options)
    recipe = replace(
        bench.recipe,
        learning_rate=settings.learning_rate,
        l2=settings.l2,
        batch_size=settings.batch_size,
        epochs=settings.epochs,
    )
    if not method.supports(recipe):
        raise ValueError(
            f"Expected a model that {settings.method} is defined for, got {settings.model}. "
            "Leave that pair out."
        )
    noisy = under_condition(settings.condition, data, settings.seed)
    training = set_up(method.changed(recipe), method.trained_on(noisy), settings.seed, fused=True)
    epochs = method.start(training)
    run = fit(
        training,
        epochs.run,
        rankings(noisy),
        denoiser=epochs.denoiser,
        evaluate_every=settings.evaluate_every,
        patience=settings.patience,
        ends_at=(ScoresError, NonFiniteError),
    )
    denoiser = epochs.denoiser
    return RunResult(
        best_epoch=run.best_epoch,
        n_epochs=len(run.epoch_seconds),
        best_valid=max(run.best_valid, 0.0),
        test=run.test or {f"{name}@{k}": 0.0 for name in ("recall", "ndcg") for k in CUTOFFS},
        seconds=time.perf_counter() - start,
        epoch_seconds=median(run.epoch_seconds or [0.0]),
        epoch_cpu_seconds=median(run.epoch_cpu_seconds or [0.0]),
        memorization_point=None if denoiser is None else denoiser.memorization_point,
        noise_rate=None if denoiser is None else denoiser.noise_rate,
        best_auc=run.best_auc,
        final_auc=run.final_auc,
    )


def execute_from(source: str, settings: RunSettings) -> dict[str, object]:
    """The same from the place of the data, as a worker process does it, with plain values."""
    torch.set_num_threads(1)
    return asdict(execute(settings, _load(source)))


@lru_cache(maxsize=1)
def _load(source: str) -> InteractionData:
    return load_data(source)
