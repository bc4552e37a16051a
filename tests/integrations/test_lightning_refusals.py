"""What the callback refuses, with the way round, and what stops at NaN."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from sgdl_wrap import (
    DenoiserConfig,
    DenoiserError,
    LossError,
    NonFiniteError,
    OrderError,
    UnsupportedModelError,
)
from tests.promises.test_training_features import bpr, in_lists
from tests.support.models_zoo import assert_identical

pytest.importorskip("lightning")

from sgdl_wrap.integrations.lightning import SelfGuidedCallback
from tests.integrations.lightning_runs import (
    MARKS,
    SOON,
    Ranker,
    Regularised,
    callback,
    fit,
    ranker,
)

pytestmark = MARKS


def refused(kind: type[Exception], message: str, build: Callable[[], Any]) -> None:
    """Refused, and the module is as it was."""
    module = ranker()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(kind, match=message):
        fit(module, build())
    assert_identical(dict(module.state_dict()), before)


def test_losses_that_training_step_does_not_average_are_refused() -> None:
    refused(
        LossError,
        r"^Expected training_step to return the mean of loss_fn\(model, batch\), [\d.]+, got",
        lambda: callback(loss_fn=lambda model, batch: 3 * bpr(model, batch)),
    )


def test_a_penalty_that_was_not_announced_is_refused() -> None:
    with pytest.raises(LossError, match="penalty=True if it adds something that is to stay"):
        fit(ranker(Regularised), callback())


@pytest.mark.parametrize("share", [1, 3])
def test_the_comparison_knows_of_accumulation(share: int) -> None:
    fit(ranker(), callback(), accumulate_grad_batches=share, epochs=1)


class Poisoned(torch.autograd.Function):
    """A finite value whose gradient is NaN, as of a square root at zero."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.nan


class Poisonous(Ranker):
    """The gradient of one batch is NaN; what is trained is kept before each step."""

    asked: SelfGuidedCallback | None = None
    poisoned_batch = 2  # of the second epoch

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.before = {name: value.clone() for name, value in self.state_dict().items()}
        asked = self.asked
        loss = super().training_step(batch, batch_idx)
        loss = loss if asked is None else asked.weighted_loss(batch)
        poisoned = (self.current_epoch, batch_idx) == (1, self.poisoned_batch)
        return Poisoned.apply(loss) if poisoned else loss


@pytest.mark.parametrize("asking", [False, True])
@pytest.mark.parametrize("config", [DenoiserConfig(), SOON], ids=["Phase I", "Phase II"])
def test_nan_gradients_are_stopped_before_a_parameter_changes(
    config: DenoiserConfig, asking: bool
) -> None:
    module, guided = ranker(Poisonous), callback(config)
    module.asked = guided if asking else None
    message = (
        r"^Expected finite gradients of the model, got \d+ NaN or Inf among \d+ in batch 3 of "
        r"epoch 2\. Lower the learning rate"
    )
    with pytest.raises(NonFiniteError, match=message):
        fit(module, guided)
    assert_identical(dict(module.state_dict()), module.before)
    assert all(p.grad is None for p in module.parameters())


def test_accumulated_nan_gradients_are_stopped_at_the_optimizers_step() -> None:
    module = ranker(Poisonous)
    module.poisoned_batch = 0
    with pytest.raises(NonFiniteError, match=r"in batch 3 of epoch 2\."):
        fit(module, callback(), accumulate_grad_batches=3)
    assert_identical(dict(module.state_dict()), module.before)


def test_disabled_it_looks_at_no_gradient() -> None:
    module, guided = ranker(Poisonous), callback(enabled=False)
    fit(module, guided)
    assert all(p.isnan().any() for p in module.parameters())


def test_leaving_batches_out_is_refused() -> None:
    refused(
        DenoiserError,
        r"^Expected on_nonfinite='raise', got 'skip'",
        lambda: callback(DenoiserConfig(on_nonfinite="skip")),
    )


def test_a_part_that_is_not_there_is_refused_by_name() -> None:
    refused(
        DenoiserError,
        r"^Expected the name of a submodule, got model='tower'\.",
        lambda: callback(model="tower"),
    )


class Manual(Ranker):
    automatic_optimization = False


def test_manual_optimisation_is_refused_with_the_way_round() -> None:
    message = r"^Expected automatic optimisation, got automatic_optimization=False. Use a SelfGuide"
    module = ranker(Manual)
    module.automatic_optimization = False
    with pytest.raises(DenoiserError, match=message):
        fit(module, callback())


def test_float16_is_refused() -> None:
    message = r"^Expected a precision out of 32-true, .*, got 16-true"
    with pytest.raises(DenoiserError, match=message):
        fit(ranker(), callback(), precision="16-true")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_strategy_of_several_devices_is_refused() -> None:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch is built without gloo")
    try:
        with (
            patch.dict(os.environ),  # DDP's addresses would make other tests distributed
            pytest.raises(UnsupportedModelError, match=r"^Expected one device, got DDPStrategy"),
        ):
            fit(ranker(), callback(), strategy="ddp")
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def test_a_compiled_lightning_module_is_refused_where_it_is_the_model() -> None:
    module, guided = torch.compile(ranker(), backend="aot_eager"), callback(model="")
    message = (
        r"^Expected an eager LightningModule where it is the model, got torch.compile around it, .*"
        r"Compile in place what holds the parameters \(module.net.compile\(\), say\), or name that "
        r"part: model='net'\.$"
    )
    with pytest.raises(UnsupportedModelError, match=message):
        fit(module, guided)


class TwiceClosing(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        closure()
        return super().step(closure)


class TwiceClosed(Ranker):
    def configure_optimizers(self) -> Any:
        return TwiceClosing(self.parameters(), lr=0.1)


def test_an_optimizer_that_calls_its_closure_twice_is_refused() -> None:
    with pytest.raises(OrderError, match=r"^Expected one backward for each batch, got another\."):
        fit(ranker(TwiceClosed), callback())


def test_weighted_loss_out_of_training_is_refused_with_the_way_round() -> None:
    guided = callback()
    message = r"^Expected weighted_loss once in training_step with its batch, got it elsewhere\."
    with pytest.raises(OrderError, match=message):
        guided.weighted_loss(in_lists(0)[0])
    fit(ranker(), guided)
    with pytest.raises(OrderError, match=message):
        guided.weighted_loss(in_lists(0)[0])
