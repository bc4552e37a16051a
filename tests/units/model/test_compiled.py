"""Models and losses under torch.compile train compiled where no second derivative is needed.

The backend is aot_eager, which needs no C++ compiler and refuses double backward as inductor does.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import (
    DenoiserConfig,
    DenoiserWarning,
    Phase,
    SelfGuidedDenoiser,
    UnsupportedModelError,
    load_checkpoint,
    save_checkpoint,
)
from tests.support.models_zoo import assert_identical, seeded, tiny_data, triple_epoch

DATA = tiny_data()
SOON = DenoiserConfig(history_length=1, noise_rate=0.9, guidance_interval=3, meta_lr=0.05)
SAID = r"^Expected an eager model and loss, got torch\.compile, whose graphs have no second deriva"


class Scorer(nn.Module):
    """Counts its forwards as they are written; a compiled one runs none of this."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(DATA.n_users, 4), nn.Embedding(DATA.n_items, 4)
        self.tower = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            EAGER.append(self.training)
        return self.tower(torch.cat([self.user(users), self.item(items)], 1)).squeeze(1)


EAGER: list[bool] = []  # one for each forward that ran as written: was it in training mode


def bpr(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    users, positives, negatives = batch
    return F.softplus(model(users, negatives) - model(users, positives))


def whole(model: nn.Module) -> tuple[Any, Any]:
    return torch.compile(model, backend="aot_eager"), bpr


def in_place(model: nn.Module) -> tuple[Any, Any]:
    model.compile(backend="aot_eager")
    return model, bpr


def a_part_in_place(model: Any) -> tuple[Any, Any]:
    model.tower.compile(backend="aot_eager")
    return model, bpr


def the_loss(model: nn.Module) -> tuple[Any, Any]:
    return model, torch.compile(bpr, backend="aot_eager")


def nothing(model: nn.Module) -> tuple[Any, Any]:
    return model, bpr


COMPILED = {f.__name__: f for f in (whole, in_place, a_part_in_place, the_loss)}
EACH = pytest.mark.parametrize("compiling", COMPILED.values(), ids=COMPILED)


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    """What one test has compiled is no other's, and torch's own warnings of it are not ours."""
    EAGER.clear()
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.")
        yield
    torch.compiler.reset()


class Run:
    def __init__(
        self, compiling: Callable[[nn.Module], tuple[Any, Any]], *, denoised: bool = True,
        config: DenoiserConfig = SOON,
    ) -> None:  # fmt: skip
        with seeded(3):
            self.bare = Scorer()
        self.model, self.loss = compiling(self.bare)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        self.denoiser = None
        if denoised:
            arguments: Any = (self.model, self.optimizer, self.loss)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=SAID)
                self.denoiser = SelfGuidedDenoiser(
                    *arguments, interactions=DATA.tensors(), n_items=DATA.n_items, config=config
                )

    def train(self, *epochs: int) -> Run:
        for epoch in epochs:
            with seeded(epoch):
                for batch in triple_epoch(DATA, epoch):
                    if self.denoiser is None:
                        loss = self.loss(self.model, batch).mean()
                        self.optimizer.zero_grad()
                        loss.backward()
                        self.optimizer.step()
                    else:
                        self.denoiser.before_step(batch)
                        self.denoiser.step(batch)
                if self.denoiser is not None:
                    self.denoiser.end_epoch()
        return self


def values(run: Run) -> Any:
    return dict(run.bare.state_dict()), run.optimizer.state_dict()


@EACH
def test_it_is_said_once(compiling: Any) -> None:
    model, loss = compiling(Scorer())
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.warns(DenoiserWarning, match=SAID) as said:
        SelfGuidedDenoiser(model, optimizer, loss, interactions=DATA.tensors())
    assert len(said) == 1
    assert said[0].filename == __file__


@EACH
def test_phase_one_is_the_compiled_plain_loop_bit_for_bit(compiling: Any) -> None:
    plain = Run(compiling, denoised=False).train(0, 1)
    found = Run(compiling, config=DenoiserConfig()).train(0, 1)
    assert_identical(values(found), values(plain))


@EACH
def test_phase_two_learns_what_the_eager_model_learns(compiling: Any) -> None:
    found, expected = Run(compiling).train(0, 1, 2), Run(nothing).train(0, 1, 2)
    for run in (found, expected):
        assert run.denoiser is not None
        assert run.denoiser.phase is Phase.SELF_GUIDED
        assert run.denoiser.state_dict()["self_guided"]["learner"]["optimizer"]["state"]
    torch.testing.assert_close(found.bare.state_dict(), expected.bare.state_dict())
    weights = [
        run.denoiser.sample_weights(triple_epoch(DATA, 5)[0]) for run in (found, expected)
    ]
    torch.testing.assert_close(*weights)


def test_all_that_need_not_learn_runs_compiled() -> None:
    run = Run(whole)
    assert run.denoiser is not None
    run.train(0)
    EAGER.clear()
    batches = triple_epoch(DATA, 1)
    learned = []
    for batch in batches[:4]:
        run.denoiser.before_step(batch)
        learned.append(any(EAGER))  # forwards in training mode that ran as written
        run.denoiser.step(batch)
        EAGER.clear()
    assert learned == [True, False, False, True]


def test_a_model_compiled_in_place_is_left_so() -> None:
    run = Run(in_place).train(0, 1)
    assert run.bare._compiled_call_impl is not None
    EAGER.clear()
    run.model(torch.tensor([0]), torch.tensor([0]))
    assert EAGER == []


@pytest.mark.parametrize(
    ("compiling", "other"), [(whole, nothing), (nothing, whole), (in_place, whole)]
)
def test_checkpoints_have_no_prefix_and_load_into_any_form(
    compiling: Any, other: Any, tmp_path: Path
) -> None:
    run, place = Run(compiling).train(0), tmp_path / "run.pt"
    parts = {"denoiser": run.denoiser, "model": run.model, "optimizer": run.optimizer}
    save_checkpoint(place, **parts)
    saved = torch.load(place, weights_only=True)["parts"]["model"]
    assert_identical(dict(saved), dict(run.bare.state_dict()))
    again = Run(other)
    load_checkpoint(
        place, denoiser=again.denoiser, model=again.model, optimizer=again.optimizer
    )
    assert_identical(values(again), values(run))


def test_wrappers_inside_the_model_are_refused_before_training() -> None:
    model = Scorer()
    model.tower = torch.compile(model.tower, backend="aot_eager")
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(
        UnsupportedModelError,
        match=r"^Expected torch\.compile around the whole model, got it around submodule 'tower'",
    ):
        SelfGuidedDenoiser(model, optimizer, bpr, interactions=DATA.tensors())
    assert_identical(dict(model.named_parameters()), before)
