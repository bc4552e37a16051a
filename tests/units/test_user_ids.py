"""Ids of users may be any integers: memory and results follow how many there are, not how large."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import sklearn.mixture  # noqa: F401  (its import may draw from the streams: test_plain_equality)
import torch
from torch import Tensor

from bench.models.lightgcn import bpr_loss
from bench.models.neumf import bce_loss
from sgdl_wrap import (
    BatchError,
    DenoiserWarning,
    InteractionsError,
    Phase,
    SelfGuidedDenoiser,
    StateError,
)
from tests.support.models_zoo import (
    SWITCHING,
    assert_identical,
    batches_of,
    seeded,
    snapshot,
    tiny_data,
    tiny_denoiser,
    without,
)

DATA = tiny_data()
LOSSES = {"lightgcn": bpr_loss, "neumf": bce_loss}
# the id of user u: as it is, or far off with gaps
NUMBERINGS = {"dense": (0, 1), "from 1": (1, 1), "gaps": (0, 3), "1e9": (10**9, 7),
              "2**61": (2**61, 2**50), "to the end": (2**63 - 20, 1)}  # fmt: skip
FAR = pytest.mark.parametrize("numbering", [n for n in NUMBERINGS if n != "dense"])


class Renumbered:
    """A denoiser of DATA whose users have other ids; the model takes them back."""

    def __init__(self, numbering: str, kind: str = "lightgcn", **changes: Any) -> None:
        self.first, self.step, self.kind = *NUMBERINGS[numbering], kind
        self.asked: list[tuple[list[int], list[int]]] = []
        loss_fn = LOSSES[kind]
        self.denoiser: SelfGuidedDenoiser = tiny_denoiser(
            DATA, kind, score_fn=self._score,
            interactions=(self.ids(torch.from_numpy(DATA.users)), DATA.items),
            loss_fn=lambda model, batch: loss_fn(model, (self._users(batch[0]), *batch[1:])),
            **{"config": SWITCHING, **changes},
        )  # fmt: skip

    def ids(self, users: Tensor) -> Tensor:
        return self.first + self.step * users

    def _users(self, ids: Tensor) -> Tensor:
        return (ids - self.first) // self.step % DATA.n_users  # for strangers, any of them

    def _score(self, model: Any, ids: Tensor, items: Tensor) -> Tensor:
        users = self._users(ids)
        assert torch.equal(self.ids(users), ids)
        self.asked.append((users.tolist(), items.tolist()))
        return model(users, items)

    def train(self, *epochs: int) -> None:
        with seeded(23):
            for epoch in epochs:
                for users, *rest in batches_of(self.kind, epoch):
                    batch = (self.ids(users), *rest)
                    self.denoiser.before_step(batch)
                    self.denoiser.step(batch)


@pytest.mark.parametrize(
    ("kind", "ranking", "numbering"),
    [*(("lightgcn", "sampled", n) for n in NUMBERINGS if n != "dense"),
     ("lightgcn", "full", "gaps"), ("lightgcn", "full", "2**61"), ("neumf", "sampled", "1e9")],
)  # fmt: skip
def test_a_run_is_that_of_users_numbered_from_0(kind: str, ranking: Any, numbering: str) -> None:
    config = SWITCHING.but(ranking=ranking, ranking_chunk=128)
    found, expected = (Renumbered(n, kind, config=config) for n in (numbering, "dense"))
    for run in (found, expected):
        run.train(0, 1)
        assert run.denoiser.phase is Phase.SELF_GUIDED
    assert found.asked == expected.asked  # the same candidates are drawn, in the same calls
    assert_identical(
        *(without(snapshot(run.denoiser.model, *run.denoiser._optimizers), "storages")
          for run in (found, expected))
    )  # fmt: skip
    reports = found.denoiser.report(), expected.denoiser.report()
    assert reports[0]["user"].tolist() == found.ids(torch.from_numpy(reports[1]["user"])).tolist()
    for name in reports[0].dtype.names[1:]:
        assert reports[0][name].tobytes() == reports[1][name].tobytes()


@pytest.mark.parametrize("numbering", ["gaps", "2**61"])
def test_a_state_goes_on_and_knows_its_users(numbering: str) -> None:
    whole, first, second = (Renumbered(numbering) for _ in range(3))
    whole.train(0, 1, 2)
    first.train(0, 1)
    second.denoiser.model.load_state_dict(first.denoiser.model.state_dict())
    for mine, theirs in zip(second.denoiser._optimizers, first.denoiser._optimizers, strict=True):
        mine.load_state_dict(theirs.state_dict())
    state = first.denoiser.state_dict()
    second.denoiser.load_state_dict(state)
    second.train(2)
    assert_identical(
        *(without(run.denoiser.state_dict(), "seconds") for run in (second, whole))
    )
    held = [value for value in state["tracker"].values() if isinstance(value, Tensor)]
    assert sum(value.numel() for value in held) < 10_000
    other = Renumbered("dense" if numbering != "dense" else "gaps")
    with pytest.raises(StateError, match=r"^Expected the state of these interactions, got that of"):
        other.denoiser.load_state_dict(state)


@FAR
def test_users_that_no_pair_has_are_unknown_in_a_batch(numbering: str) -> None:
    run = Renumbered(numbering)
    run.train(0)
    users, items, negatives = batches_of("lightgcn", 1)[0]
    strangers = run.ids(users)
    strangers[::10] = torch.tensor([2**63 - 1, 5, 10**9 + 1, 2**62, 2**40])
    expected = [int(user) in {int(u) for u in run.ids(torch.arange(20))} for user in strangers]
    weights = run.denoiser.sample_weights((strangers, items, negatives))
    assert weights.shape == users.shape
    run.denoiser.before_step((strangers, items, negatives))
    ids = run.denoiser._steps.hand.samples.ids
    known = {pair: k for k, pair in enumerate(zip(DATA.users, DATA.items, strict=True))}
    assert [k >= 0 for k in ids.tolist()] == [
        bool(e) and (int((u - run.first) // run.step), int(i)) in known
        for e, u, i in zip(expected, strangers, items, strict=True)
    ]


def test_negative_ids_are_refused_in_batches_of_users_with_gaps() -> None:
    run = Renumbered("1e9")
    users, items, negatives = batches_of("lightgcn", 0)[0]
    with pytest.raises(InteractionsError, match=r"^Expected ids >= 0, got -1 in batch 1 of epoch"):
        run.denoiser.before_step((torch.where(users == 0, -1, run.ids(users)), items, negatives))
    with pytest.raises(BatchError, match=r"^Expected observed pairs in batch 1 of epoch 1, got no"):
        run.denoiser.before_step((users, items, negatives))  # numbered from 0
    half = torch.where(users % 2 > 0, users, run.ids(users))
    with pytest.warns(DenoiserWarning, match=r"of 50 unknown, which count as sampled negatives"):
        run.denoiser.before_step((half, items, negatives))


def test_users_without_interactions_change_nothing() -> None:
    """Every third id, as of a training set that lacks some users, and the ids without gaps."""
    runs = Renumbered("gaps"), Renumbered("dense")
    for run in runs:
        run.train(0, 1)
    tables = [dataclasses.asdict(run.denoiser.history[0]) for run in runs]
    assert without(tables[0], "seconds", "plain_seconds") == without(
        tables[1], "seconds", "plain_seconds"
    )
    held = [run.denoiser.state_dict()["tracker"]["cut"] for run in runs]
    assert held[0].tolist() == held[1].tolist()
    assert np.isfinite(held[0].numpy()).all()
