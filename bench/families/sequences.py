"""Sequence models: SASRec by two losses, and GRU4Rec."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from bench.data.interaction_data import InteractionData
from bench.families.family import Family, Settings
from bench.families.in_batch import by_user
from bench.training.batches import NegativeSampler

WINDOW, WIDTH = 50, 48


@dataclass
class Windows:
    """Windows of histories: `inputs` (W, L) are one step behind `targets`, 0 pads both.

    Items count from 1. `users` (W,), `negatives` (W, L).
    """

    users: Tensor
    inputs: Tensor
    targets: Tensor
    negatives: Tensor


class WindowBatches:
    """Each interaction is a target once a pass; a long history is cut into windows.

    A batch holds about as many windows as `batch_size`. The start token is n_items + 1.
    """

    def __init__(
        self, data: InteractionData, batch_size: int, generator: np.random.Generator
    ) -> None:
        self._size, self._generator = batch_size, generator
        self._sampler = NegativeSampler(data.train_users, data.train_items, data.n_items)
        users, inputs, targets = [], [], []
        for user, history in histories(data).items():
            shifted = np.concatenate([[data.n_items + 1], history[:-1] + 1])
            for start in range(0, len(history), WINDOW):
                part = slice(start, start + WINDOW)
                users.append(user)
                inputs.append(padded(shifted[part]))
                targets.append(padded(history[part] + 1))
        self._users = np.array(users)
        self._inputs, self._targets = np.stack(inputs), np.stack(targets)

    def __iter__(self) -> Iterator[Windows]:
        order = self._generator.permutation(len(self._users))
        for start in range(0, len(order), self._size):
            some = order[start : start + self._size]
            users = np.repeat(self._users[some], WINDOW)
            drawn = self._sampler.draw(users, self._generator).reshape(-1, WINDOW) + 1
            columns = self._users[some], self._inputs[some], self._targets[some], drawn
            yield Windows(*map(torch.from_numpy, columns))


def histories(data: InteractionData) -> dict[int, np.ndarray]:
    """Each user's items in the order of the rows."""
    order = np.argsort(data.train_users, kind="stable")
    users, starts = np.unique(data.train_users[order], return_index=True)
    return dict(zip(users.tolist(), np.split(data.train_items[order], starts[1:]), strict=True))


def padded(items: np.ndarray) -> np.ndarray:
    """The last WINDOW of them, zeros in front."""
    found = np.zeros(WINDOW, dtype=np.int64)
    last = items[-WINDOW:]
    found[WINDOW - len(last) :] = last
    return found


class SequenceModel(nn.Module):
    """State after each item, (W, L, WIDTH); scores are products with the items' embeddings."""

    def __init__(self, data: InteractionData) -> None:
        super().__init__()
        self.items = nn.Embedding(data.n_items + 2, WIDTH, padding_idx=0)
        nn.init.normal_(self.items.weight, std=0.05)
        rows = np.zeros((data.n_users, WINDOW), dtype=np.int64)
        for user, history in histories(data).items():
            rows[user] = padded(history + 1)
        self.register_buffer("rows", torch.from_numpy(rows))
        self.n_items = data.n_items
        self.dropout = nn.Dropout(0.2)

    def states(self, inputs: Tensor) -> Tensor:
        """(W, L, WIDTH)."""
        raise NotImplementedError

    def catalogue(self) -> Tensor:
        """Embeddings of the real items, (n_items, WIDTH)."""
        return self.items.weight[1 : self.n_items + 1]

    def score_all_items(self, users: Tensor) -> Tensor:
        """(U, n_items), of what comes next."""
        return self.states(cast(Tensor, self.rows)[users])[:, -1] @ self.catalogue().T


class SASRec(SequenceModel):
    """Two causal blocks of self-attention. Kang and McAuley, ICDM 2018."""

    def __init__(self, data: InteractionData) -> None:
        super().__init__(data)
        self.places = nn.Embedding(WINDOW, WIDTH)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "norm": nn.LayerNorm(WIDTH), "attend": nn.Linear(WIDTH, 3 * WIDTH),
                "norm_2": nn.LayerNorm(WIDTH), "inner": nn.Linear(WIDTH, WIDTH),
                "outer": nn.Linear(WIDTH, WIDTH),
            })
            for _ in range(2)
        )  # fmt: skip
        self.norm = nn.LayerNorm(WIDTH)

    def states(self, inputs: Tensor) -> Tensor:
        """(W, L, WIDTH); attention is written out, as torch's own has no second derivative."""
        x = self.dropout(self.items(inputs) * WIDTH**0.5 + self.places.weight)
        later = torch.ones(WINDOW, WINDOW, dtype=torch.bool).triu(1)
        unseen = later | (inputs == 0)[:, None, :]
        for block in self.blocks:
            parts = cast(nn.ModuleDict, block)
            q, k, v = parts["attend"](parts["norm"](x)).chunk(3, dim=-1)
            scores = (q @ k.transpose(1, 2) / WIDTH**0.5).masked_fill(unseen, -1e9)
            x = x + self.dropout(scores.softmax(dim=-1) @ v)
            inner = torch.relu(parts["inner"](parts["norm_2"](x)))
            x = x + self.dropout(parts["outer"](inner))
        return cast(Tensor, self.norm(x))


class GRU4Rec(SequenceModel):
    """One layer of GRU. Hidasi et al., ICLR 2016."""

    def __init__(self, data: InteractionData) -> None:
        super().__init__(data)
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def states(self, inputs: Tensor) -> Tensor:
        """(W, L, WIDTH)."""
        return self.dropout(self.gru(self.dropout(self.items(inputs)))[0])


def sampled_bce(model: nn.Module, batch: Windows) -> Tensor:
    """-log σ(s_pos) - log(1 - σ(s_neg)) at each target, (B,)."""
    sequence, real = cast(SequenceModel, model), batch.targets > 0
    states = sequence.states(batch.inputs)[real]
    positive = (states * sequence.items(batch.targets[real])).sum(dim=-1)
    negative = (states * sequence.items(batch.negatives[real])).sum(dim=-1)
    return softplus(-positive) + softplus(negative)


def full_cross_entropy(model: nn.Module, batch: Windows) -> Tensor:
    """-log softmax over the catalogue at each target, (B,)."""
    sequence, real = cast(SequenceModel, model), batch.targets > 0
    logits = sequence.states(batch.inputs)[real] @ sequence.catalogue().T
    return cross_entropy(logits, batch.targets[real] - 1, reduction="none")


def target_pairs(batch: Windows) -> tuple[Tensor, Tensor]:
    """The pairs that are predicted."""
    real = batch.targets > 0
    return batch.users[:, None].expand_as(batch.targets)[real], batch.targets[real] - 1


_sequence = partial(
    Family, batches=WindowBatches, penalty_fn=None, score_fn=by_user, pair_fn=target_pairs,
    sequential=True,
)
_by_bce = Settings(0.001, 0.0, 32, epochs=100, patience=20, history_length=10)
_by_cross_entropy = Settings(0.002, 0.0, 16, epochs=30, patience=8, history_length=4)
SASREC_BCE = _sequence(name="sasrec-bce", build=SASRec, loss_fn=sampled_bce, settings=_by_bce)
SASREC_CE = _sequence(
    name="sasrec-ce", build=SASRec, loss_fn=full_cross_entropy, settings=_by_cross_entropy
)
GRU4REC = _sequence(
    name="gru4rec", build=GRU4Rec, loss_fn=full_cross_entropy, settings=_by_cross_entropy
)
