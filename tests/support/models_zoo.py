"""Small recommenders of every kind the denoiser claims to understand, and data to train them on.

Every entry of ZOO builds a fresh model with its loss and two batches, in float32 or float64, and
draws nothing from the caller's random streams.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.lightgcn import LightGCN, bpr_loss
from bench.models.neumf import NeuMF, bce_loss
from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser
from sgdl_wrap.guiding.weighting import WeightingFunction

N_USERS, N_ITEMS, WIDTH = 12, 15, 8


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The three global random streams start at `seed` inside and are as before after."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def stream_states() -> tuple[bytes, tuple[Any, ...], tuple[Any, ...]]:
    """The states of the global streams of torch, numpy and Python, comparable with ``==``."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return (
        torch.get_rng_state().numpy().tobytes(),
        (name, keys.tobytes(), *rest),
        random.getstate(),
    )


# ------------------------------------------------------------------ models


class MLPScorer(nn.Module):
    """score(u, i) = v·tanh(W [e_u; e_i])."""

    def __init__(self, n_users: int = N_USERS, n_items: int = N_ITEMS) -> None:
        super().__init__()
        self.user = nn.Embedding(n_users, WIDTH)
        self.item = nn.Embedding(n_items, WIDTH)
        self.tower = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return self.tower(torch.cat([self.user(users), self.item(items)], dim=1)).squeeze(1)


class TiedAutoencoder(nn.Module):
    """One table encodes and decodes, and one layer stands under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(N_USERS, WIDTH)
        self.item = nn.Embedding(N_ITEMS, WIDTH)
        self.encode = nn.Linear(WIDTH, WIDTH)
        self.again = self.encode
        self.decode = nn.Linear(WIDTH, N_ITEMS)
        self.decode.weight = self.item.weight

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        hidden = torch.tanh(self.encode(self.user(users)))
        hidden = hidden + torch.tanh(self.again(self.item(items)))
        return self.decode(hidden).gather(1, items[:, None]).squeeze(1)


class BatchNormScorer(nn.Module):
    def __init__(self, n_users: int = N_USERS, n_items: int = N_ITEMS) -> None:
        super().__init__()
        self.user = nn.Embedding(n_users, WIDTH)
        self.item = nn.Embedding(n_items, WIDTH)
        self.norm = nn.BatchNorm1d(2 * WIDTH)
        self.output = nn.Linear(2 * WIDTH, 1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        joined = torch.cat([self.user(users), self.item(items)], dim=1)
        return self.output(torch.tanh(self.norm(joined))).squeeze(1)


class DropoutScorer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(N_USERS, WIDTH)
        self.item = nn.Embedding(N_ITEMS, WIDTH)
        self.dropout = nn.Dropout(0.5)
        self.output = nn.Linear(WIDTH, 1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return self.output(self.dropout(self.user(users) * self.item(items) + 1)).squeeze(1)


class SequentialLSTM(nn.Module):
    """score = h_T(history)·e_i, item 0 as padding."""

    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(N_ITEMS, WIDTH, padding_idx=0)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, history: Tensor, items: Tensor) -> Tensor:
        states, _ = self.lstm(self.item(history))
        return (states[:, -1] * self.item(items)).sum(dim=1)


class SequentialAttention(nn.Module):
    """LayerNorm and MultiheadAttention(need_weights=True), which has a second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(N_ITEMS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, history: Tensor, items: Tensor) -> Tensor:
        seen = self.norm(self.item(history))
        mixed, _ = self.attention(seen, seen, seen, need_weights=True)
        return (mixed.mean(dim=1) * self.item(items)).sum(dim=1)


class ParameterListScorer(nn.Module):
    """Tables and biases in a ParameterList and a ParameterDict."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ParameterList(
            [torch.randn(N_USERS, WIDTH), torch.randn(N_ITEMS, WIDTH)]
        )
        self.biases = nn.ParameterDict({"item": torch.randn(N_ITEMS), "all": torch.randn(())})

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        products = (self.tables[0][users] * self.tables[1][items]).sum(dim=1)
        return products + self.biases["item"][items] + self.biases["all"]


# ------------------------------------------------------------------ losses


def by_hand_loss(model: nn.Module, batch: Any) -> Tensor:
    """Calls submodules of an MLPScorer one by one, never its forward."""
    users, items, labels = batch
    joined = torch.cat([model.user(users), model.item(items)], dim=1)
    logits = model.tower[2](torch.tanh(model.tower[0](joined))).squeeze(1)
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")


def sequence_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = model(batch["history"], batch["item"])
    return F.binary_cross_entropy_with_logits(logits, batch["label"], reduction="none")


def in_batch_softmax_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Every other item of the batch is a negative: rows cannot be taken alone."""
    users, items = batch
    scores = model.user(users) @ model.item(items).T
    return F.cross_entropy(scores, torch.arange(len(users)), reduction="none")


# ------------------------------------------------------------------ the zoo


@dataclass
class Case:
    """A model, its per-sample loss, and two batches: one to train on, one to guide."""

    name: str
    model: nn.Module
    loss_fn: Callable[[nn.Module, Any], Tensor]
    batch: Any
    guidance: Any
    dtype: torch.dtype

    def trainable(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]


def _labelled(size: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return (
        torch.from_numpy(rng.integers(N_USERS, size=size)),
        torch.from_numpy(rng.integers(N_ITEMS, size=size)),
        torch.from_numpy(rng.integers(2, size=size)).to(dtype),
    )


def _triples(size: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    positives = rng.integers(N_ITEMS, size=size)
    negatives = (positives + rng.integers(1, N_ITEMS, size=size)) % N_ITEMS  # never the same
    return (
        torch.from_numpy(rng.integers(N_USERS, size=size)),
        torch.from_numpy(positives),
        torch.from_numpy(negatives),
    )


def _sequences(size: int, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    return {
        "history": torch.from_numpy(rng.integers(N_ITEMS, size=(size, 4))),
        "item": torch.from_numpy(rng.integers(1, N_ITEMS, size=size)),
        "label": torch.from_numpy(rng.integers(2, size=size)).to(dtype),
    }


def _lightgcn() -> nn.Module:
    rng = np.random.default_rng(7)
    users = torch.from_numpy(rng.integers(N_USERS, size=60))
    items = torch.from_numpy(rng.integers(N_ITEMS, size=60))
    return LightGCN(N_USERS, N_ITEMS, users, items, embedding_dim=WIDTH, n_layers=2)


def _frozen() -> nn.Module:
    model = MLPScorer()
    model.user.requires_grad_(False)
    model.tower[0].bias.requires_grad_(False)
    return model


_Make = Callable[[], nn.Module]
_Batch = Callable[[int, int, torch.dtype], Any]
_Entry = tuple[_Make, Callable[[nn.Module, Any], Tensor], _Batch]
_ENTRIES: dict[str, _Entry] = {
    "mlp": (MLPScorer, bce_loss, _labelled),
    "neumf": (lambda: NeuMF(N_USERS, N_ITEMS, embedding_dim=WIDTH), bce_loss, _labelled),
    "lightgcn": (_lightgcn, bpr_loss, _triples),
    "tied": (TiedAutoencoder, bce_loss, _labelled),
    "frozen": (_frozen, bce_loss, _labelled),
    "by_hand": (MLPScorer, by_hand_loss, _labelled),
    "batchnorm": (BatchNormScorer, bce_loss, _labelled),
    "dropout": (DropoutScorer, bce_loss, _labelled),
    "lstm": (SequentialLSTM, sequence_loss, _sequences),
    "attention": (SequentialAttention, sequence_loss, _sequences),
    "parameter_list": (ParameterListScorer, bce_loss, _labelled),
}
ZOO = tuple(_ENTRIES)
# the models whose derivatives are compared with an unrolled reference
UNROLLED = ("mlp", "neumf", "lightgcn", "tied", "frozen", "by_hand")


def make(name: str, dtype: torch.dtype = torch.float32, *, size: int = 12, seed: int = 3) -> Case:
    """A fresh case of the zoo, in training mode."""
    build, loss_fn, batch = _ENTRIES[name]
    with seeded(seed):
        model = build().to(dtype)
    return Case(
        name, model, loss_fn, batch(size, seed, dtype), batch(size - 3, seed + 1, dtype), dtype
    )


# ------------------------------------------------------------------ data to train on


@dataclass(frozen=True)
class TinyData:
    """Two tastes, two halves of the catalogue, and some clicks out of taste."""

    users: np.ndarray
    items: np.ndarray
    n_users: int
    n_items: int

    def __len__(self) -> int:
        return len(self.users)

    def tensors(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.users), torch.from_numpy(self.items)

    def ids(self, users: Tensor, items: Tensor) -> Tensor:
        """Places of pairs among the observed, sorted by user and item; -1 where unobserved."""
        order = {
            pair: place
            for place, pair in enumerate(
                sorted(zip(self.users.tolist(), self.items.tolist(), strict=True))
            )
        }
        pairs = zip(users.tolist(), items.tolist(), strict=True)
        return torch.tensor([order.get(pair, -1) for pair in pairs])


def tiny_data(n_users: int = 20, n_items: int = 30, clean: int = 7, noisy: int = 2) -> TinyData:
    rng = np.random.default_rng(0)
    users, items = [], []
    half = n_items // 2
    for user in range(n_users):
        liked = np.arange(half) + (user % 2) * half
        other = np.setdiff1d(np.arange(n_items), liked)
        items += [*rng.choice(liked, clean, replace=False)]
        items += [*rng.choice(other, noisy, replace=False)]
        users += [user] * (clean + noisy)
    return TinyData(np.array(users), np.array(items, dtype=np.int64), n_users, n_items)


Triple = tuple[Tensor, Tensor, Tensor]


def triple_epoch(data: TinyData, epoch: int, batch_size: int = 50) -> list[Triple]:
    """(users, positives, negatives) of one epoch, the same whenever asked for."""
    rng = np.random.default_rng([11, epoch])
    order = rng.permutation(len(data))
    columns = (data.users[order], data.items[order], rng.integers(data.n_items, size=len(data)))
    return _batches(columns, batch_size)


def labelled_epoch(data: TinyData, epoch: int, batch_size: int = 100) -> list[Triple]:
    """(users, items, labels) of one epoch, one unobserved pair for each observed one."""
    rng = np.random.default_rng([12, epoch])
    observed = np.zeros((data.n_users, data.n_items), dtype=bool)
    observed[data.users, data.items] = True
    free = [np.flatnonzero(~observed[user]) for user in range(data.n_users)]
    negatives = np.array([rng.choice(free[user]) for user in data.users])
    labels = np.repeat(np.array([1.0, 0.0], dtype=np.float32), len(data))
    order = rng.permutation(2 * len(data))
    users = np.concatenate([data.users, data.users])[order]
    items = np.concatenate([data.items, negatives])[order]
    return _batches((users, items, labels[order]), batch_size)


def _batches(columns: tuple[np.ndarray, ...], batch_size: int) -> list[Any]:
    tensors = [torch.from_numpy(column) for column in columns]
    return [
        tuple(t[start : start + batch_size] for t in tensors)
        for start in range(0, len(tensors[0]), batch_size)
    ]


def tiny_lightgcn(data: TinyData, seed: int = 5) -> LightGCN:
    with seeded(seed):
        return LightGCN(data.n_users, data.n_items, *data.tensors(), embedding_dim=8, n_layers=2)


def tiny_neumf(data: TinyData, seed: int = 5, dropout: float = 0.0) -> NeuMF:
    with seeded(seed):
        return NeuMF(data.n_users, data.n_items, embedding_dim=8, n_layers=2, dropout=dropout)


def tiny_batchnorm(data: TinyData, seed: int = 5) -> BatchNormScorer:
    with seeded(seed):
        return BatchNormScorer(data.n_users, data.n_items)


# ------------------------------------------------------------------ denoisers of it

WATCHING = DenoiserConfig(history_length=50)  # no switch in so few epochs
# switches after the first epoch, and learns often, as its epochs are short; of so few pairs no
# noise is sure, and weights that follow the evidence would all be one
SWITCHING = DenoiserConfig(
    history_length=1, noise_rate=0.9, guidance_interval=2, evidence_weights=False
)


def settled(**changes: Any) -> DenoiserConfig:
    """As a pointwise loss settles it: what Phase II is built with."""
    return DenoiserConfig().but(**{"evidence_weights": False, **changes}).settled(pointwise=True)


def tiny_denoiser(data: TinyData, kind: str = "lightgcn", **changes: Any) -> SelfGuidedDenoiser:
    """A denoiser of a lightgcn, neumf (with dropout) or batchnorm; `changes` go before all."""
    if kind == "lightgcn":
        loss_fn, make_model = bpr_loss, tiny_lightgcn
    elif kind == "neumf":
        loss_fn, make_model = bce_loss, functools.partial(tiny_neumf, dropout=0.2)
    else:
        loss_fn, make_model = bce_loss, tiny_batchnorm
    arguments: dict[str, Any] = {"interactions": data.tensors(), "n_items": data.n_items}
    arguments.update(changes)
    model = arguments.pop("model", None) or make_model(data)
    optimizer = arguments.pop("optimizer", None) or torch.optim.Adam(model.parameters(), lr=0.02)
    return SelfGuidedDenoiser(model, optimizer, arguments.pop("loss_fn", loss_fn), **arguments)


def build(kind: str = "lightgcn", **changes: Any) -> SelfGuidedDenoiser:
    """A denoiser on `tiny_data` that switches after its first epoch, if `changes` are silent."""
    return tiny_denoiser(tiny_data(), kind, **{"config": SWITCHING, **changes})


def batches_of(kind: str, epoch: int) -> list[Any]:
    """An epoch of `tiny_data` as that kind's loss takes it."""
    layout = triple_epoch if kind == "lightgcn" else labelled_epoch
    return layout(tiny_data(), epoch)


def train(
    denoiser: SelfGuidedDenoiser, kind: str = "lightgcn", epochs: int = 1, start: int = 0
) -> list[float]:
    """Trains it on epochs of `tiny_data`, the first numbered `start`; the loss of each step."""
    losses = []
    with seeded(23):
        for epoch in range(start, start + epochs):
            for batch in batches_of(kind, epoch):
                denoiser.before_step(batch)
                losses.append(float(denoiser.step(batch)))
    return losses


def weights_of_one(self: WeightingFunction, features: Tensor) -> Tensor:
    """In the place of `WeightingFunction.forward`: what g gives changes nothing."""
    hidden = torch.relu(self.hidden(features[:, : self.hidden.in_features]))
    return 1.0 + 0.0 * self.output(hidden).squeeze(-1)  # one, with a graph to ψ


# ------------------------------------------------------------------ comparing


def snapshot(model: nn.Module, *optimizers: torch.optim.Optimizer) -> dict[str, Any]:
    """Parameters, gradients, buffers, flags and optimizer states, copied."""
    return {
        "parameters": {n: p.detach().clone() for n, p in model.named_parameters()},
        "storages": {n: p.data_ptr() for n, p in model.named_parameters()},
        "gradients": {
            n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()
        },
        "buffers": {n: b.clone() for n, b in model.named_buffers()},
        "training": {n: m.training for n, m in model.named_modules()},
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "optimizers": [_copied(o.state_dict()) for o in optimizers],
    }


def without(tree: Any, *names: str) -> Any:
    """A tree of dicts, lists and tuples without the entries of these names, at any depth.

    "seconds" stands for every reading of the clock, and for the seal of a state, which covers them.
    """
    if "seconds" in names:
        names = (*names, "plain_seconds", "seal")
    if isinstance(tree, dict):
        return {k: without(v, *names) for k, v in tree.items() if k not in names}
    if isinstance(tree, (list, tuple)):
        return type(tree)(without(value, *names) for value in tree)
    return tree


def assert_identical(found: Any, expected: Any, where: str = "root") -> None:
    """Trees of tensors and plain values, equal bit by bit."""
    assert type(found) is type(expected), where
    if isinstance(expected, Tensor):
        assert found.shape == expected.shape, where
        assert found.dtype == expected.dtype, where
        if found.layout != torch.strided:
            found, expected = found.to_dense(), expected.to_dense()
        same = torch.equal(found.nan_to_num(1.5e30), expected.nan_to_num(1.5e30)) if (
            expected.dtype.is_floating_point
        ) else torch.equal(found, expected)
        assert same, f"{where}: {found} is not {expected}"
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected:
            assert_identical(found[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_identical(one, other, f"{where}[{place}]")
    else:
        assert found == expected, f"{where}: {found!r} is not {expected!r}"


def _copied(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, dict):
        return {name: _copied(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_copied(value) for value in tree)
    return tree


def relative_gap(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest difference against the largest entry expected, over all tensors together."""
    one = torch.cat([t.detach().double().flatten() for t in found])
    other = torch.cat([t.detach().double().flatten() for t in expected])
    assert one.shape == other.shape
    assert float(other.abs().max()) > 0, "the reference is all zero: nothing is compared"
    return float((one - other).abs().max() / other.abs().max())
