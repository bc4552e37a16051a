"""One run of a cell."""

from __future__ import annotations

import time
from functools import lru_cache
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.cells.cell import RunKey, changes
from bench.data import conditions, sources
from bench.data.interaction_data import InteractionData
from bench.families.family import Family
from bench.measures import (
    CUTOFF,
    Evaluation,
    auc,
    rarity_auc,
    train_popularity,
    weight_spread,
    within_popularity,
)
from sgdl_wrap import DenoiserConfig, NonFiniteError, Phase, SelfGuidedDenoiser

NDCG = f"ndcg@{CUTOFF}"
LOOK_AFTER = 10  # epochs of Phase II


def execute(run: RunKey, root: str | None) -> dict[str, Any]:
    """Trains as the run says, and returns what is recorded of it, in plain values.

    The best epoch is the one of the highest validation NDCG@20; validation keeps its noise.
    Training that diverges ends there; what was best before counts.

    Args:
        root: the folder of the data, as `sources.load` takes it.
    """
    from bench.families import FAMILIES

    noisy = conditions.under(run.condition, _loaded(run.data, root), run.seed)
    return train(run, FAMILIES[run.family], noisy)


def train(run: RunKey, family: Family, noisy: InteractionData) -> dict[str, Any]:
    """The same for a family and data at hand."""
    settings = family.settings
    data = conditions.clean_only(noisy) if run.method == "clean-only" else noisy
    valid, test = Evaluation(noisy, on="valid"), Evaluation(noisy, on="test")
    torch.manual_seed(run.seed)
    model = family.build(data)
    decay = run.l2 if family.penalty_fn is None else 0.0
    optimizer = torch.optim.Adam(
        model.parameters(), lr=run.learning_rate, weight_decay=decay, fused=True
    )
    batches = family.batches(data, settings.batch_size, np.random.default_rng(run.seed))
    denoiser = _denoiser(run, family, data, model, optimizer)
    best, best_epoch, tested = -1.0, 0, {}
    at_best: Snapshot | None = None
    later: Snapshot | None = None
    seconds: list[float] = []
    for epoch in range(1, settings.epochs + 1):
        start = time.perf_counter()
        try:
            _train_epoch(family, model, optimizer, denoiser, batches, run.l2)
        except (NonFiniteError, FloatingPointError):
            break
        seconds.append(time.perf_counter() - start)
        value = valid.of_model(model)[NDCG]
        if value is not None and value > best:
            best, best_epoch, tested = value, epoch, test.of_model(model)
            at_best = None if denoiser is None else Snapshot(denoiser, epoch)
        if denoiser is not None and denoiser.memorization_point == epoch - LOOK_AFTER:
            later = Snapshot(denoiser, epoch)
        if epoch - best_epoch >= settings.patience:
            break
    found: dict[str, Any] = {
        "best_epoch": best_epoch, "n_epochs": len(seconds), "valid": best, "test": tested,
        "true_share": noisy.train_noise_rate,
    }  # fmt: skip
    point = None if denoiser is None else denoiser.memorization_point
    before, after = seconds[:point], [] if point is None else seconds[point:]
    found["epoch_seconds"] = median(before) if before else None
    found["guided_seconds"] = median(after) if after else None
    if denoiser is not None and seconds:
        if later is None:
            later = Snapshot(denoiser, len(seconds))
        found |= {
            "memorization_point": point,
            "unwatched_seconds": _unwatched(denoiser),
            "noise_rate": denoiser.noise_rate,
            "noise_share": getattr(denoiser, "noise_share", None),
            "guidance_coverage": getattr(denoiser.history[-1], "guidance_coverage", None),
            "looks": later.looks(noisy),
            "looks_at_best": None if at_best is None else at_best.looks(noisy),
        }
    return found


def _unwatched(denoiser: SelfGuidedDenoiser) -> float | None:
    """Seconds of an epoch of Phase I without the denoiser's own work, as far as it knows."""
    known = [
        one.plain_seconds for one in denoiser.history
        if one.phase is Phase.MEMORIZATION and one.plain_seconds is not None
    ]  # fmt: skip
    return median(known) if known else None


def _denoiser(
    run: RunKey, family: Family, data: InteractionData, model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> SelfGuidedDenoiser | None:
    """None for "clean-only"; for "plain" a denoiser that watches and changes nothing."""
    if run.method == "clean-only":
        return None
    fields: dict[str, Any] = {
        "seed": run.seed, "history_length": family.settings.history_length,
        **changes(run.variant), "audit_only": run.method == "plain",
    }  # fmt: skip
    return SelfGuidedDenoiser(
        model, optimizer, family.loss_fn,
        interactions=(torch.from_numpy(data.train_users), torch.from_numpy(data.train_items)),
        n_items=data.n_items, score_fn=family.score_fn, pair_fn=family.pair_fn,
        explicit_epochs=True, config=DenoiserConfig().but(**fields),
    )  # fmt: skip


def _train_epoch(
    family: Family, model: nn.Module, optimizer: torch.optim.Optimizer,
    denoiser: SelfGuidedDenoiser | None, batches: Any, l2: float,
) -> None:
    for batch in batches:
        if denoiser is not None:
            denoiser.before_step(batch)
        penalty = None if family.penalty_fn is None else l2 * family.penalty_fn(model, batch)
        if denoiser is not None:
            denoiser.step(batch, penalty=penalty)
            continue
        loss = family.loss_fn(model, batch).mean()
        if not torch.isfinite(loss):
            raise FloatingPointError
        optimizer.zero_grad()
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
    if denoiser is not None:
        denoiser.end_epoch()


class Snapshot:
    """What the denoiser said of every interaction at the end of an epoch."""

    def __init__(self, denoiser: SelfGuidedDenoiser, epoch: int) -> None:
        rows = denoiser.report()
        self._epoch, self._guided = epoch, denoiser.phase is Phase.SELF_GUIDED
        self._columns = {
            name: rows[name].copy()
            for name in ("user", "item", "weight", "suspicion", "noise_posterior")
        }

    def looks(self, data: InteractionData) -> dict[str, Any]:
        """How weights and suspicion find the noise, beside what popularity alone would find.

        Weights are looked at in Phase II only: before, all are 1. Without noise, or without
        flags, only the spread of the weights is told.
        """
        rows = self._columns
        keys = data.train_users * data.n_items + data.train_items
        order = np.argsort(keys)
        places = order[np.searchsorted(keys[order], rows["user"] * data.n_items + rows["item"])]
        popularity = train_popularity(data)[places]
        # an unknown suspicion is ranked last, as in the report
        suspicion = np.nan_to_num(rows["suspicion"])
        known = np.isfinite(rows["weight"])
        weights = rows["weight"][known]
        found: dict[str, Any] = {"epoch": self._epoch}
        if self._guided:
            found["spread"] = weight_spread(weights, suspicion[known], popularity[known])
        if data.train_clean is None or data.train_clean.all():
            return found
        noisy = ~data.train_clean[places]
        found["suspicion"] = within_popularity(suspicion, noisy, popularity)
        found["posterior_auc"] = auc(np.nan_to_num(rows["noise_posterior"]), noisy)
        found["rarity_auc"] = rarity_auc(noisy, popularity)
        if self._guided:
            found["weights"] = within_popularity(-weights, noisy[known], popularity[known])
            of_noise, of_clean = weights[noisy[known]], weights[~noisy[known]]
            if len(of_noise) and len(of_clean) and of_clean.mean() > 0:
                found["noise_over_clean"] = float(of_noise.mean() / of_clean.mean())
        return found


@lru_cache(maxsize=1)
def _loaded(name: str, root: str | None) -> InteractionData:
    return sources.load(name, root)
