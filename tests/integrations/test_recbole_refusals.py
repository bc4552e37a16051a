"""Models, trainers and data that cannot be denoised are refused by name."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sgdl_wrap import (
    DenoiserError,
    LossError,
    OrderError,
    Phase,
    UnsupportedModelError,
)
from tests.support.models_zoo import (
    SWITCHING,
    WATCHING,
    assert_identical,
    snapshot,
    stream_states,
)

pytest.importorskip("recbole")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of RecBole's own imports
    from recbole.model.general_recommender import BPR
    from recbole.model.loss import BPRLoss

    from sgdl_wrap.integrations.recbole import denoise, is_denoised, undo
    from tests.integrations.recbole_runs import MARKS, Own, run, set_up

pytestmark = MARKS


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SGL", r"^Expected a model whose losses are averaged by a module \(RecBole's BPRLoss, or "
                r"one of torch\.nn\), got SGL, which reduces them inline, so that no loss of a "
                r"single sample is to be seen\. Choose another model"),
        ("SimpleX", "got SimpleX, which reduces them inline"),
        ("ConvNCF", "got ConvNCF, which reduces them inline"),
        ("LINE", "got LINE, which reduces them inline"),
        ("NCEPLRec", "got NCEPLRec, which reduces them inline"),
        ("GCMC", r"^Expected one loss for each of the 100 samples of a batch, got \(200,\) from "
                 "GCMC"),
        ("NCL", "^Expected RecBole's own Trainer._train_epoch, got NCL with that of NCLTrainer"),
        ("RecVAE", "got RecVAE with that of RecVAETrainer"),
        ("Pop", r"^Expected a general recommender, which gradients train and which scores a user "
                r"and an item, got Pop \(traditional\)"),
    ],
)  # fmt: skip
def test_models_whose_losses_cannot_be_told_apart_are_refused_by_name(
    home: Path, name: str, message: str
) -> None:
    trainer, train_data, _ = set_up(home, name)
    before = snapshot(trainer.model, trainer.optimizer), stream_states(), set(vars(trainer))
    with pytest.raises((UnsupportedModelError, LossError), match=message):
        denoise(trainer, train_data)
    after = snapshot(trainer.model, trainer.optimizer), stream_states(), set(vars(trainer))
    assert_identical(after, before)
    assert not any(m._forward_hooks for m in trainer.model.modules())


@pytest.mark.parametrize("name", ["MultiVAE", "CDAE", "ENMF"])
def test_models_of_whole_user_rows_are_refused_by_name(home: Path, name: str) -> None:
    trainer, train_data, _ = set_up(home, name, train_neg_sample_args=None)
    with pytest.raises(UnsupportedModelError, match=f"TrainDataLoader.*got {name} with a UserData"):
        denoise(trainer, train_data)


class Halved(Own):
    def more(self, mean: Tensor, _: Any) -> Tensor:
        return 0.5 * mean


class Squared(Own):
    def more(self, mean: Tensor, _: Any) -> Tensor:
        return mean + mean**2


class Ignored(Own):
    def more(self, mean: Tensor, _: Any) -> Tensor:
        return self.user_embedding.weight.sum()


class Detached(Own):
    def more(self, mean: Tensor, _: Any) -> Tensor:
        return mean.detach() + 0 * self.user_embedding.weight.sum() + 0 * mean


class Doubled(Own):
    def more(self, mean: Tensor, _: Any) -> Tensor:
        return mean + mean.detach()


class InTerms(Own):
    def more(self, mean: Tensor, _: Any) -> Any:
        return mean, mean


class Twice(Own):
    def more(self, mean: Tensor, interaction: Any) -> Tensor:
        return mean + BPR.calculate_loss(self, interaction)


class OtherMean(BPR):
    """A loss module with the name but not the mean of BPRLoss."""

    class Loss(BPRLoss):
        def forward(self, pos_score: Tensor, neg_score: Tensor) -> Tensor:
            return 3 * super().forward(pos_score, neg_score)

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.loss = OtherMean.Loss()


class Penalised(Own):
    """What is fine: the mean, plus terms of the parameters and a random draw."""

    def more(self, mean: Tensor, _: Any) -> Tensor:
        noise = torch.rand(()) + random.random() + float(np.random.rand())  # noqa: NPY002
        return mean + 0.01 * self.user_embedding.weight.tanh().square().sum() * noise


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Halved, "got Halved, where that mean counts 0.5 times"),
        (Squared, "got Squared, where that mean counts"),
        (Ignored, "got Ignored, where that mean counts 0 times"),
        (Detached, "got Detached, where that mean counts 0 times"),
        (Doubled, r"got Doubled, where that mean counts 1 times and 0\.69 is unexplained"),
        (InTerms, "^Expected calculate_loss to return one number, got 2 terms from InTerms"),
        (Twice, "^Expected calculate_loss to call one loss module once, got 2 calls from Twice"),
        (OtherMean, "^Expected the loss module to return the mean of its samples' losses, got"),
    ],
)
def test_a_model_of_ones_own_is_tried_before_it_is_trusted(
    home: Path, model: Any, message: str
) -> None:
    trainer, train_data, _ = set_up(home, model.__name__, model_class=model)
    before = snapshot(trainer.model, trainer.optimizer), stream_states()
    with pytest.raises((UnsupportedModelError, LossError), match=message):
        denoise(trainer, train_data)
    assert_identical((snapshot(trainer.model, trainer.optimizer), stream_states()), before)
    assert not is_denoised(trainer)


def test_a_model_of_ones_own_with_a_penalty_trains(home: Path) -> None:
    _, denoised = run(home, "Penalised", WATCHING, model_class=Penalised)
    assert_identical(denoised, run(home, "Penalised", model_class=Penalised)[1])
    denoiser, _ = run(home, "Penalised", SWITCHING, model_class=Penalised)
    assert denoiser is not None
    assert denoiser.phase is Phase.SELF_GUIDED


def test_other_trainers_and_second_calls_are_refused(home: Path) -> None:
    trainer, train_data, _ = set_up(home, "BPR")
    with pytest.raises(DenoiserError, match=r"^Expected a RecBole Trainer, got BPR\. Pass trainer"):
        denoise(trainer.model, train_data)
    with pytest.raises(OrderError, match=r"^Expected a denoised trainer, got a plain one"):
        undo(trainer)
    denoise(trainer, train_data)
    with pytest.raises(OrderError, match=r"^Expected a plain trainer, got one that is denoised"):
        denoise(trainer, train_data)
    with pytest.raises(DenoiserError, match=r"^Expected an epoch of the model's own loss, got ano"):
        trainer._train_epoch(train_data, 0, loss_func=trainer.model.calculate_loss)

    undo(trainer)
    trainer.config["single_spec"] = False
    with pytest.raises(UnsupportedModelError, match=r"^Expected one process, got BPR on several"):
        denoise(trainer, train_data)
    trainer.config["single_spec"] = True
    trainer.model.calculate_loss = lambda interaction: torch.zeros(())
    with pytest.raises(UnsupportedModelError, match=r"^Expected calculate_loss as a method of BPR"):
        denoise(trainer, train_data)
