"""A LightningModule left as it is, denoised by the real Trainer."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sgdl_wrap import (
    DenoiserConfig,
    DenoiserWarning,
    LossError,
    Phase,
    SelfGuidedDenoiser,
    StateError,
)
from sgdl_wrap.guiding.weighting import WeightingFunction
from tests.promises.test_training_features import ITEMS, N_ITEMS, USERS, Factors, bpr, in_lists
from tests.support.models_zoo import (
    assert_identical,
    seeded,
    stream_states,
    weights_of_one,
    without,
)

pytest.importorskip("lightning")

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from sgdl_wrap.integrations.lightning import SelfGuidedCallback
from tests.integrations.lightning_runs import (
    BATCHES,
    MARKS,
    SOON,
    Batches,
    DroppedOut,
    Given,
    Ranker,
    Regularised,
    callback,
    fit,
    outcome,
    ranker,
    trainer,
)

pytestmark = MARKS

NETS = pytest.mark.parametrize("net", [Factors, DroppedOut])
FEATURES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "accumulation": {"accumulate_grad_batches": 3},
    "clipping": {"gradient_clip_val": 0.1},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "bf16-true": {"precision": "bf16-true"},
    "64-true": {"precision": "64-true"},
}


# ------------------------------------------------------------------ what must not change


@NETS
@pytest.mark.parametrize("feature", FEATURES)
def test_phase_one_is_training_without_the_callback_bit_for_bit(
    net: type[nn.Module], feature: str
) -> None:
    outcomes = []
    for callbacks in ([], [callback(DenoiserConfig())]):
        module = ranker(net=net)
        runner = fit(module, *callbacks, **FEATURES[feature])
        outcomes.append((outcome(module, runner), module.losses))
    assert callbacks[0].denoiser.phase is Phase.MEMORIZATION
    assert len(callbacks[0].denoiser.history) == 4
    assert_identical(outcomes[1], outcomes[0])


@NETS
@pytest.mark.parametrize("feature", FEATURES)
def test_weights_of_one_change_nothing(
    net: type[nn.Module], feature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WeightingFunction, "forward", weights_of_one)
    module = ranker(net=net)
    plain = outcome(module, fit(module, **FEATURES[feature]))
    module, guided = ranker(net=net), callback()
    denoised = outcome(module, fit(module, guided, **FEATURES[feature]))
    assert guided.denoiser.memorization_point == 1
    assert guided.denoiser.history[-1].mean_weight == 1.0
    assert_identical(denoised, plain)


def test_the_global_streams_end_where_they_end_without_the_callback() -> None:
    ends = []
    for callbacks in ([], [callback()]):
        module = ranker(net=DroppedOut)
        with seeded(4):
            trainer(*callbacks).fit(module, Batches())
            ends.append(stream_states())
    assert ends[0] == ends[1]


def test_disabled_it_is_plain_training() -> None:
    module = ranker()
    plain = outcome(module, fit(module))
    module, guided = ranker(), callback(enabled=False)
    assert_identical(outcome(module, fit(module, guided)), plain)
    assert guided.denoiser.history == []


# ------------------------------------------------------------------ what must change


def autocast(enabled: bool) -> torch.autocast:
    """Lightning's own."""
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled, cache_enabled=False)


def library_loop(net: nn.Module, loss_fn: Any = bpr, **how: Any) -> SelfGuidedDenoiser:
    """The same training by a loop of one's own."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    denoiser = SelfGuidedDenoiser(
        net, optimizer, loss_fn, interactions=(USERS, ITEMS), n_items=N_ITEMS, config=SOON
    )
    share, clip = how.get("accumulate_grad_batches", 1), how.get("gradient_clip_val")
    mixed = how.get("precision") == "bf16-mixed"
    with seeded(4):
        for epoch in range(4):
            for place, batch in enumerate(in_lists(epoch)):
                with autocast(mixed):
                    denoiser.before_step(batch)
                    loss = denoiser.weighted_loss(batch) / share
                if place % share == 0:
                    optimizer.zero_grad()
                loss.backward()
                if clip is not None:
                    nn.utils.clip_grad_norm_(net.parameters(), clip)
                if (place + 1) % share == 0 or place + 1 == BATCHES:
                    optimizer.step()
            with autocast(mixed):
                denoiser.end_epoch()
            schedule.step()
    return denoiser


@NETS
@pytest.mark.parametrize("feature", ["as it is", "accumulation", "clipping", "bf16-mixed"])
def test_phase_two_is_the_librarys_own_loop(net: type[nn.Module], feature: str) -> None:
    """To rounding: the weighted gradient is the sum of two."""
    expected, module, guided = ranker(net=net), ranker(net=net), callback()
    reference = library_loop(expected.net, **FEATURES[feature])
    fit(module, guided, **FEATURES[feature])
    assert reference.memorization_point == guided.denoiser.memorization_point == 1
    plain = ranker(net=net)
    fit(plain, **FEATURES[feature])
    apart, effect = distance(module, expected), distance(plain, expected)
    assert effect > 0.001  # the weights do matter
    assert apart < effect * (0.3 if feature == "bf16-mixed" else 1e-3)


def distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


class Asking(Ranker):
    """A training_step that asks the callback for its loss."""

    guided: SelfGuidedCallback

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.guided.weighted_loss(batch)


@NETS
@pytest.mark.parametrize("feature", ["as it is", "accumulation", "bf16-mixed"])
def test_a_training_step_that_asks_for_the_weighted_loss_is_that_loop_bit_for_bit(
    net: type[nn.Module], feature: str
) -> None:
    expected, module = ranker(net=net), ranker(Asking, net)
    reference = library_loop(expected.net, **FEATURES[feature])
    module.guided = callback()
    fit(module, module.guided, **FEATURES[feature])
    assert_identical(dict(module.state_dict()), dict(expected.state_dict()))
    assert_identical(
        without(module.guided.denoiser.state_dict(), "seconds"),
        without(reference.state_dict(), "seconds"),
    )


def test_all_that_the_denoiser_asks_of_the_loss_is_computed_in_the_precision_of_training() -> None:
    under: set[bool] = set()

    def noting(model: nn.Module, batch: Any) -> Tensor:
        under.add(torch.is_autocast_enabled("cpu"))
        return bpr(model, batch)

    fit(ranker(), callback(loss_fn=noting), precision="bf16-mixed")
    assert under == {True}


def test_what_training_step_adds_stays_unweighted() -> None:
    module, guided = ranker(Regularised), callback(penalty=True)
    fit(module, guided)
    with seeded(3):
        net = Factors()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    denoiser = SelfGuidedDenoiser(
        net, optimizer, bpr, interactions=(USERS, ITEMS), n_items=N_ITEMS, config=SOON
    )
    for epoch in range(4):
        for batch in in_lists(epoch):
            denoiser.before_step(batch)
            denoiser.step(batch, penalty=0.01 * net.user.weight.square().sum())
        denoiser.end_epoch()
        schedule.step()
    for name, value in module.net.state_dict().items():
        torch.testing.assert_close(value, net.state_dict()[name], rtol=2e-4, atol=2e-4)


def test_the_lightning_module_itself_is_denoised_where_no_part_is_named() -> None:
    named, whole = ranker(), ranker()
    fit(named, callback())
    guided = callback(model="")
    fit(whole, guided)
    assert guided.denoiser.model is whole
    assert_identical(dict(whole.state_dict()), dict(named.state_dict()))


def drawing(model: nn.Module, batch: Any) -> Tensor:
    users, positives, _ = batch
    negatives = torch.randint(N_ITEMS, users.shape)
    shift = int(np.random.randint(3))  # noqa: NPY002
    return bpr(model, (users, positives, (negatives + shift) % N_ITEMS))


class Drawing(Ranker):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return drawing(self.net, batch).mean()


def test_negatives_that_the_loss_draws_are_those_that_training_step_drew() -> None:
    found = ranker(Drawing)
    fit(found, callback(loss_fn=drawing))
    expected = ranker()
    library_loop(expected.net, drawing)
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], rtol=2e-4, atol=2e-4)


class Silent(Ranker):
    """Logs nothing: Dynamo cannot trace Lightning's log."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return bpr(self.net, batch).mean()


@pytest.mark.parametrize("kind", [Silent, Asking])
def test_a_compiled_lightning_module_trains_where_a_part_is_named(kind: type[Ranker]) -> None:
    """No notice comes: what the denoiser is given is not compiled."""
    outcomes = []
    for compiled in (False, True):
        module, guided = ranker(kind), callback()
        module.guided = guided
        whole = torch.compile(module, backend="aot_eager") if compiled else module
        fit(whole, guided)
        assert guided.denoiser.phase is Phase.SELF_GUIDED
        outcomes.append(dict(module.state_dict()))
    torch.testing.assert_close(outcomes[1], outcomes[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", ["", "net"])
def test_a_part_that_is_compiled_in_place_trains_and_is_said(model: str) -> None:
    module, guided = ranker(), callback(model=model)
    module.net.compile(backend="aot_eager")
    with pytest.warns(DenoiserWarning, match=r"^Expected an eager model and loss, got torch"):
        fit(module, guided)
    assert guided.denoiser.phase is Phase.SELF_GUIDED


class DrawingEarly(Drawing):
    """Draws before training_step, which the callback's hook precedes."""

    asked: SelfGuidedCallback | None = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.rand(3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        asked = self.asked
        return asked.weighted_loss(batch) if asked else super().training_step(batch, batch_idx)


def test_draws_before_training_step_are_refused_with_the_way_round() -> None:
    message = r"draws at random before training_step .*: return guided.weighted_loss\(batch\)\.$"
    with pytest.raises(LossError, match=message):
        fit(ranker(DrawingEarly), callback(loss_fn=drawing))
    module, guided = ranker(DrawingEarly), callback(loss_fn=drawing)
    module.asked = guided
    fit(module, guided)
    assert guided.denoiser.phase is Phase.SELF_GUIDED


# ------------------------------------------------------------------ epochs and what is logged


class Noting(Callback):
    """What is logged at each epoch's end, as others read it."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.seen.append({name: float(v) for name, v in trainer.callback_metrics.items()})


def test_phase_noise_rate_and_memorized_ratio_are_logged_at_each_epochs_end() -> None:
    guided, notes = callback(), Noting()
    runner = fit(ranker(), guided, notes)
    history = guided.denoiser.history
    assert runner.callback_metrics["sgdl_phase"] == 2
    assert runner.callback_metrics["sgdl_noise_rate"] == pytest.approx(0.9)
    assert runner.callback_metrics["sgdl_memorized_ratio"] == pytest.approx(
        history[-1].memorized_ratio
    )
    assert [seen.get("loss") is not None for seen in notes.seen] == [True] * 4


class Validated(Callback):
    """What a checkpoint written at a validation would hold."""

    def __init__(self, guided: SelfGuidedCallback) -> None:
        self.guided, self.epochs = guided, []

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.epochs.append(len(self.guided.state_dict()["history"]))


def test_an_epoch_ends_before_the_validation_that_follows_it() -> None:
    guided = callback(DenoiserConfig())
    notes = Validated(guided)
    runner = trainer(guided, notes, num_sanity_val_steps=0, val_check_interval=0.5)
    with seeded(4):
        runner.fit(ranker(), Batches(), Given(in_lists(9)))
    assert notes.epochs == [0, 1, 1, 2, 2, 3, 3, 4]


def test_epochs_are_lightnings_where_a_loader_repeats_pairs() -> None:
    """By the count of samples the first epoch would end amid the loader."""
    guided = callback(DenoiserConfig())
    module = ranker()
    twice = [batch for epoch in range(2) for batch in in_lists(epoch)]
    with seeded(4):
        trainer(guided, epochs=3).fit(module, Given(twice))
    assert len(guided.denoiser.history) == 3


def test_limits_on_batches_end_epochs_too() -> None:
    guided = callback(DenoiserConfig())
    fit(ranker(), guided, limit_train_batches=3)
    assert len(guided.denoiser.history) == 4


class Stopping(Ranker):
    """Skips what is left of an epoch, as Lightning allows."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 2 else None


def test_an_epoch_cut_short_ends_where_lightning_ends_it() -> None:
    guided = callback(DenoiserConfig())
    with seeded(4):
        trainer(guided, epochs=3).fit(ranker(Stopping), Given(in_lists(0)))
    assert len(guided.denoiser.history) == 3


class Passing(Ranker):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return None if batch_idx == 1 else super().training_step(batch, batch_idx)


def test_a_batch_that_training_step_passes_by_is_not_noted() -> None:
    module, guided = ranker(Passing), callback(DenoiserConfig())
    with pytest.warns(UserWarning, match="`training_step` returned `None`"):
        fit(module, guided, epochs=1)
    assert len(module.losses) == BATCHES - 1
    assert guided.denoiser.history[0].loss == pytest.approx(np.mean(module.losses))


class Idle(Ranker):
    """Passes by every batch of some epochs."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return None if self.current_epoch in (0, 2) else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")  # Lightning says it once
def test_an_epoch_whose_every_batch_is_passed_by_is_not_noted() -> None:
    guided = callback(DenoiserConfig())
    runner = fit(ranker(Idle), guided)
    assert [record.epoch for record in guided.denoiser.history] == [1, 2]
    assert runner.callback_metrics["sgdl_phase"] == 1


def test_fit_called_again_goes_on() -> None:
    module, guided = ranker(), callback()
    loader = Batches()
    with seeded(4):
        runner = trainer(guided, epochs=2)
        runner.fit(module, loader)
        runner.fit_loop.max_epochs = 4
        runner.fit(module, loader)
    assert [record.epoch for record in guided.denoiser.history] == [1, 2, 3, 4]


def test_a_new_trainer_begins_anew() -> None:
    guided = callback()
    fit(ranker(), guided)
    first = guided.denoiser
    fit(ranker(), guided)
    assert guided.denoiser is not first
    assert_identical(
        without(guided.denoiser.state_dict(), "seconds"), without(first.state_dict(), "seconds")
    )


# ------------------------------------------------------------------ checkpoints


def saving(folder: Path, **arguments: Any) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=folder, save_top_k=-1, filename="{step}", **arguments)


def ended(module: Ranker, runner: Trainer, guided: SelfGuidedCallback) -> dict[str, Any]:
    return {
        **outcome(module, runner),
        "denoiser": without(guided.denoiser.state_dict(), "seconds"),
    }


@pytest.mark.parametrize(
    "steps",
    [{"every_n_train_steps": 1}, {"every_n_epochs": 1, "save_on_train_epoch_end": False}],
    ids=["after steps", "at a validation"],
)
@pytest.mark.parametrize("kind", [Ranker, Asking])
def test_resumed_from_any_checkpoint_amid_training_it_ends_bit_for_bit_as_undisturbed(
    kind: type[Ranker], steps: dict[str, Any], tmp_path: Path
) -> None:
    """Amid epochs of both phases, at their ends, just before and after the switch."""

    def run(ckpt_path: Path | None, *others: Callback) -> dict[str, Any]:
        module, guided = ranker(kind), callback()
        module.guided = guided
        runner = trainer(guided, *others, enable_checkpointing=bool(others), num_sanity_val_steps=0)
        with seeded(4):
            runner.fit(module, Batches(), Given(in_lists(9)), ckpt_path=ckpt_path)
        return ended(module, runner, guided)

    whole = run(None, saving(tmp_path, **steps))
    assert len(whole["denoiser"]["history"]) == 4
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == (4 * BATCHES if "every_n_train_steps" in steps else 4)
    for path in paths:
        assert_identical(run(path), whole, path.name)


def test_stopped_amid_an_epoch_and_saved_then_it_goes_on_where_lightning_does(
    tmp_path: Path,
) -> None:
    """With the next epoch."""
    outcomes, path = [], tmp_path / "stopped.ckpt"
    for guided in (None, callback(DenoiserConfig())):
        callbacks = [] if guided is None else [guided]
        fit(ranker(), *callbacks, max_steps=BATCHES + 2).save_checkpoint(path)
        module = ranker()
        runner = fit(module, *callbacks, ckpt_path=path)
        assert runner.global_step == 4 * BATCHES - 2
        outcomes.append(outcome(module, runner))
    assert_identical(outcomes[1], outcomes[0])
    assert len(guided.denoiser.history) == 4


def test_a_checkpoint_is_read_with_weights_only(tmp_path: Path) -> None:
    guided = callback()
    fit(ranker(), guided, saving(tmp_path), enable_checkpointing=True)
    saved = torch.load(next(tmp_path.iterdir()), weights_only=True)
    assert saved["callbacks"]["SelfGuidedCallback"]["history"][0]["epoch"] == 1


def test_a_state_that_was_loaded_is_saved_again_although_nothing_was_trained() -> None:
    guided = callback()
    fit(ranker(), guided)
    state = guided.state_dict()
    other = callback()
    other.load_state_dict(state)
    assert other.state_dict() is state
    assert callback().state_dict() == {}


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    fit(ranker(), callback(), saving(tmp_path), enable_checkpointing=True)
    path = next(tmp_path.iterdir())
    other = callback(interactions=(USERS[1:], ITEMS[1:]))
    with pytest.raises(StateError, match=r"^Expected the state of these interactions"):
        fit(ranker(), other, ckpt_path=path, epochs=6)


def test_a_checkpoint_without_the_callbacks_state_is_warned_of(tmp_path: Path) -> None:
    fit(ranker(), saving(tmp_path), enable_checkpointing=True)
    path = max(tmp_path.iterdir(), key=lambda place: place.stat().st_mtime)
    message = r"^Expected the denoiser's state in the checkpoint, got none. Phase I begins at step"
    with pytest.warns(DenoiserWarning, match=message) as said:
        fit(ranker(), callback(DenoiserConfig()), ckpt_path=path, epochs=6)
    ours = [one.filename for one in said if one.category is DenoiserWarning]
    assert ours == [inspect.getfile(fit)]  # and not a line of Lightning's
