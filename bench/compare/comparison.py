"""The text of a comparison: plain against denoised runs of one model, over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.data.interaction_data import InteractionData
from bench.training.fit import TrainingRun
from sgdl_wrap import Phase

COLUMNS = {"recall@5": "R@5", "recall@20": "R@20", "ndcg@5": "N@5", "ndcg@20": "N@20"}


def metric_table(title: str, rows: dict[str, Sequence[TrainingRun]]) -> str:
    """Test metrics at each run's best epoch, one row per way of training.

    With several runs in a row: mean ± standard deviation (of the sample, n - 1).
    """
    lines = ["".join([f"{title:<12}", *(f"{short:>16}" for short in COLUMNS.values())])]
    for name, runs in rows.items():
        cells = [_mean_and_spread([run.test[metric] for run in runs]) for metric in COLUMNS]
        best = ", ".join(str(run.best_epoch) for run in runs)
        lines.append("".join([f"{name:<12}", *(f"{cell:>16}" for cell in cells)]))
        lines[-1] += f"   best epoch {best}"
    return "\n".join(lines)


def findings(
    plain: Sequence[TrainingRun], denoised: Sequence[TrainingRun], data: InteractionData
) -> str:
    """What the denoiser found out: its switch, the noise, its weights, the gain and the price."""
    true_rate = data.train_noise_rate
    lines = []
    for run in denoised:
        denoiser = run.denoiser
        if denoiser is None:
            continue
        switch = denoiser.memorization_point
        share, last = denoiser.noise_share, denoiser.history[-1]
        lines.append(
            ("no switch so far" if switch is None else f"switch after epoch {switch}")
            + ("" if share is None else f"; noise share {share[0]:.2f} to {share[1]:.2f}")
            + ("" if true_rate is None else f" (true {true_rate:.2f})")
        )
        if switch is not None and last.effective_share > 0.995:
            lines.append("no noise that is sure was found: weights are one, as in plain training")
        if run.final_auc is not None:
            at_best = "before the switch" if run.best_auc is None else f"{run.best_auc:.3f}"
            lines.append(
                "weights separate clean from noise with AUC "
                f"{run.final_auc:.3f} at the end, best epoch: {at_best}"
            )
    before, after = (
        float(np.mean([run.test["ndcg@20"] for run in runs])) for runs in (plain, denoised)
    )
    if before > 0:
        lines.append(f"NDCG@20 of SGDL over plain: {after / before - 1:+.1%}")
    lines.append(
        f"seconds per epoch: plain {_median(plain):.3f}, "
        f"SGDL {_median(denoised, Phase.MEMORIZATION):.3f} before the switch"
        + (
            f" and {_median(denoised, Phase.SELF_GUIDED):.3f} after"
            if any(run.denoiser and run.denoiser.memorization_point for run in denoised)
            else ""
        )
    )
    return "\n".join("  " + line for line in lines)


def _mean_and_spread(values: Sequence[float]) -> str:
    mean = np.mean(values)
    return f"{mean:.4f}" if len(values) == 1 else f"{mean:.4f} ± {np.std(values, ddof=1):.4f}"


def _median(runs: Sequence[TrainingRun], phase: Phase | None = None) -> float:
    # The median, as the first epoch of each phase pays for what is set up once.
    seconds = [
        duration
        for run in runs
        for epoch, duration in enumerate(run.epoch_seconds, start=1)
        if phase is None or (run.denoiser and run.denoiser.history[epoch - 1].phase is phase)
    ]
    return float(np.median(seconds)) if seconds else float("nan")
