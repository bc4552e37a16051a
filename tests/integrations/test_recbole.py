"""RecBole's own models, trained by RecBole's own trainer, denoised."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import (
    DenoiserConfig,
    NonFiniteError,
    OrderError,
    Phase,
    SelfGuidedDenoiser,
    StateError,
)
from sgdl_wrap.guiding.weighting import WeightingFunction
from tests.support.models_zoo import (
    SWITCHING,
    WATCHING,
    assert_identical,
    snapshot,
    weights_of_one,
    without,
)

pytest.importorskip("recbole")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of RecBole's own imports
    from recbole.data.interaction import Interaction
    from recbole.model.general_recommender import LightGCN
    from recbole.trainer import Trainer

    from sgdl_wrap.integrations.recbole import denoise, is_denoised, undo
    from sgdl_wrap.integrations.recbole_losses import RecBoleLosses
    from tests.integrations.recbole_runs import MARKS, Own, outcome, run, set_up

pytestmark = MARKS

NAMED = ["BPR", "LightGCN", "NeuMF", "NGCF"]
PASSING = [*NAMED, "DGCF", "DMF", "NNCF", "SpectralCF", "FISM", "NAIS"]

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
    monkeypatch.setattr(WeightingFunction, "forward", weights_of_one)
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
        WeightingFunction, "forward", lambda self, x: 0.0 * weights_of_one(self, x) + 1e-30
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
    found = denoiser._user_code.score(*pairs)
    torch.testing.assert_close(found[1:], (users[3] * items[[1, 2]]).sum(dim=1))
    assert found[0] == -torch.inf
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
    assert torch.equal(denoiser._reading.taken(batch).pairs.observed, batch["label"] > 0)


class Spoiled(Own):
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
