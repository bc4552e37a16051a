"""The two obvious ways to learn the weights, for scale: unrolling, and a loop over samples."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import nn

from bench.speed.workload import Workload
from bench.training.batches import Batch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # an invalid escape in higher's source
    import higher

GUIDANCE_SIZE = 256  # DenoiserConfig's default


def unrolled(workload: Workload) -> Callable[[Batch], None]:
    """A Phase II step as one would write it with higher: a full unroll of one assumed update.

    Weights are learned, guidance is weighted equally: no scheduler and no gradient factor, which
    would cost more. The guidance is the first 256 samples of the batch before.
    """
    model, optimizer = workload.start()
    weighting = nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 1), nn.Sigmoid())
    weighting_optimizer = torch.optim.Adam(weighting.parameters(), lr=0.005)
    assumed = torch.optim.SGD(model.parameters(), lr=workload.case.learning_rate)
    guidance = workload.batches[-1]

    def step(batch: Batch) -> None:
        nonlocal guidance
        with higher.innerloop_ctx(
            model, assumed, copy_initial_weights=False, track_higher_grads=True
        ) as (virtual, differentiable):
            losses = workload.loss_fn(virtual, batch)
            weights = weighting(losses.detach()[:, None]).squeeze(1)
            differentiable.step((weights * losses).mean())
            users, items, third = (column[:GUIDANCE_SIZE] for column in guidance)
            judged = workload.loss_fn(virtual, (users, items, third)).mean()
            gradients = torch.autograd.grad(judged, list(weighting.parameters()))
        for parameter, gradient in zip(weighting.parameters(), gradients, strict=True):
            parameter.grad = gradient
        weighting_optimizer.step()

        losses = workload.loss_fn(model, batch)
        with torch.no_grad():
            weights = weighting(losses.detach()[:, None]).squeeze(1)
        objective = (weights * losses).mean()
        penalty = workload.penalty(model, batch)
        if penalty is not None:
            objective = objective + penalty
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        guidance = batch

    return step


def sample_gradient_ms(workload: Workload, samples: int = 8) -> float:
    """Median time of one sample's `autograd.grad`, out of a few samples of one batch."""
    model, _ = workload.start()
    parameters = list(model.parameters())
    losses = workload.loss_fn(model, workload.batches[0])
    times = []
    for loss in losses[: samples + 1]:
        start = time.perf_counter()
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])  # the first one warms up
