"""One run of a cell."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.data import conditions, sources
from bench.families import FAMILIES, Family
from bench.measures import (
    Evaluation,
    auc,
    rarity_auc,
    train_popularity,
    weight_spread,
    within_popularity,
)
from examples.interaction_data import InteractionData
from sgdl_wrap import DenoiserConfig, NonFiniteError, Phase, SelfGuidedDenoiser

METHODS = ("plain", "sgdl", "clean-only")
NOTED = 10  # epochs of Phase II after which the weights are looked at


@dataclass(frozen=True)
class Run:
    """All that decides a run, but for the code. `variant` changes the denoiser's settings."""

    family: str
    data: str
    condition: str
    method: str
    seed: int
    learning_rate: float
    l2: float
    variant: str = ""


def execute(run: Run, root: str) -> dict[str, Any]:
    """Trains as the run says, with plain values of what came of it.

    The best epoch is that of validation NDCG@20, whose noise is left in.
    """
    torch.set_num_threads(1)
    family = FAMILIES[run.family]
    noisy = conditions.under(run.condition, _loaded(run.data, root), run.seed)
    data = conditions.clean_only(noisy) if run.method == "clean-only" else noisy
    valid, test = Evaluation(noisy, on="valid"), Evaluation(noisy, on="test")
    torch.manual_seed(run.seed)
    model = family.build(data)
    settings = family.settings
    decay = run.l2 if family.penalty_fn is None else 0.0
    optimizer = torch.optim.Adam(
        model.parameters(), lr=run.learning_rate, weight_decay=decay, fused=True
    )
    batches = family.batches(data, settings.batch_size, np.random.default_rng(run.seed))
    denoiser = None
    if run.method != "clean-only":
        config = DenoiserConfig(
            seed=run.seed, history_length=settings.history_length,
            audit_only=run.method == "plain", **_changes(run.variant),
        )
        denoiser = SelfGuidedDenoiser(
            model, optimizer, family.loss_fn,
            interactions=(torch.from_numpy(data.train_users), torch.from_numpy(data.train_items)),
            n_items=data.n_items, score_fn=family.score_fn, pair_fn=family.pair_fn, config=config,
        )
    best, best_epoch, tested, seconds = -1.0, 0, {}, []
    looks: dict[str, Any] = {}
    for epoch in range(1, settings.epochs + 1):
        start = time.perf_counter()
        try:
            _train(family, model, optimizer, denoiser, batches, run.l2)
        except NonFiniteError:
            break
        seconds.append(time.perf_counter() - start)
        value = valid.of_model(model)["ndcg@20"]
        if value is not None and value > best:
            best, best_epoch, tested = value, epoch, test.of_model(model)
        if denoiser is not None and _is_noted(denoiser, epoch):
            looks = {"epoch": epoch, **_look(denoiser, noisy)}
        if epoch - best_epoch >= settings.patience:
            break
    found: dict[str, Any] = {
        "best_epoch": best_epoch, "n_epochs": len(seconds), "valid": best, "test": tested,
        "true_share": None if noisy.train_clean is None else float(1 - noisy.train_clean.mean()),
    }
    point = None if denoiser is None else denoiser.memorization_point
    found["epoch_seconds"] = median(seconds[:point])
    found["guided_seconds"] = None if point is None else median(seconds[point:] or [0.0])
    if denoiser is not None:
        found |= {
            "memorization_point": point,
            "noise_rate": denoiser.noise_rate,
            "noise_share": getattr(denoiser, "noise_share", None),
            "guidance_coverage": getattr(denoiser.history[-1], "guidance_coverage", None),
            "looks": looks or {"epoch": len(seconds), **_look(denoiser, noisy)},
        }
    return found


def as_dict(run: Run) -> dict[str, Any]:
    """Plain values."""
    return asdict(run)


def _is_noted(denoiser: SelfGuidedDenoiser, epoch: int) -> bool:
    if denoiser.config.audit_only:
        return epoch == 2 * NOTED
    point = denoiser.memorization_point
    return point is not None and epoch == point + NOTED


def _train(
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
        optimizer.zero_grad()
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
    if denoiser is not None:
        denoiser.end_epoch()


def _look(denoiser: SelfGuidedDenoiser, data: InteractionData) -> dict[str, Any]:
    """What weights and suspicion say of the noise, and what popularity alone would."""
    rows = denoiser.report()
    keys = data.train_users * data.n_items + data.train_items
    order = np.argsort(keys)
    places = order[np.searchsorted(keys[order], rows["user"] * data.n_items + rows["item"])]
    popularity = train_popularity(data)[places]
    found: dict[str, Any] = {}
    guided = denoiser.phase is Phase.SELF_GUIDED
    weights, suspicion = rows["weight"], np.nan_to_num(rows["suspicion"])
    if guided:
        found["spread"] = weight_spread(weights, suspicion, popularity)
    if data.train_clean is None or bool(data.train_clean.all()):
        return found
    noisy = ~data.train_clean[places]
    found["suspicion"] = within_popularity(suspicion, noisy, popularity)
    found["posterior_auc"] = auc(np.nan_to_num(rows["noise_posterior"]), noisy)
    found["rarity_auc"] = rarity_auc(noisy, popularity)
    if guided:
        found["weights"] = within_popularity(-weights, noisy, popularity)
        found["noise_over_clean"] = float(weights[noisy].mean() / weights[~noisy].mean())
    return found


def _changes(variant: str) -> dict[str, Any]:
    """"a=1,b=none" as settings."""
    found: dict[str, Any] = {}
    for part in filter(None, variant.split(",")):
        name, _, text = part.partition("=")
        try:
            found[name] = float(text) if "." in text else int(text)
        except ValueError:
            found[name] = {"True": True, "False": False, "None": None}.get(text, text)
    return found


@lru_cache(maxsize=1)
def _loaded(name: str, root: str) -> InteractionData:
    return sources.load(name, root)
