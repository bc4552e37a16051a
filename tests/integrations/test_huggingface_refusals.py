"""What the callback refuses, with the way round, and what stops at NaN."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from sgdl_wrap import (
    BatchError,
    DenoiserConfig,
    DenoiserError,
    LossError,
    NonFiniteError,
    OrderError,
    StateError,
    UnsupportedModelError,
)
from tests.support.models_zoo import assert_identical

pytest.importorskip("transformers")

from transformers import Trainer

from tests.integrations.huggingface_runs import (
    BATCHES,
    KINDS,
    SOON,
    Denoised,
    callback,
    train,
    trainer,
)


def refused(kind: type[Exception], message: str, runner: Trainer) -> None:
    """Refused, and the model is as it was."""
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    with pytest.raises(kind, match=message):
        train(runner)
    assert_identical(dict(runner.model.state_dict()), before)


def test_a_trainer_that_removes_the_users_is_refused(tmp_path: Path) -> None:
    refused(
        DenoiserError,
        r"^Expected remove_unused_columns=False, got True: the Trainer would take the users out",
        trainer(tmp_path, callback(), remove_unused_columns=True),
    )


def test_batches_without_users_are_refused(tmp_path: Path) -> None:
    nameless = [{k: v for k, v in row.items() if k != "user"} for row in KINDS["gpt"]["data"]]
    refused(
        BatchError,
        r"^Expected a column 'user' in the batch, got input_ids, attention_mask, labels\.",
        trainer(tmp_path, callback(), data=nameless),
    )


def test_losses_that_the_trainer_does_not_average_are_refused(tmp_path: Path) -> None:
    usual = KINDS["gpt"]["losses"]
    refused(
        LossError,
        r"^Expected the Trainer's own loss to be the mean of losses\(outputs, batch\), [\d.]+, got",
        trainer(tmp_path, callback(losses=lambda outputs, batch: 3 * usual(outputs, batch))),
    )


class Regularised(Trainer):
    """Adds a regulariser of its own."""

    def compute_loss(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        loss, outputs = super().compute_loss(model, *args, **{**kwargs, "return_outputs": True})
        loss = loss + 0.1 * sum(p.square().sum() for p in model.parameters())
        return (loss, outputs) if kwargs.get("return_outputs") else loss


class RegularisedAndDenoised(Regularised):
    guided: Any = None

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return self.guided.compute_loss(super().compute_loss, *args, **kwargs)


def test_a_penalty_that_was_not_announced_is_refused(tmp_path: Path) -> None:
    refused(
        LossError,
        r"penalty=True if it has more that is to stay unweighted \(label smoothing, say\)\.$",
        trainer(tmp_path, callback(), trains=RegularisedAndDenoised),
    )
    plain = train(trainer(tmp_path, trains=Regularised))
    guided = callback(config=DenoiserConfig(), penalty=True)
    assert_identical(train(trainer(tmp_path, guided, trains=RegularisedAndDenoised)), plain)


def test_a_trainer_that_does_not_ask_is_refused(tmp_path: Path) -> None:
    refused(
        OrderError,
        r"^Expected compute_loss of the Trainer to ask the callback, got a step without\. .*"
        r"return guided\.compute_loss\(super\(\)\.compute_loss, \*args, \*\*kwargs\)$",
        trainer(tmp_path, callback("towers"), kind="towers", trains=WithoutColumns),
    )


class WithoutColumns(Trainer):
    """Asks no callback, and takes out the columns itself."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        inputs.pop("at")
        return super().compute_loss(model, inputs, *args, **kwargs)


def test_a_callback_that_the_trainer_has_not_is_refused(tmp_path: Path) -> None:
    runner = trainer(tmp_path, None)
    runner.guided = callback()
    message = r"^Expected the callback among those of the Trainer, got another Trainer\."
    refused(OrderError, message, runner)


def test_another_function_than_the_trainers_is_refused() -> None:
    message = r"^Expected super\(\)\.compute_loss of a Trainer first, got function\."
    with pytest.raises(DenoiserError, match=message):
        callback().compute_loss(lambda model, inputs: 0.0, nn.Linear(1, 1), {})


def test_leaving_batches_out_is_refused(tmp_path: Path) -> None:
    guided = callback(config=DenoiserConfig(on_nonfinite="skip"))
    message = r"^Expected on_nonfinite='raise', got 'skip'"
    refused(DenoiserError, message, trainer(tmp_path, guided))


def test_float16_is_refused(tmp_path: Path) -> None:
    runner = trainer(tmp_path, callback())
    runner.args.fp16 = True
    refused(DenoiserError, r"^Expected bf16 or full precision, got fp16", runner)


def test_several_devices_are_refused(tmp_path: Path) -> None:
    runner = trainer(tmp_path, callback())
    with mock.patch.object(type(runner.args), "world_size", 2):
        guided, events = runner.guided, {"model": runner.model, "optimizer": None}
        message = r"^Expected one process and one device, got 2\."
        with pytest.raises(UnsupportedModelError, match=message):
            guided.on_train_begin(runner.args, runner.state, runner.control, **events)


def test_a_model_that_the_trainer_compiles_is_refused(tmp_path: Path) -> None:
    runner = trainer(tmp_path, callback(), torch_compile=True, torch_compile_backend="eager")
    message = r"^Expected the model itself, got OptimizedModule around it\. Leave torch_compile out"
    refused(UnsupportedModelError, message, runner)


class Poisoned(torch.autograd.Function):
    """A finite value whose gradient is NaN, as of a square root at zero."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.nan


class Poisonous(Denoised):
    """The gradient of one batch is NaN."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        if self.state.global_step == BATCHES + 1:
            self.before = {n: v.clone() for n, v in self.model.state_dict().items()}
            return Poisoned.apply(loss)
        return loss


@pytest.mark.parametrize("config", [DenoiserConfig(), SOON], ids=["Phase I", "Phase II"])
def test_nan_gradients_are_stopped_before_a_parameter_changes(
    config: DenoiserConfig, tmp_path: Path
) -> None:
    runner = trainer(tmp_path, callback(config=config), trains=Poisonous)
    message = (
        rf"^Expected finite gradients of the model, got \d+ NaN or Inf among \d+ in step "
        rf"{BATCHES + 2}\. Lower the learning rate"
    )
    with pytest.raises(NonFiniteError, match=message):
        train(runner)
    assert_identical(dict(runner.model.state_dict()), runner.before)
    assert all(p.grad is None for p in runner.model.parameters())


def test_a_checkpoint_that_is_not_where_trainers_put_it_is_named(tmp_path: Path) -> None:
    guided = callback()
    runner = trainer(tmp_path, guided)
    train(runner)
    message = r"^Expected the checkpoint in .*, got none there\. In a hyperparameter search, pass"
    with pytest.raises(StateError, match=message):
        guided.on_save(runner.args, runner.state, runner.control, model=runner.model)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    train(trainer(tmp_path, callback(), save_strategy="epoch"))
    path = tmp_path / f"checkpoint-{BATCHES}"
    torn = path / "denoiser.pt"
    torn.write_bytes(torn.read_bytes()[:-100])
    with pytest.raises(StateError, match=r"denoiser\.pt"):
        train(trainer(tmp_path, callback()), path)
