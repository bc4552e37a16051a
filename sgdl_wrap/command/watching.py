"""Evidence on every pair, from models that were not trained on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser
from sgdl_wrap.command.instrument import Factory, Plan, built, sample_losses

FOLDS = 4
Progress = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True)
class Evidence:
    """What is known of each pair.

    Attributes:
        suspicion: as the column of `report()`, (pairs,) float32, NaN where nothing is known.
        probability: that nobody chose the pair, (pairs,) float32, NaN likewise; its mean is
            `share`.
        share: of noise, in the middle of `interval`; the mean over the folds.
        interval: where the share lies, the mean over the folds of `denoiser.noise_share`.
        seconds: that it took.
    """

    suspicion: NDArray[np.float32]
    probability: NDArray[np.float32]
    share: float
    interval: tuple[float, float]
    seconds: float


def watch(
    users: NDArray[np.int64],
    items: NDArray[np.int64],
    *,
    factory: Factory | None = None,
    folds: int = FOLDS,
    passes: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Evidence:
    """Trains one model a fold, without its pairs, and looks at how strange they are to it.

    Evidence in sample flatters: a model that was trained on a pair has moved its user towards the
    item's other users. The fewer clicks a user has, the further.

    Args:
        users, items: of distinct pairs, (pairs,), numbered without gaps, in the order of (user,
            item).
        factory: of a model of the user's own.
        folds: 1 trains one model on all pairs.
        passes: over the pairs; None follows their number.
        progress: called after each step.
    """
    start = time.perf_counter()
    n_users, n_items = int(users.max()) + 1, int(items.max()) + 1
    keys = users * n_items + items
    fold_of = fold_numbers(users, folds, np.random.default_rng(0))
    plan = Plan.of(len(users))
    passes = plan.passes if passes is None else passes
    sizes = [len(users) - int((fold_of == f).sum()) * (folds > 1) for f in range(folds)]
    total, done = sum(-(-size // plan.batch) for size in sizes) * passes, 0
    suspicion = np.full(len(users), np.nan, dtype=np.float32)
    probability = suspicion.copy()
    shares, intervals = [], []
    pairs = torch.from_numpy(users), torch.from_numpy(items)
    for fold in range(folds):
        model, optimizer = built(factory, n_users, n_items)
        denoiser = SelfGuidedDenoiser(
            model, optimizer, sample_losses, interactions=pairs, n_items=n_items,
            config=DenoiserConfig(audit_only=True, seed=fold), explicit_epochs=True,
        )
        trained = np.flatnonzero(fold_of != fold) if folds > 1 else np.arange(len(users))
        generator = torch.Generator().manual_seed(fold)
        rows = torch.from_numpy(trained)
        for number in range(1, passes + 1):
            order = rows[torch.randperm(len(rows), generator=generator)]
            for first in range(0, len(order), plan.batch):
                ids = order[first : first + plan.batch]
                negatives = torch.randint(n_items, (len(ids),), generator=generator)
                batch = pairs[0][ids], pairs[1][ids], negatives
                denoiser.before_step(batch)
                denoiser.step(batch)
                done += 1
                progress(done, total)
            if 2 * number >= passes and (passes - number) % 2 == 0:  # a model half done says little
                denoiser.end_epoch()
        report = denoiser.report()
        places = np.searchsorted(keys, report["user"] * n_items + report["item"])
        held_out = fold_of[places] == fold if folds > 1 else np.ones(len(places), dtype=bool)
        suspicion[places[held_out]] = report["suspicion"][held_out]
        probability[places[held_out]] = report["noise_posterior"][held_out]
        share, interval = denoiser.history[-1].noise_share, denoiser.noise_share
        if share is not None and interval is not None:
            shares.append(share)
            intervals.append(interval)
    probability = np.where(np.isnan(suspicion), np.nan, probability).astype(np.float32)
    share = float(np.mean(shares)) if shares else 0.0
    low, high = np.mean(intervals, axis=0).tolist() if intervals else (0.0, 1.0)
    return Evidence(
        suspicion, scaled(probability, share), share, (low, high), time.perf_counter() - start
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread meanwhile.

    Steps of so small a model are too short to share: on two cores that others use, too, 200,000
    rows took 16 s on one thread and 140 s on two.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fold_numbers(
    users: NDArray[np.int64], folds: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """A fold for each pair, so that the pairs of a user are spread evenly over the folds.

    Args:
        users: of the pairs, ascending, (pairs,).
        folds: how many.
        generator: draws the order within a user.
    """
    order = np.lexsort((generator.random(len(users)), users))
    starts = np.searchsorted(users, users)  # where each pair's user begins
    first = generator.integers(folds, size=int(users.max()) + 1)[users]
    found = np.empty(len(users), dtype=np.int64)
    found[order] = (np.arange(len(users)) - starts + first) % folds
    return found


def scaled(probability: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """p · c, cut to 1, with c such that the mean of what is known is `share`, if that can be.

    Args:
        probability: (pairs,), NaN where nothing is known.
        share: of noise.
    """
    found = probability.astype(np.float64)
    for _ in range(20):  # what is cut raises c for the rest
        mean = float(np.nanmean(found)) if not np.isnan(found).all() else 0.0
        if mean <= 0 or abs(mean - share) < 1e-4:
            break
        found = np.minimum(found * (share / mean), 1.0)
    return found.astype(np.float32)
