"""RecBole's own models, trained by RecBole's own trainer, denoised."""

from __future__ import annotations

import random
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import (
    DenoiserConfig,
    DenoiserError,
    LossError,
    NonFiniteError,
    OrderError,
    Phase,
    SelfGuidedDenoiser,
    StateError,
    UnsupportedModelError,
)
from sgdl_wrap.self_guided.weighting import WeightingFunction
from tests.models_zoo import (
    SWITCHING,
    WATCHING,
    assert_identical,
    seeded,
    snapshot,
    stream_states,
    without,
)

pytest.importorskip("recbole")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of RecBole's own imports
    from recbole.data.interaction import Interaction
    from recbole.model.general_recommender import BPR, LightGCN
    from recbole.model.loss import BPRLoss
    from recbole.trainer import Trainer

    from sgdl_wrap.integrations.recbole import denoise, is_denoised, undo
    from sgdl_wrap.integrations.recbole_losses import RecBoleLosses
    from tests.integrations.recbole_runs import set_up, write_data

pytestmark = [
    pytest.mark.filterwarnings("ignore:A value is trying to be set on a copy:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.torch.cuda.amp.GradScaler:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.sparse.SparseTensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS:UserWarning"),
    pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy:UserWarning"),
]

NAMED = ["BPR", "LightGCN", "NeuMF", "NGCF"]
PASSING = [*NAMED, "DGCF", "DMF", "NNCF", "SpectralCF", "FISM", "NAIS"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with data, where RecBole may write, and nothing of the process is left changed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["test"])  # RecBole reads settings from it
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("benchmark", "deterministic"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    write_data(tmp_path)
    with seeded(0):
        yield tmp_path


def outcome(trainer: Any, train_data: Any) -> Any:
    """All that a run leaves: parameters, optimizer, losses, scores, random streams."""
    return (
        without(snapshot(trainer.model, trainer.optimizer), "storages"),
        trainer.train_loss_dict, trainer.best_valid_score, trainer.best_valid_result,
        stream_states(), train_data.generator.get_state(),
    )  # fmt: skip


def run(
    home: Path, name: Any, config: DenoiserConfig | None = None, **settings: Any
) -> tuple[SelfGuidedDenoiser | None, Any]:
    """Fits a model, denoised if a config is given."""
    trainer, train_data, valid_data = set_up(home, name, **settings)
    denoiser = None if config is None else denoise(trainer, train_data, config=config)
    trainer.fit(train_data, valid_data, verbose=False)
    return denoiser, outcome(trainer, train_data)


def _ones(self: WeightingFunction, features: Tensor) -> Tensor:
    hidden = torch.relu(self.hidden(features))
    return 1.0 + 0.0 * self.output(hidden).squeeze(-1)  # one, with a graph to ψ


# ------------------------------------------------------------------ what changes nothing


@pytest.mark.parametrize("name", PASSING)
def test_phase_one_is_recboles_own_training(home: Path, name: str) -> None:
    denoiser, denoised = run(home, name, WATCHING)
    assert_identical(denoised, run(home, name)[1])
    assert denoiser is not None
    assert [record.epoch for record in denoiser.history] == [1, 2, 3]
    assert all(record.clean_ratio is not None for record in denoiser.history)


@pytest.mark.parametrize(
    "settings",
    [
        {"clip_grad_norm": {"max_norm": 0.05}},
        {"enable_amp": True},
        {"weight_decay": 0.01, "learner": "sgd", "learning_rate": 0.5},
        {"train_neg_sample_args": {"distribution": "popularity", "sample_num": 3}},
        {"train_neg_sample_args": {"distribution": "uniform", "dynamic": True, "candidate_num": 3}},
    ],
    ids=["clipped", "autocast", "weight decay", "three negatives", "dynamic negatives"],
)
@pytest.mark.parametrize("name", ["BPR", "NeuMF"])
def test_phase_one_is_recboles_own_under_its_settings(
    home: Path, name: str, settings: Any
) -> None:
    denoiser, denoised = run(home, name, WATCHING, **settings)
    assert_identical(denoised, run(home, name, **settings)[1])
    assert denoiser is not None
    assert len(denoiser.history) == 3  # one a RecBole epoch, however many negatives


@pytest.mark.parametrize("name", PASSING)
def test_phase_two_with_weights_of_one_changes_nothing(
    home: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit with BPRLoss; torch's own means divide elsewhere, and DGCF adds three terms."""
    monkeypatch.setattr(WeightingFunction, "forward", _ones)
    settings: Any = {"learner": "sgd", "learning_rate": 0.5}
    denoiser, denoised = run(home, name, SWITCHING, **settings)
    assert denoiser is not None
    assert denoiser.memorization_point == 1
    assert denoiser.history[-1].mean_weight == 1.0
    plain = run(home, name, **settings)[1]
    if name in ("BPR", "LightGCN", "NGCF", "SpectralCF"):
        assert_identical(denoised, plain)
    else:
        torch.testing.assert_close(
            denoised[0]["parameters"], plain[0]["parameters"], rtol=1e-5, atol=1e-7
        )
        assert denoised[1] == pytest.approx(plain[1], rel=1e-6)
        assert denoised[4] == plain[4]


def test_phase_two_does_depend_on_the_weights(home: Path) -> None:
    """Else the test above could not fail."""
    _, denoised = run(home, "BPR", SWITCHING)
    with pytest.raises(AssertionError, match="parameters"):
        assert_identical(denoised, run(home, "BPR")[1])


def test_denoise_and_undo_leave_no_trace(home: Path) -> None:
    plain = run(home, "LightGCN")[1]
    trainer, train_data, valid_data = set_up(home, "LightGCN")
    before = set(vars(trainer)), set(vars(trainer.model)), set(vars(train_data))
    denoise(trainer, train_data)
    assert is_denoised(trainer)
    assert set(vars(trainer)) - before[0] == {
        "_train_epoch", "_save_checkpoint", "resume_checkpoint",
    }  # fmt: skip
    undo(trainer)
    assert not is_denoised(trainer)
    assert (set(vars(trainer)), set(vars(trainer.model)), set(vars(train_data))) == before
    trainer.fit(train_data, valid_data, verbose=False)
    assert_identical(outcome(trainer, train_data), plain)
    assert not any(m._forward_hooks for m in trainer.model.modules())


def test_the_batch_that_is_tried_leaves_no_trace_of_dynamic_sampling(home: Path) -> None:
    """It predicts for its candidates, and sets the model's flags."""
    trainer, train_data, _ = set_up(
        home, "CachedPredict", model_class=CachedPredict,
        train_neg_sample_args={"distribution": "uniform", "dynamic": True, "candidate_num": 3},
    )  # fmt: skip
    trainer.model.eval()
    denoise(trainer, train_data)
    assert not any(module.training for module in trainer.model.modules())
    assert trainer.model.restore_user_e is None
    assert train_data.model is None


# ------------------------------------------------------------------ what Phase II learns


def _propagated(model: Any, batch: Any) -> tuple[Tensor, ...]:
    users, items = model.forward()
    return users[batch["user_id"]], items[batch["item_id"]], items[batch["neg_item_id"]]


def _looked_up(model: Any, batch: Any) -> tuple[Tensor, ...]:
    user, item = model.user_embedding, model.item_embedding
    return user(batch["user_id"]), item(batch["item_id"]), item(batch["neg_item_id"])


def _bpr_of(embeddings: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Tensor]:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        user, positive, negative = embeddings(model, batch)
        gap = (user * positive).sum(dim=1) - (user * negative).sum(dim=1)
        return -torch.log(1e-10 + torch.sigmoid(gap))

    return loss


def _norms_of(embeddings: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Tensor]:
    def penalty(model: nn.Module, batch: Any) -> Tensor:
        return 0.01 * sum(e.norm() for e in embeddings(model, batch)) / len(batch["user_id"])

    return penalty


def _bce(model: Any, batch: Any) -> Tensor:
    logits = model.forward(batch["user_id"], batch["item_id"])
    return F.binary_cross_entropy_with_logits(logits, batch["label"], reduction="none")


def _no_penalty(model: nn.Module, batch: Any) -> Tensor:
    return torch.zeros(())


BY_HAND: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "BPR": (_bpr_of(_looked_up), _no_penalty),
    "LightGCN": (_bpr_of(_propagated), _norms_of(_looked_up)),
    "NGCF": (_bpr_of(_propagated), _norms_of(_propagated)),
    "NeuMF": (_bce, _no_penalty),
}


@pytest.mark.parametrize("name", NAMED)
def test_weights_are_learned_as_in_a_loop_written_by_hand(home: Path, name: str) -> None:
    """The same batches, with per-sample losses and the penalty written out."""
    config = SWITCHING.but(guidance_interval=1)
    settings: Any = {"message_dropout": 0.0, "dropout_prob": 0.0, "learning_rate": 0.05}
    trainer, train_data, _ = set_up(home, name, **settings)
    denoiser = denoise(trainer, train_data, config=config)
    trainer.fit(train_data, verbose=False, saved=False)

    other, loader, _ = set_up(home, name, **settings)
    loss_fn, penalty = BY_HAND[name]
    model, seen = other.model, loader.dataset.inter_feat

    def pairs(batch: Any) -> tuple[Tensor, ...]:
        pair = batch["user_id"], batch["item_id"]
        return (*pair, batch["label"] > 0) if "label" in batch else pair

    def scores(model: Any, users: Tensor, items: Tensor) -> Tensor:
        found = model.predict(Interaction({"user_id": users, "item_id": items}))
        return torch.where(items == 0, torch.tensor(-3e38), found)

    loop = SelfGuidedDenoiser(
        model, other.optimizer, loss_fn, interactions=(seen["user_id"], seen["item_id"]),
        n_items=loader.dataset.item_num, score_fn=scores, pair_fn=pairs, config=config,
    )  # fmt: skip
    for _ in range(3):
        model.train()
        for interaction in loader:
            batch = interaction.interaction
            loop.before_step(batch)
            loop.step(batch, penalty=penalty(model, batch))
        loop.end_epoch()

    found, expected = denoiser.state_dict(), loop.state_dict()
    learned = found["self_guided"]["learner"]["weighting"]
    for key, value in expected["self_guided"]["learner"]["weighting"].items():
        torch.testing.assert_close(learned[key], value, rtol=1e-4, atol=1e-6)
    for one, another in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, another, rtol=1e-3, atol=1e-5)
    weights = denoiser.sample_weights(interaction)
    torch.testing.assert_close(weights, loop.sample_weights(batch), rtol=1e-3, atol=1e-4)
    assert weights.std() > 1e-4  # else they could not differ


def test_the_penalty_is_not_weighted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights of zero, the penalty alone trains."""
    monkeypatch.setattr(
        WeightingFunction, "forward", lambda self, x: 0.0 * _ones(self, x) + 1e-30
    )
    trainer, train_data, _ = set_up(home, "LightGCN", epochs=2)
    denoiser = denoise(trainer, train_data, config=SWITCHING.but(weight_normalization="none"))
    hooks, penalty = trainer._train_epoch.__self__, BY_HAND["LightGCN"][1]
    inner, rests = hooks._loss, []

    def watched(batch: Any) -> Tensor:
        expected = penalty(trainer.model, batch).reshape(1)  # as the model's own
        loss = inner(batch)
        if denoiser.phase is Phase.SELF_GUIDED:
            rests.append((loss.detach(), expected.detach()))
        return loss

    monkeypatch.setattr(hooks, "_loss", watched)
    trainer.fit(train_data, verbose=False, saved=False)
    assert len(rests) == len(train_data)
    for loss, expected in rests:
        torch.testing.assert_close(loss, expected)


# ------------------------------------------------------------------ what is refused


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


class _Own(BPR):
    """A user's own model: BPR with something more than the mean."""

    def calculate_loss(self, interaction: Any) -> Any:
        return self.more(super().calculate_loss(interaction), interaction)


class Halved(_Own):
    def more(self, mean: Tensor, _: Any) -> Tensor:
        return 0.5 * mean


class Squared(_Own):
    def more(self, mean: Tensor, _: Any) -> Tensor:
        return mean + mean**2


class Ignored(_Own):
    def more(self, mean: Tensor, _: Any) -> Tensor:
        return self.user_embedding.weight.sum()


class Detached(_Own):
    def more(self, mean: Tensor, _: Any) -> Tensor:
        return mean.detach() + 0 * self.user_embedding.weight.sum() + 0 * mean


class Doubled(_Own):
    def more(self, mean: Tensor, _: Any) -> Tensor:
        return mean + mean.detach()


class InTerms(_Own):
    def more(self, mean: Tensor, _: Any) -> Any:
        return mean, mean


class Twice(_Own):
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


class Penalised(_Own):
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


# ------------------------------------------------------------------ scores, labels, NaN


class CachedPredict(LightGCN):
    """Predicts from the embeddings kept for evaluation, where there are some."""

    def predict(self, interaction: Any) -> Tensor:
        if self.restore_user_e is None:
            self.restore_user_e, self.restore_item_e = self.forward()
        users = self.restore_user_e[interaction["user_id"]]
        return (users * self.restore_item_e[interaction["item_id"]]).sum(dim=1)


def test_scores_are_of_the_parameters_of_now_and_padding_comes_last(home: Path) -> None:
    settings: Any = {"model_class": CachedPredict}
    trainer, train_data, _ = set_up(home, "CachedPredict", **settings)
    denoiser = denoise(trainer, train_data, config=WATCHING)
    model = trainer.model
    model.restore_user_e, model.restore_item_e = (e.detach() for e in model.forward())
    stale = model.restore_user_e
    with torch.no_grad():
        model.user_embedding.weight.mul_(-2)
        users, items = model.forward()
    pairs = torch.tensor([3, 3, 3]), torch.tensor([0, 1, 2])
    found = denoiser._user.score(*pairs)
    torch.testing.assert_close(found[1:], (users[3] * items[[1, 2]]).sum(dim=1))
    assert found[0] == torch.finfo(torch.float32).min
    assert model.restore_user_e is stale  # it is the user's to clear


def test_labels_of_the_data_say_what_is_observed(home: Path) -> None:
    """Without sampled negatives, a pointwise model learns from labels 0 and 1 of the file."""
    place = home / "tiny" / "tiny.inter"
    header, *rows = place.read_text().splitlines()
    draw = np.random.default_rng(1)
    stars = draw.integers(1, 6, size=len(rows))
    lines = [f"{row}\t{star}" for row, star in zip(rows, stars, strict=True)]
    place.write_text("\n".join([f"{header}\trating:float", *lines]) + "\n")
    settings: Any = {
        "load_col": {"inter": ["user_id", "item_id", "rating"]}, "threshold": {"rating": 3},
        "train_neg_sample_args": None,
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None,
                      "mode": "labeled"},
        "metrics": ["AUC"], "valid_metric": "AUC",
    }  # fmt: skip
    trainer, train_data, valid_data = set_up(home, "NeuMF", **settings)
    denoiser = denoise(trainer, train_data, config=SWITCHING)
    trainer.fit(train_data, valid_data, verbose=False)
    observed = train_data.dataset.inter_feat["label"] > 0
    assert 0 < len(denoiser.interactions) == int(observed.sum()) < len(observed)
    assert denoiser.phase is Phase.SELF_GUIDED
    batch = next(iter(train_data))
    assert torch.equal(denoiser._steps._read_pairs(batch).observed, batch["label"] > 0)


class Spoiled(_Own):
    """NaN while the second batch is trained on."""

    batches = 0  # counted as each begins and as it ends

    def more(self, mean: Tensor, interaction: Any) -> Tensor:
        return mean

    def forward(self, user: Tensor, item: Tensor) -> Any:
        user_e, item_e = super().forward(user, item)
        return (user_e * torch.nan if Spoiled.batches == 3 else user_e), item_e


def test_a_batch_of_nan_is_named_or_left_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled_run(config: DenoiserConfig) -> SelfGuidedDenoiser:
        settings: Any = {"model_class": Spoiled, "epochs": 1, "train_batch_size": 60}
        trainer, train_data, _ = set_up(home, "Spoiled", **settings)
        Spoiled.batches = 0
        denoiser = denoise(trainer, train_data, config=config)
        hooks = trainer._train_epoch.__self__
        inner = hooks._loss

        def counted(interaction: Any) -> Tensor:
            Spoiled.batches += 1
            try:
                return inner(interaction)
            finally:
                Spoiled.batches += 1

        monkeypatch.setattr(hooks, "_loss", counted)
        trainer.fit(train_data, verbose=False, saved=False)
        assert all(bool(p.isfinite().all()) for p in trainer.model.parameters())
        return denoiser

    with pytest.raises(NonFiniteError, match=r"NaN or Inf among .* in batch 2 of epoch 1"):
        spoiled_run(WATCHING)
    assert spoiled_run(WATCHING.but(on_nonfinite="skip")).history[0].skipped == 1


# ------------------------------------------------------------------ checkpoints


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole's checkpoints hold its Config, which torch loads only when told that it may."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


@pytest.mark.usefixtures("trusting")
def test_a_run_goes_on_from_recboles_checkpoint(home: Path) -> None:
    trainer, train_data, _ = set_up(home, "LightGCN", epochs=2)
    denoiser = denoise(trainer, train_data, config=SWITCHING)
    trainer.fit(train_data, verbose=False)
    place = Path(trainer.saved_model_file)
    assert (place.parent / (place.name + ".denoiser")).exists()

    other, loader, _ = set_up(home, "LightGCN", epochs=4)
    resumed = denoise(other, loader, config=SWITCHING)
    other.resume_checkpoint(place)
    assert_identical(
        without(resumed.state_dict(), "seconds"), without(denoiser.state_dict(), "seconds")
    )
    assert_identical(other.model.state_dict(), trainer.model.state_dict())
    assert resumed.phase is Phase.SELF_GUIDED
    other.fit(loader, verbose=False)
    assert [record.epoch for record in resumed.history] == [1, 2, 3, 4]
    # the model is RecBole's own, with the denoiser or without
    plain, _, valid_data = set_up(home, "LightGCN")
    plain.resume_checkpoint(other.saved_model_file)
    assert_identical(plain.model.state_dict(), other.model.state_dict())
    other.evaluate(valid_data)


@pytest.mark.usefixtures("trusting")
def test_checkpoints_that_do_not_fit_are_refused_and_nothing_changes(home: Path) -> None:
    trainer, train_data, _ = set_up(home, "BPR", epochs=1)
    denoise(trainer, train_data, config=WATCHING)
    trainer.fit(train_data, verbose=False)
    place = Path(trainer.saved_model_file)
    beside = place.with_name(place.name + ".denoiser")

    def refused(message: str, config: DenoiserConfig = WATCHING) -> None:
        other, loader, _ = set_up(home, "BPR")
        resumed = denoise(other, loader, config=config)
        before = snapshot(other.model, other.optimizer), without(resumed.state_dict(), "seconds")
        with pytest.raises(StateError, match=message):
            other.resume_checkpoint(str(place))
        after = snapshot(other.model, other.optimizer), without(resumed.state_dict(), "seconds")
        assert_identical(after, before)

    refused("config", config=WATCHING.but(history_length=49))
    trainer.epochs, trainer.start_epoch = 2, 1
    stale = beside.read_bytes()
    trainer.fit(train_data, verbose=False)
    beside.write_bytes(stale)
    refused("^Expected .*denoiser to be saved with .*, got that of another checkpoint")
    beside.unlink()
    refused("^Expected the denoiser's file .* beside the checkpoint, got none")


@pytest.mark.usefixtures("trusting")
def test_a_checkpoint_that_recbole_cannot_take_leaves_the_denoiser_as_it_was(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, train_data, _ = set_up(home, "BPR", epochs=1)
    denoise(trainer, train_data, config=WATCHING)
    trainer.fit(train_data, verbose=False)
    other, loader, _ = set_up(home, "BPR")
    resumed = denoise(other, loader, config=WATCHING)

    def fails(self: Any, resume_file: str) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(Trainer, "resume_checkpoint", fails)
    with pytest.raises(RuntimeError, match=r"^no$"):
        other.resume_checkpoint(trainer.saved_model_file)
    assert resumed.history == []


def test_the_rest_of_a_loss_comes_after_it(home: Path) -> None:
    trainer, _, _ = set_up(home, "BPR")
    with pytest.raises(OrderError, match=r"^Expected take_rest after a loss"):
        RecBoleLosses(trainer.model).take_rest()


# ------------------------------------------------------------------ what is written about it

ROOT = Path(__file__).resolve().parents[2]


def test_every_code_block_of_the_page_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "recbole.md").read_text(), re.S)
    assert len(blocks) == 4
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # else the page leaves it set
    trainer, train_data, valid_data = set_up(home, "LightGCN")
    names = {"config": trainer.config, "train_data": train_data, "valid_data": valid_data}
    for block in blocks:
        exec(compile(block, "recbole.md", "exec"), names)  # it is our own page
    assert "Phase.MEMORIZATION None 0." in capsys.readouterr().out
    assert not is_denoised(names["trainer"])
    history = names["denoiser"].history
    assert [record.epoch for record in history] == [1, 2, 3, 4, 5]  # the best and what followed
    assert names["weights"].shape == (len(names["batch"]),)


def test_the_table_of_the_page_names_the_models_that_train(home: Path) -> None:
    page = (ROOT / "docs" / "recbole.md").read_text()
    rows = re.findall(r"^\| ([^|]*) \| trained;", page, re.M)
    assert sorted(", ".join(rows).split(", ")) == sorted(PASSING)


def test_the_example_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from examples import recbole_example

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setattr(sys, "argv", ["example", "--epochs=6", "--embedding_size=8"])
    recbole_example.main()
    printed = capsys.readouterr().out
    assert "ndcg@20: plain 0." in printed
    assert "true 0.200" in printed
    auc = re.search(r"with AUC (0\.\d+)", printed)
    assert auc is not None
    assert float(auc[1]) > 0.6  # chance is 0.5
    assert Path.cwd() == home
    assert list(home.glob("log*")) == []
