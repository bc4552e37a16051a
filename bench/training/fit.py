"""One training run, plain or denoised, with the best epoch chosen on validation.

The two epoch functions stand side by side: what the denoiser changes in a training loop is what
differs between them. `set_up` and `fit` are the two halves of a run, for those who bring an epoch
of their own (`bench/study`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from bench.data.interaction_data import InteractionData
from bench.training.batches import Batch, NegativeSampler
from bench.training.metrics import FullRanking
from bench.training.recipes import Recipe
from sgdl_wrap import DenoiserConfig, Phase, SelfGuidedDenoiser

SELECTION_METRIC = "ndcg@20"
LossFn = Callable[[nn.Module, Batch], Tensor]


def plain_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: LossFn,
    penalty_fn: LossFn | None,
    batches: Iterable[Batch],
) -> None:
    """One epoch of ordinary training."""
    for batch in batches:
        loss = loss_fn(model, batch).mean()
        if penalty_fn is not None:
            loss = loss + penalty_fn(model, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def denoised_epoch(
    model: nn.Module,
    denoiser: SelfGuidedDenoiser,
    penalty_fn: LossFn | None,
    batches: Iterable[Batch],
) -> None:
    """One epoch of the same, denoised."""
    for batch in batches:
        denoiser.before_step(batch)
        penalty = None if penalty_fn is None else penalty_fn(model, batch)
        denoiser.step(batch, penalty=penalty)
    denoiser.end_epoch()


@dataclass
class TrainingRun:
    """What came of one run. Epochs count from 1; metrics are as named in `metrics`."""

    best_epoch: int = 0
    best_valid: float = -1.0
    test: dict[str, float] = field(default_factory=dict)
    """Test metrics at the best epoch."""
    valid_curve: dict[int, float] = field(default_factory=dict)
    """The selection metric at each evaluated epoch."""
    epoch_seconds: list[float] = field(default_factory=list)
    """Training time of each epoch, evaluation excluded."""
    epoch_cpu_seconds: list[float] = field(default_factory=list)
    """The same in processor time of all threads, which does not grow where others share the
    machine."""
    best_auc: float | None = None
    final_auc: float | None = None
    """AUC of the weights, clean against noise, at the best and at the last evaluated epoch."""
    denoiser: SelfGuidedDenoiser | None = None
    ended_by: str | None = None
    """The error at which it ended before its time."""


@dataclass(frozen=True)
class Training:
    """A model about to be trained, with all that an epoch of it needs."""

    recipe: Recipe
    data: InteractionData
    """What it is trained on; it may be evaluated on another."""
    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Iterable[Batch]
    seed: int

    @property
    def penalty_fn(self) -> LossFn | None:
        """The recipe's penalty with its coefficient, None where there is none to add."""
        return scaled_penalty(self.recipe)


def set_up(recipe: Recipe, data: InteractionData, seed: int, *, fused: bool = False) -> Training:
    """Builds the recipe's model, optimizer and batches; the seed decides all three.

    Args:
        fused: whether Adam updates all parameters in one kernel: faster where they are small and
            many, and equal up to rounding.
    """
    torch.manual_seed(seed)
    model = recipe.build(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, fused=fused or None)
    batches = recipe.batches(data, recipe.batch_size, np.random.default_rng(seed))
    return Training(recipe, data, model, optimizer, batches, seed)


def wrap(training: Training, config: DenoiserConfig | None = None) -> SelfGuidedDenoiser:
    """The denoiser around a training; config None: the recipe's history, its seed, the defaults."""
    data, recipe = training.data, training.recipe
    return SelfGuidedDenoiser(
        training.model,
        training.optimizer,
        recipe.loss_fn,
        interactions=(torch.from_numpy(data.train_users), torch.from_numpy(data.train_items)),
        n_items=data.n_items,
        config=config
        or DenoiserConfig(seed=training.seed, history_length=recipe.history_length),
    )


def fit(
    training: Training,
    run_epoch: Callable[[], None],
    evaluations: tuple[FullRanking, FullRanking],
    *,
    denoiser: SelfGuidedDenoiser | None = None,
    evaluate_every: int = 1,
    patience: int | None = None,
    ends_at: tuple[type[Exception], ...] = (),
    on_epoch: Callable[[int, float | None], None] = lambda epoch, valid: None,
) -> TrainingRun:
    """Trains epoch by epoch and keeps the test metrics of the best epoch on validation.

    Args:
        run_epoch: trains training.model for one epoch.
        evaluations: the rankings on validation and on test.
        denoiser: the one that run_epoch trains with, if any; what it finds is recorded.
        evaluate_every: evaluate after every so many epochs, and after the last.
        patience: stop when so many epochs have passed since the best one; None never stops.
        ends_at: errors of an epoch or its evaluation at which the run ends with its best epoch so
            far, instead of failing; TrainingRun.ended_by then says which.
        on_epoch: told each epoch's number and, where evaluated, its validation NDCG@20.
    """
    recipe, (validation, test) = training.recipe, evaluations
    run = TrainingRun(denoiser=denoiser)
    for epoch in range(1, recipe.epochs + 1):
        valid = None
        try:
            start, cpu_start = time.perf_counter(), time.process_time()
            run_epoch()
            run.epoch_seconds.append(time.perf_counter() - start)
            run.epoch_cpu_seconds.append(time.process_time() - cpu_start)
            if epoch % evaluate_every == 0 or epoch == recipe.epochs:
                valid = validation.of_model(training.model)[SELECTION_METRIC]
                run.valid_curve[epoch] = valid
                run.final_auc = detection_auc(denoiser, recipe, training.data, training.seed)
                if valid > run.best_valid:
                    run.best_epoch, run.best_valid, run.best_auc = epoch, valid, run.final_auc
                    run.test = test.of_model(training.model)
        except ends_at as error:
            run.ended_by = f"{type(error).__name__}: {error}"
            break
        on_epoch(epoch, valid)
        if patience is not None and valid is not None and epoch - run.best_epoch >= patience:
            break
    return run


def train(
    recipe: Recipe,
    data: InteractionData,
    *,
    denoise: bool,
    seed: int,
    config: DenoiserConfig | None = None,
    evaluate_every: int = 1,
    on_epoch: Callable[[int, float | None], None] = lambda epoch, valid: None,
) -> TrainingRun:
    """Trains recipe on data; under one seed a plain and a denoised run see the same batches.

    Args:
        denoise: whether to wrap the training with the denoiser.
        config: the denoiser's settings; None: the recipe's history, this seed, the defaults.
        evaluate_every, on_epoch: as in `fit`.
    """
    training = set_up(recipe, data, seed)
    model, batches, penalty_fn = training.model, training.batches, training.penalty_fn
    denoiser = wrap(training, config) if denoise else None

    def run_epoch() -> None:
        if denoiser is None:
            plain_epoch(model, training.optimizer, recipe.loss_fn, penalty_fn, batches)
        else:
            denoised_epoch(model, denoiser, penalty_fn, batches)

    return fit(
        training,
        run_epoch,
        rankings(data),
        denoiser=denoiser,
        evaluate_every=evaluate_every,
        on_epoch=on_epoch,
    )


def scaled_penalty(recipe: Recipe) -> LossFn | None:
    """The recipe's penalty times its coefficient, None where there is none to add."""
    penalty_fn = recipe.penalty_fn
    if penalty_fn is None or recipe.l2 == 0:
        return None
    return lambda model, batch: recipe.l2 * penalty_fn(model, batch)


def rankings(data: InteractionData) -> tuple[FullRanking, FullRanking]:
    """The evaluations on validation (train masked) and on test (train and validation masked)."""
    validation = FullRanking(
        data.valid_users,
        data.valid_items,
        masked_users=data.train_users,
        masked_items=data.train_items,
        n_items=data.n_items,
    )
    test = FullRanking(
        data.test_users,
        data.test_items,
        masked_users=np.concatenate([data.train_users, data.valid_users]),
        masked_items=np.concatenate([data.train_items, data.valid_items]),
        n_items=data.n_items,
    )
    return validation, test


def detection_auc(
    denoiser: SelfGuidedDenoiser | None, recipe: Recipe, data: InteractionData, seed: int
) -> float | None:
    """Probability that a clean train interaction has a larger weight than a noisy one.

    None without a denoiser, before the switch (all weights are 1), and where the flags are
    unknown or all the same. BPR weights depend on the negative drawn; the draw here is the same
    each time and apart from the training's.
    """
    if denoiser is None or denoiser.phase is Phase.MEMORIZATION:
        return None
    if data.train_clean is None or len(np.unique(data.train_clean)) < 2:
        return None
    weights = train_weights(denoiser, recipe, data, seed)
    return float(roc_auc_score(data.train_clean, weights))


def train_weights(
    denoiser: SelfGuidedDenoiser, recipe: Recipe, data: InteractionData, seed: int
) -> NDArray[np.float64]:
    """The denoiser's weight of each train interaction, in the order of data, (N,)."""
    users, items = torch.from_numpy(data.train_users), torch.from_numpy(data.train_items)
    if recipe.pointwise:
        third = torch.ones(len(users))
    else:
        sampler = NegativeSampler(data.train_users, data.train_items, data.n_items)
        third = torch.from_numpy(sampler.draw(data.train_users, np.random.default_rng(seed)))
    with torch.no_grad():
        weights = denoiser.sample_weights((users, items, third))
    return weights.double().cpu().numpy()
