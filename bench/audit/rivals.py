"""What other methods rank interactions by, watched in a run that is not theirs.

Loss-only: the loss of the last epoch. For cross-entropy that is the order of self-confidence, by
which confident learning ranks label issues (Northcutt et al., JAIR 2021; its package cleanlab takes
probabilities out of sample, here they are the training's own).

T-CE: the share of epochs in which its rule would drop the interaction; see
`bench/methods/t_ce.py`. Of equal shares the larger last loss goes first.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.data.interaction_data import InteractionData
from bench.methods.t_ce import TruncatedLoss, drop_rate_at, kept
from bench.training.batches import Batch
from bench.training.recipes import Recipe

DROP_RATES = (0.05, 0.1, 0.2)  # Wang et al., WSDM 2021, tune among these


class RivalRankings:
    """Notes each train interaction's loss of every step, and whether T-CE would drop it.

    The recipe of the run takes `loss_fn` in the place of its own; `note` follows each step.
    """

    def __init__(self, recipe: Recipe, data: InteractionData) -> None:
        self._recipe, self._n_items = recipe, data.n_items
        keys = data.train_users * data.n_items + data.train_items
        self._order = np.argsort(keys)
        self._keys = keys[self._order]
        self._step_losses = torch.empty(0)
        self._epochs = 0
        self._last = np.full(len(keys), np.nan)
        self._dropped = {rate: np.zeros(len(keys), dtype=np.int64) for rate in DROP_RATES}

    def loss_fn(self, model: nn.Module, batch: Batch) -> Tensor:
        """The recipe's losses, (B,), remembered until the next call."""
        losses = self._recipe.loss_fn(model, batch)
        self._step_losses = losses.detach()
        return losses

    def note(self, batch: Batch, epochs_done: float) -> None:
        """Writes down the batch just stepped on.

        Args:
            epochs_done: epochs begun and done so far, 1.5 in the middle of the second.
        """
        losses = self._step_losses
        observed = torch.ones(len(losses), dtype=torch.bool)
        if self._recipe.pointwise:
            observed = batch[2] > 0
        users, items = batch[0][observed].numpy(), batch[1][observed].numpy()
        rows = self._order[np.searchsorted(self._keys, users * self._n_items + items)]
        self._last[rows] = losses[observed].double().numpy()
        self._epochs = int(epochs_done) + 1
        for rate, counts in self._dropped.items():
            now = drop_rate_at(epochs_done / TruncatedLoss.ramp_epochs, rate)
            keep = kept(losses, observed, now)
            counts[rows[~keep[observed].numpy()]] += 1

    def scores(self) -> dict[str, NDArray[np.float64]]:
        """By ranking, each train interaction's score in the order of the data, largest first."""
        by_loss = np.argsort(np.argsort(self._last, kind="stable"), kind="stable") / len(self._last)
        found = {"loss of the last epoch": self._last}
        for rate, counts in self._dropped.items():
            found[f"T-CE, {rate:g}"] = (counts + 0.5 * by_loss) / self._epochs
        return found
