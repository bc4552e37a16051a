"""The instrument: a small matrix factorization, trained to be looked at.

It is no recommender to serve. A model of your own can take its place: any callable that takes
the numbers of users and items and returns a module with ``model(users, items)`` for scores, or
that module and its optimizer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from sgdl_wrap.errors import DenoiserError

Factory = Callable[[int, int], Any]
RATE = 0.01  # of Adam
PENALTY = 0.02  # of the squared entries of the three rows of a sample
STEPS = 100  # in a pass over the pairs, about


@dataclass(frozen=True)
class Plan:
    """How the instrument is trained: it follows the number of pairs.

    Attributes:
        batch: pairs in a step; a power of two, so that a pass has about 100 steps.
        passes: over the pairs.
    """

    batch: int
    passes: int

    @classmethod
    def of(cls, pairs: int) -> Plan:
        """15 passes up to 300,000 pairs, 5 at 8 million: a pass of more pairs teaches more.

        Args:
            pairs: that are trained on.
        """
        batch = 1 << max(pairs // STEPS, 1).bit_length()
        passes = 15 * (300_000 / max(pairs, 300_000)) ** (1 / 3)
        return cls(min(max(batch, 256), 8192), max(5, round(passes)))


class MatrixFactorization(nn.Module):
    """Scores are <p_u, q_i> + b_i.

    Args:
        n_users, n_items: how many there are.
        width: of p_u and q_i.
        seed: of the start.
    """

    def __init__(self, n_users: int, n_items: int, *, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(n_users, width), nn.Embedding(n_items, width)
        self.bias = nn.Embedding(n_items, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.user.weight.normal_(0, 0.05, generator=generator)
            self.item.weight.normal_(0, 0.05, generator=generator)
            self.bias.weight.zero_()

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of pairs, (B,)."""
        scores: Tensor = (self.user(users) * self.item(items)).sum(-1) + self.bias(items)[:, 0]
        return scores

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """BPR's loss and the penalty of each sample, (B,)::

            -log σ(<p_u, q_i - q_j> + b_i - b_j) + 0.02 (|p_u|² + |q_i|² + |q_j|²)
        """
        user, liked, other = self.user(users), self.item(positives), self.item(negatives)
        ahead = (user * (liked - other)).sum(-1)
        ahead = ahead + (self.bias(positives) - self.bias(negatives))[:, 0]
        squares = user.square().sum(-1) + liked.square().sum(-1) + other.square().sum(-1)
        losses: Tensor = PENALTY * squares - F.logsigmoid(ahead)
        return losses


def sample_losses(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """``model.loss(users, positives, negatives)``; without it BPR's, -log σ(s_ui - s_uj), (B,)."""
    users, positives, negatives = batch
    own: Any = getattr(model, "loss", None)
    if callable(own):
        losses: Tensor = own(users, positives, negatives)
        return losses
    return -F.logsigmoid(model(users, positives) - model(users, negatives))


def built(factory: Factory | None, n_users: int, n_items: int) -> tuple[nn.Module, Optimizer]:
    """A model and its optimizer, the same ones at each call.

    Args:
        factory: the user's own; None is the instrument.
        n_users, n_items: how many there are.

    Raises:
        DenoiserError: the factory returns something else.
    """
    if factory is None:
        model: Any = MatrixFactorization(n_users, n_items)
        return model, Adam(model.parameters(), lr=RATE, fused=True)
    torch.manual_seed(0)
    model = factory(n_users, n_items)
    if isinstance(model, tuple) and len(model) == 2:
        model, optimizer = model
    else:
        optimizer = None
    if not isinstance(model, nn.Module):
        raise DenoiserError(
            f"Expected the factory to return a torch.nn.Module, got {type(model).__name__}. "
            "Return the module, or the module and its optimizer."
        )
    return model, Adam(model.parameters(), lr=RATE) if optimizer is None else optimizer


def factory_named(name: str) -> Factory:
    """The callable that ``package.module:factory`` names.

    Raises:
        DenoiserError: no such module, or nothing of that name in it.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise DenoiserError(
            f"Expected --model as package.module:factory, got {name!r}: {error}. "
            "Name a callable that takes the numbers of users and items."
        ) from error
    if not callable(found):
        raise DenoiserError(
            f"Expected --model to name a callable, got {type(found).__name__} for {name!r}. "
            "Name one that takes the numbers of users and items."
        )
    factory: Factory = found
    return factory
