"""Families whose loss looks at many items at once: Mult-VAE, and two towers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize, relu

from bench.data.interaction_data import InteractionData
from bench.families.family import Family, Settings

TEMPERATURE = 0.2


@dataclass
class WholeUsers:
    """Users and their observed pairs: rows of `users`, and pairs by the place of their user."""

    users: Tensor
    places: Tensor
    items: Tensor


class UserBatches:
    """Each user once a pass, with all its pairs."""

    def __init__(
        self, data: InteractionData, batch_size: int, generator: np.random.Generator
    ) -> None:
        order = np.argsort(data.train_users, kind="stable")
        self._users = torch.from_numpy(np.unique(data.train_users))
        sizes = np.unique(data.train_users, return_counts=True)[1]
        self._items = list(torch.from_numpy(data.train_items[order]).split(sizes.tolist()))
        self._size, self._generator = batch_size, generator

    def __iter__(self) -> Iterator[WholeUsers]:
        order = self._generator.permutation(len(self._users))
        for start in range(0, len(order), self._size):
            some = order[start : start + self._size]
            items = [self._items[place] for place in some]
            places = torch.repeat_interleave(torch.tensor([len(i) for i in items]))
            yield WholeUsers(self._users[torch.from_numpy(some)], places, torch.cat(items))


class MultVAE(nn.Module):
    """q(z | x) = N(μ(x), σ(x)), p(x | z) ∝ softmax(f(z)). Liang et al., WWW 2018."""

    def __init__(self, data: InteractionData, hidden: int = 200, width: int = 64) -> None:
        super().__init__()
        self.encoder, self.code = nn.Linear(data.n_items, hidden), nn.Linear(hidden, 2 * width)
        self.decoder, self.output = nn.Linear(width, hidden), nn.Linear(hidden, data.n_items)
        self.dropout = nn.Dropout(0.5)
        rows = torch.zeros(data.n_users, data.n_items)
        rows[torch.from_numpy(data.train_users), torch.from_numpy(data.train_items)] = 1
        self.register_buffer("clicks", rows)

    def encoded(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ², (U, width) each."""
        clicks = self.dropout(normalize(cast(Tensor, self.clicks)[users]))
        mean, log_variance = self.code(torch.tanh(self.encoder(clicks))).chunk(2, dim=1)
        return mean, log_variance

    def decoded(self, z: Tensor) -> Tensor:
        """Logits, (U, n_items)."""
        return cast(Tensor, self.output(torch.tanh(self.decoder(z))))

    def score_all_items(self, users: Tensor) -> Tensor:
        """(U, n_items), by the mean of z."""
        return self.decoded(self.encoded(users)[0])


def vae_loss(model: nn.Module, batch: WholeUsers) -> Tensor:
    """-log p(i | z_u) of each pair, and 0.2 KL of its user, divided among its pairs, (B,)."""
    vae = cast(MultVAE, model)
    mean, log_variance = vae.encoded(batch.users)
    z = mean
    if model.training:
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
    log_p = log_softmax(vae.decoded(z), dim=1)[batch.places, batch.items]
    divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1) / 2
    sizes = torch.bincount(batch.places, minlength=len(batch.users))
    return 0.2 * (divergence / sizes)[batch.places] - log_p


def vae_pairs(batch: WholeUsers) -> tuple[Tensor, Tensor]:
    """The observed pairs of a batch."""
    return batch.users[batch.places], batch.items


def by_user(model: nn.Module, users: Tensor, items: Tensor) -> Tensor:
    """Scores of pairs out of all scores of the users; users come in order."""
    distinct, places = torch.unique_consecutive(users, return_inverse=True)
    scores: Tensor = model.score_all_items(distinct)  # type: ignore[operator]
    return scores[places, items]


MULT_VAE = Family(
    "multi-vae", MultVAE, UserBatches, vae_loss, None,
    Settings(0.001, 1e-5, 64, epochs=100, patience=20, history_length=10),
    score_fn=by_user, pair_fn=vae_pairs,
)


class TwoTowers(nn.Module):
    """score = cos(f(u), g(i)) / τ, each tower an embedding and a hidden layer."""

    def __init__(self, data: InteractionData, width: int = 64) -> None:
        super().__init__()
        self.users, self.items = (nn.Embedding(n, width) for n in (data.n_users, data.n_items))
        self.user_layer, self.item_layer = nn.Linear(width, width), nn.Linear(width, width)
        counts = np.bincount(data.train_items, minlength=data.n_items)
        share = torch.from_numpy(np.maximum(counts, 1) / counts.sum()).float()
        self.register_buffer("log_q", share.log())

    def user(self, ids: Tensor) -> Tensor:
        """f(u), of length 1."""
        rows = self.users(ids)
        return normalize(rows + relu(self.user_layer(rows)))

    def item(self, ids: Tensor) -> Tensor:
        """g(i), of length 1."""
        rows = self.items(ids)
        return normalize(rows + relu(self.item_layer(rows)))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of pairs, (K,)."""
        return (self.user(users) * self.item(items)).sum(dim=-1) / TEMPERATURE

    def score_all_items(self, users: Tensor) -> Tensor:
        """(U, n_items)."""
        return self.user(users) @ self.item(torch.arange(self.items.num_embeddings)).T / TEMPERATURE


def in_batch_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """-log softmax over the batch's items of s - log q, (B,). Yi et al., RecSys 2019."""
    towers, (users, items) = cast(TwoTowers, model), batch
    logits = towers.user(users) @ towers.item(items).T / TEMPERATURE
    logits = logits - cast(Tensor, towers.log_q)[items]
    same = (items[:, None] == items) & ~torch.eye(len(items), dtype=torch.bool)
    return -log_softmax(logits.masked_fill(same, -1e9), dim=1).diagonal()


class PairBatches:
    """(users, items), each pair once a pass."""

    def __init__(
        self, data: InteractionData, batch_size: int, generator: np.random.Generator
    ) -> None:
        self._columns = torch.from_numpy(data.train_users), torch.from_numpy(data.train_items)
        self._size, self._generator = batch_size, generator

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        users, items = self._columns
        order = torch.from_numpy(self._generator.permutation(len(users)))
        for some in order.split(self._size):
            yield users[some], items[some]


TWO_TOWERS = Family(
    "two-towers", TwoTowers, PairBatches, in_batch_loss, None,
    Settings(0.001, 1e-5, 512, epochs=60, patience=15, history_length=10),
)
