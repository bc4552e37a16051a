"""T-CE: truncated cross-entropy, which drops the observed interactions of largest loss.

Source: Wang et al., Denoising Implicit Feedback for Recommendation, WSDM 2021, Sec. 4.2.1.

Departures:

1. The paper's drop rate counts observed interactions; its code takes it of the whole batch, which
   holds one negative per positive there and four here. Here it is of the observed ones.
2. The rate reaches its maximum after a number of epochs, the code's after a number of steps
   (30,000): data sets differ in the steps of an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from bench.methods.method import Epochs, Method
from bench.training.batches import Batch
from bench.training.fit import Training
from bench.training.recipes import Recipe


def drop_rate_at(progress: float, largest: float) -> float:
    """ε(T) = min(α T, ε_max): rises linearly while progress goes from 0 to 1, then stays.

    Source: Wang et al. 2021, Eq. 3, with T in units of the ramp's length.
    """
    return largest * min(progress, 1.0)


def kept(losses: Tensor, observed: Tensor, drop_rate: float) -> Tensor:
    """Which samples are trained on: all but the observed ones of the largest losses.

    floor(drop_rate * the number of observed samples) are dropped, and no negative.

    Args:
        losses: (B,).
        observed: whether each sample is an observed interaction, (B,) bool.
        drop_rate: ε, in [0, 1).

    Returns:
        (B,) bool.

    Source: Wang et al. 2021, Eq. 2; its threshold τ is the quantile that the drop rate makes it.
    """
    n_dropped = int(drop_rate * int(observed.sum()))
    keep = torch.ones_like(observed)
    keep[losses.detach().masked_fill(~observed, -torch.inf).topk(n_dropped).indices] = False
    return keep


@dataclass(frozen=True)
class TruncatedLoss(Method):
    """Trains on the mean loss of what the truncation keeps."""

    drop_rate: float = 0.2
    """ε_max. Paper: tuned among 0.05, 0.1, 0.2."""
    ramp_epochs: float = 5.0
    """Epochs until the drop rate has reached it."""

    def supports(self, recipe: Recipe) -> bool:
        """Pointwise losses alone: a pair's loss says nothing of its positive item by itself."""
        return recipe.pointwise

    def start(self, training: Training) -> Epochs:
        """Epochs of ordinary steps on truncated batches."""
        epochs = count()

        def run_epoch() -> None:
            epoch = next(epochs)
            batches = list(training.batches)
            for step, batch in enumerate(batches):
                progress = (epoch + step / len(batches)) / self.ramp_epochs
                self._step(training, batch, drop_rate_at(progress, self.drop_rate))

        return Epochs(run_epoch)

    def _step(self, training: Training, batch: Batch, drop_rate: float) -> None:
        losses = training.recipe.loss_fn(training.model, batch)
        loss = losses[kept(losses, batch[2] > 0, drop_rate)].mean()
        if training.penalty_fn is not None:
            loss = loss + training.penalty_fn(training.model, batch)
        training.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        training.optimizer.step()
