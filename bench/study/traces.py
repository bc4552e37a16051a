"""What the paper's figures show of a training: how clean and noisy interactions fare in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.interaction_data import InteractionData
from bench.study.conditions import under_condition
from bench.study.grids import BENCHES
from bench.study.run_settings import written_out
from bench.training.fit import denoised_epoch, set_up, wrap
from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser
from sgdl_wrap.equations.noise_rate import scaled_losses

BINS = 40  # of histograms, and of the weighting function
EPOCHS = {"lightgcn": 60, "ngcf": 60, "neumf": 30, "cdae": 60}


@dataclass(frozen=True)
class TraceSettings:
    """All that decides a trace, but for the code that makes it."""

    data: str
    """As `fingerprint` gives it."""
    model: str
    condition: str
    seed: int
    epochs: int
    learning_rate: float
    l2: float
    denoiser: dict[str, Any]
    """Settings of the denoiser, as `written_out` has them."""


def trace_settings(
    data: str, model: str, condition: str, seed: int, epochs: int | None
) -> TraceSettings:
    """A trace of a model as its bench trains it, under the likeliest trial."""
    bench = BENCHES[model]
    trial = bench.middle[0]
    return TraceSettings(
        data, model, condition, seed, epochs or EPOCHS[model], trial.learning_rate, trial.l2,
        written_out("sgdl", {}, pointwise=bench.recipe.pointwise)["config"],
    )  # fmt: skip


@dataclass
class Memorization:
    """One entry an epoch. Interactions are memorized as Eq. 1 says."""

    clean: list[float] = field(default_factory=list)
    """Share of the clean interactions that is memorized: the memory rate, and MR (Eq. 2)."""
    noisy: list[float] = field(default_factory=list)
    """Share of the noisy ones: their memory rate."""
    precision: list[float | None] = field(default_factory=list)
    """MP (Eq. 2), the clean share of what is memorized; None where nothing is."""

    def add(self, memorized: NDArray[np.bool_], clean: NDArray[np.bool_]) -> None:
        """Notes the end of an epoch; both (N,), in one order."""
        self.clean.append(float(memorized[clean].mean()))
        self.noisy.append(float(memorized[~clean].mean()) if not clean.all() else 0.0)
        self.precision.append(float(clean[memorized].mean()) if memorized.any() else None)

    def crossing(self) -> int | None:
        """The first epoch, from 1, with MR >= MP, where the paper has the best switch (Eq. 3)."""
        for epoch, (recall, precision) in enumerate(
            zip(self.clean, self.precision, strict=True), start=1
        ):
            if precision is not None and recall >= precision:
                return epoch
        return None


def make_trace(
    settings: TraceSettings, data: InteractionData, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Trains twice from one seed, plainly and with SGDL, and notes what the figures need.

    Plain training is watched by a denoiser with `audit_only`, which leaves it as it is. The flags
    are read by nothing but this.

    Args:
        data: before its condition; its train interactions have flags.
        tell: told how it goes.

    Returns:
        Plain values, for JSON.
    """
    bench = BENCHES[settings.model]
    recipe = replace(
        bench.recipe,
        learning_rate=settings.learning_rate,
        l2=settings.l2,
        epochs=settings.epochs,
    )
    noisy = under_condition(settings.condition, data, settings.seed)
    found: dict[str, Any] = {"true_noise_rate": noisy.train_noise_rate}
    for way, audit_only in (("plain", True), ("sgdl", False)):
        training = set_up(recipe, noisy, settings.seed, fused=True)
        denoiser = wrap(
            training,
            DenoiserConfig().but(**settings.denoiser).but(
                seed=settings.seed, history_length=recipe.history_length, audit_only=audit_only
            ),
        )
        memorization = Memorization()
        for epoch in range(1, settings.epochs + 1):
            before = denoiser.phase
            denoised_epoch(training.model, denoiser, training.penalty_fn, training.batches)
            rows, clean = _in_order(denoiser, noisy)
            memorization.add(rows["memorization_rate"] > 0.5, clean)
            if denoiser.phase is not before:
                found["losses"] = _losses(denoiser, rows, clean)
            if epoch % 10 == 0 or epoch == settings.epochs:
                tell(f"{way}, epoch {epoch}/{settings.epochs}")
        found[way] = asdict(memorization)
        if audit_only:
            found["crossing"] = memorization.crossing()
        else:
            found["switch"] = denoiser.memorization_point
            found["noise_rate"] = denoiser.noise_rate
            found.setdefault("losses", _losses(denoiser, rows, clean))
            found["weights"] = _weights(rows, clean)
    return found


def _in_order(
    denoiser: SelfGuidedDenoiser, data: InteractionData
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    # the report's rows and the data's flags, both by user, then item
    rows = denoiser.report().rows
    rows = rows[np.lexsort((rows["item"], rows["user"]))]
    if data.train_clean is None:
        raise ValueError(
            f"Expected train interactions with clean flags, got {data.name} without. "
            "Give train.tsv a third column; the figures show what is clean and what is not."
        )
    return rows, data.train_clean[np.lexsort((data.train_items, data.train_users))]


def _losses(
    denoiser: SelfGuidedDenoiser, rows: NDArray[Any], clean: NDArray[np.bool_]
) -> dict[str, Any]:
    # the epoch's losses, scaled as the mixture sees them; rows are in the order of users
    scaled = scaled_losses(rows["loss"], rows["user"], "user")
    mixture = denoiser.state_dict()["tracker"]["mixture"]
    edges = np.linspace(0, 1, BINS + 1)
    return {
        "edges": edges.tolist(),
        "clean": np.histogram(scaled[clean], edges)[0].tolist(),
        "noisy": np.histogram(scaled[~clean], edges)[0].tolist(),
        "mixture": {name: mixture[name] for name in ("means", "variances", "weights")},
    }


def _weights(rows: NDArray[Any], clean: NDArray[np.bool_]) -> dict[str, Any]:
    # g by loss: the middle of as many interactions in each bin, and where 80 % of them lie
    weights, losses = rows["weight"].astype(float), rows["loss"]
    edges = np.linspace(0, max(float(weights.max()), 1e-6), BINS + 1)
    groups = np.array_split(np.argsort(losses, kind="stable"), BINS)
    return {
        "edges": edges.tolist(),
        "clean": np.histogram(weights[clean], edges)[0].tolist(),
        "noisy": np.histogram(weights[~clean], edges)[0].tolist(),
        "loss": [float(np.median(losses[group])) for group in groups],
        "low": [float(np.quantile(weights[group], 0.1)) for group in groups],
        "middle": [float(np.median(weights[group])) for group in groups],
        "high": [float(np.quantile(weights[group], 0.9)) for group in groups],
    }
