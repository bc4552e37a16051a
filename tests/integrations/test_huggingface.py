"""A Trainer of transformers, with models made from configurations, denoised."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

from sgdl_wrap import DenoiserConfig, DenoiserWarning, Phase, SelfGuidedDenoiser, StateError
from sgdl_wrap.guiding.weighting import WeightingFunction
from tests.support.models_zoo import (
    assert_identical,
    seeded,
    stream_states,
    weights_of_one,
    without,
)

pytest.importorskip("transformers")

from transformers import TrainerCallback

from sgdl_wrap.integrations.huggingface import SelfGuidedCallback
from tests.integrations.huggingface_runs import (
    BATCHES,
    EPOCHS,
    KINDS,
    N_USERS,
    SOON,
    TOKENS,
    Denoised,
    callback,
    logged,
    outcome,
    train,
    trainer,
)

EACH = pytest.mark.parametrize("kind", list(KINDS))
FEATURES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "accumulation": {"gradient_accumulation_steps": 4},  # the last step takes fewer batches
    "bf16": {"bf16": True},
    "no clipping, warm-up": {"max_grad_norm": 0.0, "warmup_steps": 5},
}


# ------------------------------------------------------------------ what must not change


@EACH
@pytest.mark.parametrize("feature", FEATURES)
def test_phase_one_is_the_trainers_own_training_bit_for_bit(
    kind: str, feature: str, tmp_path: Path
) -> None:
    plain = train(trainer(tmp_path, kind=kind, **FEATURES[feature]))
    guided = callback(kind, DenoiserConfig())
    denoised = train(trainer(tmp_path, guided, kind=kind, **FEATURES[feature]))
    assert guided.denoiser.phase is Phase.MEMORIZATION
    assert len(guided.denoiser.history) == EPOCHS
    assert_identical(denoised, plain)


@EACH
@pytest.mark.parametrize("feature", FEATURES)
def test_weights_of_one_change_nothing(
    kind: str, feature: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(trainer(tmp_path, kind=kind, **FEATURES[feature]))
    monkeypatch.setattr(WeightingFunction, "forward", weights_of_one)
    guided = callback(kind)
    denoised = train(trainer(tmp_path, guided, kind=kind, **FEATURES[feature]))
    assert guided.denoiser.memorization_point == 1
    assert guided.denoiser.history[-1].mean_weight == 1.0
    assert_identical(denoised, plain)


@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_label_smoothing_stays_as_it_is(kind: str, tmp_path: Path) -> None:
    smoothed = {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2, "kind": kind}
    plain = train(trainer(tmp_path, **smoothed))
    guided = callback(kind, DenoiserConfig(), penalty=True)
    assert_identical(train(trainer(tmp_path, guided, **smoothed)), plain)


def test_the_global_streams_end_where_they_end_without_the_callback(tmp_path: Path) -> None:
    ends = []
    for guided in (None, callback()):
        runner = trainer(tmp_path, guided)
        with seeded(4):
            runner.train()
            ends.append(stream_states())
    assert ends[0] == ends[1]


def test_disabled_it_is_plain_training(tmp_path: Path) -> None:
    plain = train(trainer(tmp_path))
    guided = callback(enabled=False)
    assert_identical(train(trainer(tmp_path, guided, save_strategy="epoch")), plain)
    assert guided.denoiser.history == []
    assert not list(tmp_path.rglob("denoiser.pt"))


@pytest.mark.parametrize("kind", ["gpt", "bert"])
@pytest.mark.parametrize("config", [DenoiserConfig(), SOON], ids=["Phase I", "Phase II"])
def test_evaluation_is_the_trainers_own(
    kind: str, config: DenoiserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Amid epochs, and of batches that have the users still; weights are one, to compare."""
    monkeypatch.setattr(WeightingFunction, "forward", weights_of_one)
    data = KINDS[kind]["data"][:7]
    how = {"kind": kind, "evaluated": data, "eval_strategy": "steps", "eval_steps": 2}
    plain, guided = trainer(tmp_path, **how), callback(kind, config)
    denoised = trainer(tmp_path, guided, **how)
    assert_identical(train(denoised), train(plain))
    assert logged(denoised, "eval_loss") == logged(plain, "eval_loss")
    assert (guided.denoiser.phase is Phase.SELF_GUIDED) is (config is SOON)
    assert len(guided.denoiser.history) == EPOCHS
    found, expected = (runner.predict(data).predictions for runner in (denoised, plain))
    assert_identical(torch.from_numpy(found[0]), torch.from_numpy(expected[0]))


# ------------------------------------------------------------------ what must change


class Recorded(Denoised):
    """Keeps the batches that it trains on, with the number of samples that they are part of."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        if not hasattr(self, "batches"):
            self.batches: list[Any] = []
        self.batches.append((dict(inputs), num_items_in_batch))
        return super().training_step(model, inputs, num_items_in_batch)


def library_loop(kind: str, model: nn.Module, batches: list[Any], share: int) -> SelfGuidedDenoiser:
    """The same training by a loop of one's own."""
    told = KINDS[kind]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    named = ("user", "item", "negative") if kind == "towers" else (
        "input_ids", "attention_mask", "labels"
    )  # fmt: skip

    def loss_fn(model: nn.Module, batch: Any) -> Any:
        return told["losses"](model(**{name: batch[name] for name in named}), batch)

    denoiser = SelfGuidedDenoiser(
        model, optimizer, loss_fn, interactions=told["interactions"], n_items=TOKENS,
        score_fn=told["score_fn"], pair_fn=told["pair_fn"], config=SOON, explicit_epochs=True,
    )  # fmt: skip
    count = len(batches) // EPOCHS
    for number, (batch, items) in enumerate(batches):
        place = number % count
        denoiser.before_step(batch)
        loss = denoiser.weighted_loss(batch)
        if kind == "towers":  # the Trainer divides by the batches
            loss = loss / min(share, count - place // share * share)
        elif kind == "gpt":  # the model divides by their samples; BERT's does not, though asked
            loss = loss * len(loss_fn(model, batch)) / items
        if place % share == 0:
            optimizer.zero_grad()
        loss.backward()
        if (place + 1) % share == 0 or place + 1 == count:
            optimizer.step()
        if place + 1 == count:
            denoiser.end_epoch()
    return denoiser


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


@EACH
@pytest.mark.parametrize("share", [1, 4])
def test_phase_two_is_the_librarys_own_loop(kind: str, share: int, tmp_path: Path) -> None:
    """To rounding: the weighted gradient is the sum of two."""
    same = {
        "kind": kind, "gradient_accumulation_steps": share, "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant", "optim": "sgd", "learning_rate": 0.5,
    }  # fmt: skip
    guided, plain = callback(kind), trainer(tmp_path, **same)
    runner = trainer(tmp_path, guided, trains=Recorded, **same)
    expected = without_dropout(trainer(tmp_path, kind=kind).model)
    for one in (runner, plain):
        without_dropout(one.model)
        train(one)
    reference = library_loop(kind, expected, runner.batches, share)
    assert reference.memorization_point == guided.denoiser.memorization_point == 1
    apart, effect = distance(runner.model, expected), distance(plain.model, expected)
    assert effect > 0.001  # the weights do matter
    assert apart < effect * 1e-3


def test_bf16_trains_in_both_phases(tmp_path: Path) -> None:
    guided = callback()
    runner = trainer(tmp_path, guided, bf16=True)
    train(runner)
    assert guided.denoiser.phase is Phase.SELF_GUIDED
    assert all(torch.isfinite(p).all() for p in runner.model.parameters())


def test_a_model_compiled_in_place_trains_and_is_said(tmp_path: Path) -> None:
    guided = callback()
    runner = trainer(tmp_path, guided, num_train_epochs=2)
    runner.model.compile(backend="eager")
    with pytest.warns(DenoiserWarning, match=r"^Expected an eager model and loss, got torch"):
        train(runner)
    assert guided.denoiser.phase is Phase.SELF_GUIDED


# ------------------------------------------------------------------ epochs and what is logged


class Ends(TrainerCallback):
    """How many epochs had ended at each evaluation and checkpoint."""

    def __init__(self, guided: SelfGuidedCallback) -> None:
        self.guided = guided
        self.evaluated: list[int] = []
        self.saved: list[int] = []

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self.evaluated.append(len(self.guided.denoiser.history))

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        self.saved.append(len(self.guided.denoiser.history))


@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_an_epoch_ends_before_the_evaluation_and_the_checkpoint_of_its_last_batch(
    strategy: str, tmp_path: Path
) -> None:
    guided = callback()
    ends = Ends(guided)
    train(trainer(
        tmp_path, guided, ends, evaluated=KINDS["gpt"]["data"], eval_strategy=strategy,
        save_strategy=strategy, eval_steps=BATCHES, save_steps=BATCHES,
    ))  # fmt: skip
    assert ends.evaluated == ends.saved == [1, 2, 3, 4]


def test_training_that_ends_amid_an_epoch_ends_it(tmp_path: Path) -> None:
    guided = callback(config=DenoiserConfig())
    train(trainer(tmp_path, guided, max_steps=BATCHES + 2))
    assert len(guided.denoiser.history) == 2


class Stream(IterableDataset):
    """Rows whose number nobody knows."""

    def __iter__(self) -> Iterator[Any]:
        return iter(KINDS["gpt"]["data"])


def test_an_epoch_of_unknown_length_ends_with_the_pass(tmp_path: Path) -> None:
    guided = callback(config=DenoiserConfig())
    train(trainer(tmp_path, guided, data=Stream(), max_steps=2 * BATCHES + 1))
    assert len(guided.denoiser.history) == 3


def test_phase_noise_rate_and_memorized_ratio_are_logged_at_each_epochs_end(
    tmp_path: Path,
) -> None:
    guided = callback()
    runner = trainer(tmp_path, guided, logging_steps=BATCHES)
    train(runner)
    assert logged(runner, "sgdl_phase") == [2.0] * EPOCHS
    assert logged(runner, "sgdl_noise_rate") == pytest.approx([0.9] * EPOCHS)
    assert logged(runner, "sgdl_memorized_ratio") == [
        record.memorized_ratio for record in guided.denoiser.history
    ]
    assert len(logged(runner, "loss")) == EPOCHS  # the Trainer's own logs come as ever


def test_trained_again_it_begins_anew(tmp_path: Path) -> None:
    guided = callback()
    runner = trainer(tmp_path, guided)
    train(runner)
    first = guided.denoiser
    train(runner)
    assert guided.denoiser is not first
    assert len(guided.denoiser.history) == EPOCHS


# ------------------------------------------------------------------ checkpoints


def ended(runner: Any, guided: SelfGuidedCallback) -> dict[str, Any]:
    return {**outcome(runner), "denoiser": without(guided.denoiser.state_dict(), "seconds")}


@EACH
def test_resumed_from_any_checkpoint_it_ends_bit_for_bit_as_undisturbed(
    kind: str, tmp_path: Path
) -> None:
    """Amid epochs of both phases and at their ends, with dropout, accumulation and a schedule."""
    how = {"kind": kind, "gradient_accumulation_steps": 4, "save_strategy": "steps"}
    guided = callback(kind)
    runner = trainer(tmp_path, guided, save_steps=1, **how)
    train(runner)
    whole = ended(runner, guided)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == runner.state.max_steps
    for path in [*paths[:5], *paths[-3:]]:
        guided = callback(kind)
        runner = trainer(tmp_path, guided, save_steps=100, **how)
        train(runner, path)
        assert_identical(ended(runner, guided), whole, path.name)


def test_the_last_checkpoint_of_the_folder_is_found(tmp_path: Path) -> None:
    train(trainer(tmp_path, callback(), save_strategy="epoch", save_total_limit=1))
    guided = callback()
    runner = trainer(tmp_path, guided, num_train_epochs=EPOCHS + 1)
    with seeded(4):
        runner.train(resume_from_checkpoint=True)
    assert [record.epoch for record in guided.denoiser.history] == [1, 2, 3, 4, 5]


def test_a_checkpoint_elsewhere_is_found_where_the_arguments_name_it(tmp_path: Path) -> None:
    train(trainer(tmp_path / "one", callback(), save_strategy="epoch"))
    path = tmp_path / "one" / f"checkpoint-{2 * BATCHES}"
    message = rf"^Expected the checkpoint of step {2 * BATCHES} in .*other.checkpoint-\d+, got none"
    with pytest.raises(StateError, match=message):
        train(trainer(tmp_path / "other", callback()), path)
    guided = callback()
    train(trainer(tmp_path / "other", guided, resume_from_checkpoint=str(path)), path)
    assert len(guided.denoiser.history) == EPOCHS


def test_the_state_of_other_parameters_is_refused(tmp_path: Path) -> None:
    for name, rate in (("one", 0.02), ("other", 0.03)):
        train(trainer(tmp_path / name, callback(), save_strategy="epoch", learning_rate=rate))
    path = tmp_path / "one" / f"checkpoint-{BATCHES}"
    message = r"^Expected .*denoiser\.pt to be saved with the parameters that are resumed, got that"
    with pytest.raises(StateError, match=message):
        train(trainer(tmp_path / "other", callback()), path)


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    train(trainer(tmp_path, callback(), save_strategy="epoch"))
    users, items = KINDS["gpt"]["interactions"]
    other = callback(interactions=(users[1:], items[1:]))
    with pytest.raises(StateError, match=r"Expected the state of these interactions"):
        train(trainer(tmp_path, other), tmp_path / f"checkpoint-{BATCHES}")


def test_a_checkpoint_without_the_callbacks_state_is_warned_of(tmp_path: Path) -> None:
    train(trainer(tmp_path, save_strategy="epoch"))
    guided = callback(config=DenoiserConfig())
    message = r"^Expected denoiser\.pt in the checkpoint .*, got none: it was saved without"
    with pytest.warns(DenoiserWarning, match=message):
        train(trainer(tmp_path, guided), tmp_path / f"checkpoint-{BATCHES}")
    assert len(guided.denoiser.history) == EPOCHS - 1


def test_interactions_and_users_are_what_the_helpers_say() -> None:
    for kind in ("gpt", "bert"):
        told = KINDS[kind]
        rows = told["data"]
        batch = {
            "user": torch.arange(N_USERS), "labels": torch.stack([row["labels"] for row in rows])
        }  # fmt: skip
        assert_identical(told["pair_fn"](batch), told["interactions"])
