"""IR: iterative relabelling of both the observed and the unobserved by the model's own scores.

Source: Wang et al., Implicit Feedbacks are Not Always Favorable: Iterative Relabeled One-Class
Collaborative Filtering against Noisy Interactions, ACM MM 2021, and its published code: of a
user's observed items those with the highest scores stay positive and those with the lowest
become negative; of the unobserved items the few with the highest scores become positive.

Departures:

1. The original trains a new model on the labels of the one before, for tens of rounds. Here one
   model goes on, and its labels are refreshed every few epochs: a run costs what the other
   methods' runs cost.
2. Its shares of positives and negatives leave a middle that is classified by distance to two
   prototypes. In its published setting they add up to 1 and the middle is empty, as here.
3. The labels decide what is trained on, not the graph of a graph model or the input rows of CDAE,
   which stay those of the observed interactions; the original knows matrix factorisation alone.
4. The published setting for MovieLens-100K, where a user's observed items are a random part of all
   ratings, keeps 0.35 of them, makes 0.65 negative and adds 6. Here 0.05 to 0.2 become negative,
   which is what noise there is, and one item is added.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bench.data.interaction_data import InteractionData
from bench.methods.method import Epochs, Method
from bench.training.fit import Training, plain_epoch

_USERS_AT_ONCE = 512


def relabelled(
    scores: NDArray[np.float32], observed: NDArray[np.bool_], drop_rate: float, n_added: int
) -> NDArray[np.bool_]:
    """What counts as positive of each user's items by the scores.

    Of N_u observed items the floor(drop_rate * N_u) with the lowest scores are dropped, at least
    one of them staying; of the others the n_added with the highest are added.

    Args:
        scores: (U, n_items).
        observed: (U, n_items).

    Returns:
        (U, n_items) bool.
    """
    n_observed = observed.sum(axis=1)
    n_dropped = np.minimum(np.floor(drop_rate * n_observed), n_observed - 1)
    best_observed = _ranks(np.where(observed, scores, -np.inf))
    best_others = _ranks(np.where(observed, -np.inf, scores))
    stay = observed & (best_observed < (n_observed - n_dropped)[:, None])
    added = ~observed & (best_others < n_added)
    return np.asarray(stay | added, dtype=np.bool_)


def _ranks(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    # scores [.3, .9, .5] -> ranks [2, 0, 1]; ties by the lower item
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(scores.shape[1])[None, :], axis=1)
    return ranks


@dataclass(frozen=True)
class InteractiveRelabelling(Method):
    """Ordinary training on labels that are refreshed as the model learns."""

    drop_rate: float = 0.1
    """Share of a user's observed items that becomes negative."""
    n_added: int = 1
    """Unobserved items of a user that become positive."""
    first_epoch: int = 5
    """Epochs on the observed interactions before the first relabelling."""
    interval: int = 5
    """Epochs between two relabellings."""

    def start(self, training: Training) -> Epochs:
        """Ordinary epochs; the batches are made anew from each relabelling."""
        epochs = count()
        batches = training.batches
        generator = np.random.default_rng([training.seed, 1])

        def run_epoch() -> None:
            nonlocal batches
            epoch = next(epochs)
            if epoch >= self.first_epoch and (epoch - self.first_epoch) % self.interval == 0:
                data = self.refreshed(training.model, training.data)
                batches = training.recipe.batches(data, training.recipe.batch_size, generator)
            plain_epoch(
                training.model,
                training.optimizer,
                training.recipe.loss_fn,
                training.penalty_fn,
                batches,
            )

        return Epochs(run_epoch)

    @torch.no_grad()
    def refreshed(self, model: nn.Module, data: InteractionData) -> InteractionData:
        """The data with train interactions as the model relabels them; their flags are gone."""
        was_training = model.training
        model.eval()
        users: list[NDArray[np.int64]] = []
        items: list[NDArray[np.int64]] = []
        for start in range(0, data.n_users, _USERS_AT_ONCE):
            some = torch.arange(start, min(start + _USERS_AT_ONCE, data.n_users))
            scores = model.score_all_items(some).numpy()  # type: ignore[operator]
            observed = np.zeros(scores.shape, dtype=np.bool_)
            here = (data.train_users >= start) & (data.train_users < start + _USERS_AT_ONCE)
            observed[data.train_users[here] - start, data.train_items[here]] = True
            labels = relabelled(scores, observed, self.drop_rate, self.n_added)
            labels[~observed.any(axis=1)] = False  # nobody to learn from
            rows, columns = np.nonzero(labels)
            users.append(rows + start)
            items.append(columns)
        model.train(was_training)
        return replace(
            data,
            train_users=np.concatenate(users),
            train_items=np.concatenate(items),
            train_clean=None,
        )
