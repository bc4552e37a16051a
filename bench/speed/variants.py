"""The training steps that are compared, each with its own model and optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.speed.naive import unrolled
from bench.speed.workload import Workload
from bench.training.batches import Batch
from sgdl_wrap import DenoiserConfig, Phase, SelfGuidedDenoiser, Variants

Step = Callable[[Batch], object]
SCHEDULERS = ("lstm", "mlp", "top_f", "none")
PLANTED_SHARE = 0.8  # of the observed pairs are memorized at the switch


def variant_names() -> list[str]:
    """Every step there is."""
    return ["plain", "phase1", *SCHEDULERS, "fast", "unroll"]


def make(name: str, workload: Workload) -> Step:
    """The training step of that name, optimizer included, ready for its first batch."""
    if name == "plain":
        return _plain(workload)
    if name == "unroll":
        return unrolled(workload)
    if name == "phase1":
        return denoised(workload, memorizing(workload))
    return denoised(workload, self_guided(workload, _config(name)))


def _config(name: str) -> DenoiserConfig:
    if name == "fast":
        return DenoiserConfig.fast()
    return DenoiserConfig(variants=Variants(denoising_scheduler=name))  # type: ignore[arg-type]


def _plain(workload: Workload) -> Step:
    model, optimizer = workload.start()

    def step(batch: Batch) -> None:
        loss = workload.loss_fn(model, batch).mean()
        penalty = workload.penalty(model, batch)
        if penalty is not None:
            loss = loss + penalty
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def denoised(workload: Workload, denoiser: SelfGuidedDenoiser) -> Step:
    """The same step by the denoiser, in whichever phase it stands."""

    def step(batch: Batch) -> None:
        denoiser.before_step(batch)
        denoiser.step(batch, penalty=workload.penalty(denoiser.model, batch))

    return step


def memorizing(workload: Workload) -> SelfGuidedDenoiser:
    """A denoiser in Phase I with default settings, one epoch old.

    From that epoch's end on, epochs end by calls alone, and no step that is timed ends one.
    """
    denoiser = _wrapped(workload, example_batch=workload.batches[0])
    watch_epoch(denoiser, workload)
    denoiser.end_epoch()
    return denoiser


def _wrapped(workload: Workload, **options: Any) -> SelfGuidedDenoiser:
    model, optimizer = workload.start()
    return SelfGuidedDenoiser(
        model,
        optimizer,
        workload.loss_fn,
        interactions=(workload.users, workload.items),
        n_items=workload.n_items,
        **options,
    )


def watch_epoch(denoiser: SelfGuidedDenoiser, workload: Workload) -> None:
    """Lets the denoiser see a loss of every observed pair, as an epoch does, without training."""
    for batch in workload.observed_batches():
        denoiser.before_step(batch)
        with torch.no_grad():
            denoiser.weighted_loss(batch)


def self_guided(workload: Workload, config: DenoiserConfig) -> SelfGuidedDenoiser:
    """A denoiser in Phase II whose M holds four of five interactions.

    The switch comes at the end of the first epoch, as one epoch of history and a noise rate of .9
    ask for a tenth of the interactions only; which are memorized is planted.
    """
    scores = PlantedScores(workload)
    denoiser = _wrapped(
        workload, score_fn=scores, config=config.but(noise_rate=0.9, history_length=1)
    )
    batch = workload.batches[0]
    denoiser.before_step(batch)
    with torch.no_grad():
        denoiser.weighted_loss(batch)
    denoiser.end_epoch()
    scores.planted = False
    if denoiser.phase is not Phase.SELF_GUIDED:
        raise RuntimeError("Expected Phase II after the planted epoch, got Phase I.")
    return denoiser


class PlantedScores:
    """A `score_fn` that ranks four of five observed pairs first, then is the model's own.

    It stands in for the epochs of training after which most interactions are memorized; what a
    step costs does not depend on which. Once Phase II has begun, scores cost what they cost.
    """

    def __init__(self, workload: Workload) -> None:
        self.planted = True
        self._n_items = workload.n_items
        self._keys = (workload.users * workload.n_items + workload.items).sort().values

    def __call__(self, model: nn.Module, users: Tensor, items: Tensor) -> Tensor:
        if not self.planted:
            scores: Tensor = model(users, items)
            return scores
        keys = users * self._n_items + items
        places = torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
        observed = self._keys[places] == keys
        mixed = (keys * 2_654_435_761) % 1000  # Knuth's multiplicative hash
        memorized = mixed < 1000 * PLANTED_SHARE
        # The lists end among the unobserved: negatives that the model scores below 8 are outside
        # and may guide, as nearly all do in training.
        return torch.where(observed, torch.where(memorized, 9.0, 7.0), 8.0)
