"""Where the denoiser only watches, training is the plain loop's, bit for bit."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.mixture  # noqa: F401  (its import is the subject of a test of its own below)
import torch
from torch import Tensor, nn

from bench.models.lightgcn import bpr_loss, ego_l2
from bench.models.neumf import bce_loss
from sgdl_wrap import DenoiserConfig, Phase, SelfGuidedDenoiser
from sgdl_wrap.guiding.weighting import WeightingFunction
from tests.support.models_zoo import (
    SWITCHING,
    WATCHING,
    TinyData,
    assert_identical,
    seeded,
    snapshot,
    stream_states,
    tiny_batchnorm,
    tiny_data,
    tiny_lightgcn,
    tiny_neumf,
    weights_of_one,
    without,
)

EPOCHS = 4
Penalty = Callable[[nn.Module, Any], Tensor]


class Setting:
    """A model, its optimizer, and a loader that draws from all three global streams."""

    def __init__(self, name: str) -> None:
        self.data = tiny_data()
        self.labelled = name != "lightgcn"
        self.penalty: Penalty | None = None
        self.model: nn.Module
        if name == "neumf":
            self.model = tiny_neumf(self.data, dropout=0.3)
        elif name == "lightgcn":
            self.model = tiny_lightgcn(self.data)
            self.penalty = lambda model, batch: 0.01 * ego_l2(model, batch)
        else:
            self.model = tiny_batchnorm(self.data)
        self.loss_fn = bce_loss if self.labelled else bpr_loss
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02, weight_decay=1e-4)

    def denoiser(self, **arguments: Any) -> SelfGuidedDenoiser:
        arguments.setdefault("config", WATCHING)
        return SelfGuidedDenoiser(
            self.model, self.optimizer, self.loss_fn,
            interactions=self.data.tensors(), n_items=self.data.n_items, **arguments,
        )

    def loader(self) -> Iterator[Any]:
        """Shuffles by torch, draws negatives by numpy, leaves samples out by random."""
        yield from _drawn_batches(self.data, self.labelled)

    def outcome(self) -> tuple[Any, ...]:
        return without(snapshot(self.model, self.optimizer), "storages"), stream_states()


def _drawn_batches(data: TinyData, labelled: bool) -> Iterator[Any]:
    order = torch.randperm(len(data))
    users, items = (column[order] for column in data.tensors())
    for start in range(0, len(data), 50):
        part_users, part_items = users[start : start + 50], items[start : start + 50]
        negatives = torch.from_numpy(
            np.random.randint(data.n_items, size=len(part_users))  # noqa: NPY002
        )
        if not labelled:
            yield part_users, part_items, negatives
            continue
        kept = [place for place in range(len(part_users)) if random.random() < 0.7]
        yield (
            torch.cat([part_users, part_users[kept]]),
            torch.cat([part_items, negatives[kept]]),
            torch.cat([torch.ones(len(part_users)), torch.zeros(len(kept))]),
        )


def train_plainly(name: str, *, switched_after: int = EPOCHS) -> tuple[Any, ...]:
    """The reference: the loop as anyone writes it.

    Autograd adds up a parameter's gradients in the reverse order of the forward passes, which
    decides their last bits. The penalty handed to step stands before the losses in Phase I, and
    after them in Phase II, where before_step takes the losses.
    """
    setting = Setting(name)
    with seeded(3):
        for epoch in range(EPOCHS):
            for batch in setting.loader():
                penalty = None
                if setting.penalty is not None and epoch < switched_after:
                    penalty = setting.penalty(setting.model, batch)
                loss = setting.loss_fn(setting.model, batch).mean()
                if setting.penalty is not None and epoch >= switched_after:
                    penalty = setting.penalty(setting.model, batch)
                loss = loss if penalty is None else loss + penalty
                setting.optimizer.zero_grad()
                loss.backward()
                setting.optimizer.step()
        return setting.outcome()


def train_denoised(
    name: str, *, explicit: bool = False, weighted_loss: bool = False, **arguments: Any
) -> tuple[SelfGuidedDenoiser, tuple[Any, ...]]:
    setting = Setting(name)
    with seeded(3):
        denoiser = setting.denoiser(**arguments)
        for _ in range(EPOCHS):
            for batch in setting.loader():
                denoiser.before_step(batch)
                penalty = None if setting.penalty is None else setting.penalty(setting.model, batch)
                if weighted_loss:
                    loss = denoiser.weighted_loss(batch)
                    loss = loss if penalty is None else loss + penalty
                    setting.optimizer.zero_grad()
                    loss.backward()
                    setting.optimizer.step()
                else:
                    denoiser.step(batch, penalty=penalty)
            if explicit:
                denoiser.end_epoch()
        return denoiser, setting.outcome()


MODELS = pytest.mark.parametrize("name", ["neumf", "lightgcn", "batchnorm"])


@MODELS
@pytest.mark.parametrize("explicit", [False, True], ids=["automatic", "end_epoch"])
@pytest.mark.parametrize("weighted_loss", [False, True], ids=["step", "weighted_loss"])
def test_phase_one_is_the_plain_loop(name: str, explicit: bool, weighted_loss: bool) -> None:
    plain = train_plainly(name)
    denoiser, denoised = train_denoised(name, explicit=explicit, weighted_loss=weighted_loss)
    assert_identical(denoised, plain)
    assert denoiser.phase is Phase.MEMORIZATION
    if explicit:
        assert len(denoiser.history) == EPOCHS
    else:  # weighted_loss sees the epoch's end at the next batch
        assert len(denoiser.history) == EPOCHS - weighted_loss
    assert all(record.clean_ratio is not None for record in denoiser.history)


@MODELS
def test_an_example_batch_at_construction_leaves_no_trace(name: str) -> None:
    setting = Setting(name)
    with seeded(99):
        example = next(setting.loader())
    plain = train_plainly(name)
    _, denoised = train_denoised(name, example_batch=example)
    assert_identical(denoised, plain)


@MODELS
@pytest.mark.parametrize("weighted_loss", [False, True], ids=["step", "weighted_loss"])
def test_disabled_it_is_the_plain_loop(name: str, weighted_loss: bool) -> None:
    plain = train_plainly(name)
    denoiser, denoised = train_denoised(name, enabled=False, weighted_loss=weighted_loss)
    assert_identical(denoised, plain)
    assert denoiser.history == []
    assert denoiser.end_epoch() is None


@MODELS
@pytest.mark.parametrize("ranking", ["sampled", "full"])
def test_other_settings_of_the_watching_change_nothing(name: str, ranking: str) -> None:
    config = DenoiserConfig(history_length=50, ranking=ranking, ranking_chunk=17, seed=123)
    config = config.but(weight_inputs=("smoothed_loss",), noise_rate_sample=50)
    assert_identical(train_denoised(name, config=config)[1], train_plainly(name))


@MODELS
@pytest.mark.parametrize("normalization", ["none", "mean"])
def test_phase_two_with_weights_of_one_is_the_plain_loop(
    name: str, normalization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WeightingFunction, "forward", weights_of_one)
    plain = train_plainly(name, switched_after=1)
    denoiser, denoised = train_denoised(
        name, config=SWITCHING.but(weight_normalization=normalization)
    )
    assert denoiser.memorization_point == 1
    assert denoiser.history[-1].mean_weight == 1.0
    assert_identical(denoised, plain)


def test_phase_two_does_depend_on_the_weights() -> None:
    """Else the test above could not fail."""
    plain = train_plainly("neumf", switched_after=1)
    _, denoised = train_denoised("neumf", config=SWITCHING)
    assert denoised[1] == plain[1]  # the random streams are the user's all the same
    with pytest.raises(AssertionError, match="parameters"):
        assert_identical(denoised, plain)


def test_training_flags_are_the_users_after_every_step() -> None:
    """The ranking resets every flag that it sets, submodule by submodule."""
    setting = Setting("neumf")
    with seeded(3):
        denoiser = setting.denoiser()
        setting.model.mlp[2].eval()  # one dropout layer switched off by the user
        flags = {n: m.training for n, m in setting.model.named_modules()}
        for _ in range(2):
            for batch in setting.loader():
                denoiser.before_step(batch)
                denoiser.step(batch)
                assert {n: m.training for n, m in setting.model.named_modules()} == flags
    assert len(denoiser.history) == 2


class _ForeignNoise(nn.Module):
    """Draws its noise from numpy and random in training, as some users do."""

    def __init__(self, data: TinyData) -> None:
        super().__init__()
        with seeded(5):
            self.user = nn.Embedding(data.n_users, 8)
            self.item = nn.Embedding(data.n_items, 8)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        scores = (self.user(users) * self.item(items)).sum(dim=1)
        if self.training:
            scores = scores + 0.1 * random.random()
            scores = scores + 0.1 * torch.from_numpy(
                np.random.randn(len(users)).astype(np.float32)  # noqa: NPY002
            )
        return scores


@pytest.mark.parametrize("config", [WATCHING, SWITCHING], ids=["phase one", "phase two"])
def test_a_loss_that_draws_from_numpy_and_random_finds_its_streams_untouched(
    config: DenoiserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WeightingFunction, "forward", weights_of_one)
    data = tiny_data()
    outcomes = []
    for denoise in (False, True):
        model = _ForeignNoise(data)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        with seeded(3):
            denoiser = SelfGuidedDenoiser(
                model, optimizer, bce_loss, interactions=data.tensors(), n_items=data.n_items,
                config=config, enabled=denoise,
            )
            for _ in range(EPOCHS):
                for batch in _drawn_batches(data, labelled=True):
                    denoiser.before_step(batch)
                    denoiser.step(batch)
            outcomes.append((without(snapshot(model, optimizer), "storages"), stream_states()))
    assert_identical(outcomes[1], outcomes[0])


_FIRST_ESTIMATE = """
import random
import sys

import numpy as np
import torch

from bench.models.lightgcn import bpr_loss
from sgdl_wrap import SelfGuidedDenoiser
from tests.support.models_zoo import stream_states, tiny_data, tiny_lightgcn, triple_epoch


class DrawsOnImport:
    # what the libraries behind scikit-learn draw depends on which are installed
    def find_spec(self, name, path=None, target=None):
        if name == "sklearn.mixture":
            random.random()
            np.random.random()


assert "sklearn.mixture" not in sys.modules, "imported before the first estimate"
sys.meta_path.insert(0, DrawsOnImport())
data = tiny_data()
model = tiny_lightgcn(data)
denoiser = SelfGuidedDenoiser(
    model, torch.optim.SGD(model.parameters(), lr=0.1), bpr_loss, interactions=data.tensors()
)
before = stream_states()
for batch in triple_epoch(data, 0):
    denoiser.before_step(batch)
    denoiser.step(batch)
assert denoiser.noise_rate is not None
print("untouched" if stream_states() == before else "drawn from")
"""


def test_importing_scikit_learn_at_the_first_estimate_leaves_the_streams_untouched() -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FIRST_ESTIMATE],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "untouched"
