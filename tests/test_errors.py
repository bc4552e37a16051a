"""One clear error for each mistake; nothing of the user's has changed, and training goes on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sklearn.mixture  # noqa: F401  (its import may draw from the streams: test_plain_equality)
import torch
from torch import Tensor, nn

import sgdl_wrap
from examples.models.lightgcn import LightGCN, bpr_loss
from examples.models.neumf import bce_loss
from sgdl_wrap import (
    BatchError,
    DenoiserConfig,
    DenoiserError,
    DenoiserWarning,
    InteractionsError,
    LossError,
    NoiseRateError,
    OptimizerError,
    OrderError,
    Phase,
    ScoreError,
    SelfGuidedDenoiser,
    SwitchError,
    UnsupportedModelError,
)
from tests.models_zoo import (
    SWITCHING,
    WATCHING,
    MLPScorer,
    assert_identical,
    labelled_epoch,
    seeded,
    snapshot,
    stream_states,
    tiny_data,
    tiny_denoiser,
    tiny_lightgcn,
    triple_epoch,
    without,
)

DATA = tiny_data()
BATCHES = [batch for epoch in range(3) for batch in triple_epoch(DATA, epoch)]
PER_EPOCH = len(BATCHES) // 3


class Scene:
    """A small run whose loss can be made to fail."""

    def __init__(self, phase: Phase = Phase.MEMORIZATION, **changes: Any) -> None:
        self.model = changes.pop("model", None) or tiny_lightgcn(DATA)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        self.spoil: Callable[[Tensor], Any] = lambda losses: losses
        arguments: dict[str, Any] = {
            "interactions": DATA.tensors(),
            "n_items": DATA.n_items,
            "config": SWITCHING if phase is Phase.SELF_GUIDED else WATCHING,
        }
        arguments.update(changes)
        self.denoiser = SelfGuidedDenoiser(self.model, self.optimizer, self._losses, **arguments)
        self.batches = iter(BATCHES)
        if phase is Phase.SELF_GUIDED:
            for _ in range(PER_EPOCH + 2):
                self.train()
        assert self.denoiser.phase is phase

    def _losses(self, model: nn.Module, batch: Any) -> Any:
        return self.spoil(bpr_loss(model, batch))

    def train(self) -> None:
        batch = next(self.batches)
        self.denoiser.before_step(batch)
        self.denoiser.step(batch)

    @contextmanager
    def refused(self, error: type[Exception], match: str) -> Iterator[None]:
        """The error comes, and parameters, gradients, buffers, optimizer and streams stay."""
        before, streams = snapshot(self.model, self.optimizer), stream_states()
        with pytest.raises(error, match=match) as caught:
            yield
        assert isinstance(caught.value, DenoiserError)
        assert str(caught.value).startswith("Expected ")
        assert ", got " in str(caught.value)
        assert_identical(snapshot(self.model, self.optimizer), before)
        assert stream_states() == streams

    def goes_on(self) -> None:
        """A step of training works and moves the parameters."""
        self.spoil = lambda losses: losses
        before = snapshot(self.model)
        self.train()
        with pytest.raises(AssertionError):
            assert_identical(snapshot(self.model), before)


PHASES = pytest.mark.parametrize("phase", list(Phase), ids=lambda phase: phase.value)

# ------------------------------------------------------------------ the loss

SPOILED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "scalar": (
        lambda losses: losses.mean(),
        r"^Expected per-sample losses of shape \(50,\), got a scalar in {where}\. "
        r"Return unreduced losses \(reduction='none'\) from loss_fn\.$",
    ),
    "wrong length": (
        lambda losses: losses[:-1],
        r"^Expected per-sample losses of shape \(50,\), got \(49,\) in {where}\. "
        r"Return one loss per sample from loss_fn\.$",
    ),
    "two dimensions": (
        lambda losses: losses[:, None],
        r"^Expected per-sample losses of shape \(50,\), got \(50, 1\) in {where}\.",
    ),
    "no tensor": (
        lambda losses: losses.tolist(),
        r"^Expected loss_fn to return a tensor of shape \(50,\), got list in {where}\.",
    ),
    "nan": (
        lambda losses: torch.where(torch.arange(len(losses)) < 3, torch.nan, losses),
        r"^Expected finite losses, got 3 NaN or Inf among 50 in {where}\. Skip the batch",
    ),
    "inf": (
        lambda losses: torch.cat([losses[:-2], losses[-2:] * torch.inf]),
        r"^Expected finite losses, got 2 NaN or Inf among 50 in {where}\.",
    ),
    "no gradient": (
        lambda losses: losses.detach(),
        r"^Expected losses with a gradient, got torch\.float32 without one in {where}\.",
    ),
    "integers": (
        lambda losses: (losses * 10).long(),
        r"^Expected losses with a gradient, got torch\.int64 without one in {where}\.",
    ),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_loss_that_is_wrong_from_the_start_is_refused_at_the_first_batch(kind: str) -> None:
    spoil, message = SPOILED[kind]
    scene = Scene()
    scene.spoil = spoil
    with scene.refused(LossError, message.format(where="the first batch")):
        scene.train()
    scene.batches = iter(BATCHES)
    scene.goes_on()


@pytest.mark.parametrize("kind", SPOILED)
def test_a_wrong_loss_is_refused_at_construction_where_there_is_an_example(kind: str) -> None:
    spoil, message = SPOILED[kind]
    model = tiny_lightgcn(DATA)
    before, streams = snapshot(model), stream_states()
    with pytest.raises(LossError, match=message.format(where="the first batch")):
        SelfGuidedDenoiser(
            model, torch.optim.SGD(model.parameters(), lr=0.1),
            lambda model, batch: spoil(bpr_loss(model, batch)),
            interactions=DATA.tensors(), example_batch=BATCHES[0],
        )
    assert_identical(snapshot(model), before)
    assert stream_states() == streams


@PHASES
@pytest.mark.parametrize("kind", SPOILED)
def test_a_loss_that_goes_wrong_later_is_refused_with_the_batch_named(
    kind: str, phase: Phase
) -> None:
    spoil, message = SPOILED[kind]
    scene = Scene(phase)
    epoch, batch = (2, 3) if phase is Phase.SELF_GUIDED else (1, 3)
    if phase is Phase.MEMORIZATION:
        scene.train()
        scene.train()
    scene.spoil = spoil
    with scene.refused(LossError, message.format(where=f"batch {batch} of epoch {epoch}")):
        scene.train()
    scene.goes_on()


@PHASES
def test_a_loss_that_raises_is_the_users_error_and_training_goes_on(phase: Phase) -> None:
    scene = Scene(phase)

    def fail(losses: Tensor) -> Tensor:
        raise ZeroDivisionError("mine")

    if phase is Phase.MEMORIZATION:
        scene.train()
    scene.spoil = fail
    before = snapshot(scene.model, scene.optimizer)
    with pytest.raises(ZeroDivisionError, match=r"^mine$"):
        scene.train()
    assert_identical(snapshot(scene.model, scene.optimizer), before)
    scene.goes_on()


@PHASES
@pytest.mark.parametrize(
    "penalty", [torch.ones(2, requires_grad=True), 0.5], ids=["vector", "number"]
)
def test_a_penalty_that_is_no_scalar_tensor_is_refused(phase: Phase, penalty: Any) -> None:
    scene = Scene(phase)
    batch = next(scene.batches)
    scene.denoiser.before_step(batch)
    with scene.refused(LossError, "^Expected penalty to be a scalar tensor, got"):
        scene.denoiser.step(batch, penalty=penalty)
    scene.denoiser.step(batch)  # the batch still waits, and counts once
    scene.goes_on()


# ------------------------------------------------------------------ interactions and batches


def build(**changes: Any) -> SelfGuidedDenoiser:
    return tiny_denoiser(DATA, **changes)


ONES = torch.ones(3, dtype=torch.int64)
WRONG_INTERACTIONS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "empty": (([], []), {}, "^Expected at least one observed pair, got none"),
    "mismatched": ((ONES, ONES[:2]), {}, "^Expected as many users as items, got 3 and 2"),
    "negative user": ((-ONES, ONES), {}, "^Expected users >= 0, got -1"),
    "negative item": ((ONES, -ONES), {}, "^Expected items >= 0, got -1"),
    "past n_items": (
        (torch.arange(3), torch.arange(28, 31)),
        {"n_items": 30},
        r"^Expected item ids below n_items = 30, got 30\. Pass a larger n_items, or ids counted",
    ),
    "floats": ((ONES * 0.5, ONES), {}, "^Expected users to hold integers, got torch.float32"),
    "one tensor": (ONES, {}, r"^Expected interactions=\(users, items\), got Tensor"),
    "three columns": ((ONES,) * 3, {}, r"^Expected interactions=\(users, items\), got tuple"),
}


@pytest.mark.parametrize("kind", WRONG_INTERACTIONS)
def test_wrong_interactions_are_refused_at_construction(kind: str) -> None:
    interactions, changes, message = WRONG_INTERACTIONS[kind]
    with pytest.raises(InteractionsError, match=message):
        build(interactions=interactions, **changes)


@PHASES
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda u, i, j: (u.float(), i, j), r"^Expected a batch like \(users, items\).*pair_fn"),
        (lambda u, i, j: [u, i, j, j], r"^Expected a batch like .*Pass pair_fn="),
        (lambda u, i, j: {"x": u}, r"got dict with keys \['x'\]\. Pass pair_fn="),
        (lambda u, i, j: object(), r"got object\. Pass pair_fn=\.\.\."),
        (
            lambda u, i, j: (u[:0], i[:0], j[:0]),
            r"^Expected samples in a batch, got none\. Leave empty batches out\.$",
        ),
    ],
    ids=["floats", "four columns", "mapping", "opaque", "empty"],
)
def test_a_batch_whose_pairs_cannot_be_read_is_refused(
    phase: Phase, spoil: Any, message: str
) -> None:
    scene = Scene(phase)
    if phase is Phase.MEMORIZATION:
        scene.train()
    batch = next(scene.batches)
    with scene.refused(BatchError, message):
        scene.denoiser.before_step(spoil(*batch))
    scene.goes_on()


class Misread(Scene):
    """Its batches are trained on as they are, and their pairs are taken for others."""

    def __init__(self, phase: Phase = Phase.MEMORIZATION, **changes: Any) -> None:
        self.misread: Callable[[Tensor, Tensor], Any] = lambda users, items: (users, items)
        super().__init__(
            phase, pair_fn=lambda batch: self.misread(batch[0], batch[1]), **changes
        )

    def train_misread(self, kind: str) -> None:
        self.misread = UNKNOWN[kind][0]
        try:
            self.train()
        finally:
            self.misread = lambda users, items: (users, items)


UNKNOWN: dict[str, tuple[Callable[[Tensor, Tensor], Any], type[Exception], str]] = {
    "negative": (
        lambda users, items: (-1 - users, items),
        InteractionsError,
        r"^Expected ids >= 0, got -\d+ in {where}\. Number users and items as in `interactions`\.",
    ),
    "past n_items": (
        lambda users, items: (users, items + 1000),
        InteractionsError,
        r"^Expected item ids below n_items = 30, got 10\d\d in {where}\. Pass the n_items of the "
        r"whole catalogue\.",
    ),
    "unknown": (
        lambda users, items: (users + 1000, items),
        BatchError,
        r"^Expected observed pairs in {where}, got none of its 50 samples among the "
        r"interactions\. Pass the training interactions at construction, and pair_fn=\.\.\. if "
        r"the batch's ids are numbered otherwise\.",
    ),
}
MISREAD = pytest.mark.parametrize("kind", UNKNOWN)


@MISREAD
def test_unknown_pairs_in_the_first_batch_are_refused_at_once(kind: str) -> None:
    _, error, message = UNKNOWN[kind]
    scene = Misread()
    with scene.refused(error, message.format(where="batch 1 of epoch 1") + "$"):
        scene.train_misread(kind)
    scene.goes_on()


@MISREAD
def test_unknown_pairs_in_an_example_batch_are_refused_at_construction(kind: str) -> None:
    misread, error, message = UNKNOWN[kind]
    with pytest.raises(error, match=message.format(where="batch 1 of epoch 1") + "$"):
        build(
            pair_fn=lambda batch: misread(*batch[:2]), example_batch=BATCHES[0], config=WATCHING
        )


@MISREAD
def test_unknown_pairs_are_refused_at_once_where_they_guide(kind: str) -> None:
    _, error, message = UNKNOWN[kind]
    scene = Misread(Phase.SELF_GUIDED)
    with scene.refused(error, message.format(where="batch 3 of epoch 2") + "$"):
        scene.train_misread(kind)
    scene.goes_on()


@MISREAD
@pytest.mark.parametrize("call", ["end_epoch", "state_dict", "before_step", "step"])
def test_unknown_pairs_among_good_batches_are_named_when_steps_are_written_down(
    call: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The good batches before and after are noted as if the other had not been."""
    _, error, message = UNKNOWN[kind]
    named = message.format(where="batch 2 of epoch 1") + "$"
    scene = Misread(config=WATCHING.but(noise_rate=0.1))
    scene.train()
    scene.train_misread(kind)  # trained on, and not yet looked up
    scene.train()
    expected = SelfGuidedDenoiser(
        scene.model, scene.optimizer, bpr_loss, interactions=DATA.tensors(),
        n_items=DATA.n_items, config=scene.denoiser.config,
    )  # fmt: skip
    first, _, third = scene.denoiser._epochs.backlog._steps
    for step in (first, third):
        expected._epochs.backlog.add(step)
    expected._epochs.progress.batches = 3
    if call == "before_step":
        monkeypatch.setattr("sgdl_wrap.batches.backlog.CAPACITY", 150)
        with scene.refused(error, named):
            scene.denoiser.before_step(BATCHES[3])
    elif call == "step":  # 180 samples of 180 might have been observed
        before = snapshot(scene.model)["parameters"]
        with pytest.raises(error, match=named):
            scene.train()
        with pytest.raises(AssertionError):  # the step is done
            assert_identical(snapshot(scene.model)["parameters"], before)
        assert scene.denoiser.history == []
        return
    else:
        with scene.refused(error, named):
            getattr(scene.denoiser, call)()
    assert scene.denoiser.history == []
    found = scene.denoiser.state_dict()
    assert found["epoch"]["observed"] == 100
    assert found["epoch"]["samples"] == 100
    want = expected.state_dict()
    assert_identical(found["tracker"], want["tracker"])
    assert_identical(without(found["epoch"], "seconds"), without(want["epoch"], "seconds"))
    scene.goes_on()
    record = scene.denoiser.end_epoch()
    assert record is not None
    assert record.epoch == 1


def test_an_epoch_ends_by_itself_after_a_batch_of_it_was_left_out() -> None:
    scene = Misread(config=WATCHING.but(noise_rate=0.1))
    scene.train()
    scene.train_misread("unknown")
    scene.train()
    with pytest.raises(BatchError, match="in batch 2 of epoch 1, got none of its 50"):
        scene.train()  # 130 of 180 are known by now
    scene.train()  # 50 more
    assert [record.epoch for record in scene.denoiser.history] == [1]


def test_the_first_of_several_unknown_batches_is_named_and_the_others_are_counted() -> None:
    scene = Misread(config=WATCHING.but(noise_rate=0.1))
    scene.train()
    for kind in ("unknown", "negative"):
        scene.train_misread(kind)
    with scene.refused(
        BatchError, r"in batch 2 of epoch 1, got none .* It is the first of 2 such batches\.$"
    ):
        scene.denoiser.end_epoch()
    scene.goes_on()
    assert scene.denoiser.end_epoch() is not None


@pytest.mark.parametrize("kind", ["negative", "past n_items"])
def test_ids_out_of_range_are_refused_at_once_where_the_memorized_alone_are_trained_on(
    kind: str,
) -> None:
    _, error, message = UNKNOWN[kind]
    scene = Misread(Phase.SELF_GUIDED, config=SWITCHING.but(denoising_learning=False))
    with scene.refused(error, message.format(where="batch 3 of epoch 2") + "$"):
        scene.train_misread(kind)
    scene.goes_on()


def test_an_opaque_batch_works_with_pair_fn() -> None:
    class Opaque:
        def __init__(self, columns: Any) -> None:
            self.columns_of_mine = columns

    denoiser = build(
        pair_fn=lambda batch: batch.columns_of_mine[:2],
        loss_fn=lambda model, batch: bpr_loss(model, batch.columns_of_mine),
        config=SWITCHING,
    )
    for columns in BATCHES:
        batch = Opaque(columns)
        denoiser.before_step(batch)
        denoiser.step(batch)
    assert denoiser.phase is Phase.SELF_GUIDED


# ------------------------------------------------------------------ the optimizer


def test_parameters_outside_the_optimizer_are_named() -> None:
    model = tiny_lightgcn(DATA)
    optimizer = torch.optim.SGD([model.user_embedding.weight], lr=0.1)
    message = (
        "^Expected every trainable parameter in the optimizer, got 1 outside it: "
        r"item_embedding\.weight\. Add them to the optimizer, or call requires_grad_\(False\)"
    )
    with pytest.raises(OptimizerError, match=message):
        build(model=model, optimizer=optimizer)
    model.item_embedding.requires_grad_(False)
    build(model=model, optimizer=optimizer)


def test_two_optimizers_may_share_the_parameters_between_them() -> None:
    model = tiny_lightgcn(DATA)
    one = torch.optim.SGD([model.user_embedding.weight], lr=0.1)
    other = torch.optim.Adam([model.item_embedding.weight], lr=0.1)
    denoiser = build(model=model, optimizer=[one, other])
    before = snapshot(model)["parameters"]
    denoiser.before_step(BATCHES[0])
    denoiser.step(BATCHES[0])
    after = snapshot(model)["parameters"]
    assert all(not torch.equal(after[name], before[name]) for name in before)


def test_lbfgs_no_optimizer_and_nothing_to_train_are_refused() -> None:
    model = tiny_lightgcn(DATA)
    with pytest.raises(OptimizerError, match=r"^Expected an optimizer that steps without a clos"):
        build(model=model, optimizer=torch.optim.LBFGS(model.parameters()))
    with pytest.raises(OptimizerError, match=r"^Expected an optimizer, got none"):
        SelfGuidedDenoiser(model, [], bpr_loss, interactions=DATA.tensors())
    with pytest.raises(OptimizerError, match=r"^Expected a torch\.optim\.Optimizer, got Linear"):
        SelfGuidedDenoiser(model, nn.Linear(1, 1), bpr_loss, interactions=DATA.tensors())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.requires_grad_(False)
    with pytest.raises(OptimizerError, match=r"^Expected trainable parameters, got a model with "):
        build(model=model, optimizer=optimizer)


# ------------------------------------------------------------------ scores


@pytest.mark.parametrize(
    ("score_fn", "message"),
    [
        (
            lambda model, users, items: model(users, items)[:, None],
            r"^Expected score_fn to return shape \(8,\), got \(8, 1\)\. Return one score per pair",
        ),
        (
            lambda model, users, items: model(users, items).tolist(),
            r"^Expected score_fn to return a tensor of shape \(8,\), got a list",
        ),
        (
            lambda model, users, items: model(users, items) / 0,
            r"^Expected finite scores, got 8 NaN or Inf among 8",
        ),
        (
            lambda model, users, items: model.missing(users),
            r"^Expected scores of 8 pairs, got AttributeError: .*Pass score_fn",
        ),
        (
            lambda model, users, items: model(users),
            r"^Expected scores of 8 pairs, got TypeError: .*Pass score_fn",
        ),
    ],
    ids=["shape", "list", "inf", "attribute", "signature"],
)
def test_scores_that_are_wrong_are_refused_at_construction(score_fn: Any, message: str) -> None:
    model = tiny_lightgcn(DATA)
    before, streams = snapshot(model), stream_states()
    with pytest.raises(ScoreError, match=message):
        build(model=model, score_fn=score_fn)
    assert_identical(snapshot(model), before)
    assert stream_states() == streams


def test_scores_that_go_wrong_later_leave_the_epoch_to_be_ended_again() -> None:
    spoiled = [False]

    def score(model: nn.Module, users: Tensor, items: Tensor) -> Tensor:
        return model(users, items) * (torch.nan if spoiled[0] else 1.0)

    scene = Scene(score_fn=score)
    for _ in range(PER_EPOCH - 1):
        scene.train()
    spoiled[0] = True
    with scene.refused(ScoreError, r"^Expected finite scores, got \d+ NaN or Inf among"):
        scene.denoiser.end_epoch()
    assert scene.denoiser.history == []
    spoiled[0] = False
    scene.goes_on()
    record = scene.denoiser.end_epoch()
    assert record is not None
    assert record.epoch == 1


# ------------------------------------------------------------------ order


@PHASES
def test_step_before_before_step_is_refused(phase: Phase) -> None:
    scene = Scene(phase)
    message = r"^Expected before_step\(batch\) before step\(batch\), got step alone\."
    with scene.refused(OrderError, message):
        scene.denoiser.step(next(scene.batches))
    scene.goes_on()
    with scene.refused(OrderError, message):
        scene.denoiser.weighted_loss(next(scene.batches))
    scene.goes_on()


@PHASES
def test_two_before_steps_are_refused_and_the_first_stands(phase: Phase) -> None:
    scene = Scene(phase)
    first, second = next(scene.batches), next(scene.batches)
    scene.denoiser.before_step(first)
    with scene.refused(
        OrderError, r"^Expected step\(batch\) after before_step\(batch\), got a second before_step"
    ):
        scene.denoiser.before_step(second)
    scene.denoiser.step(first)
    scene.goes_on()


@PHASES
def test_a_batch_can_be_skipped(phase: Phase) -> None:
    scene = Scene(phase)
    known = scene.denoiser.state_dict()
    scene.denoiser.before_step(next(scene.batches))
    scene.denoiser.skip_batch()
    skipped = scene.denoiser.state_dict()
    for part in ("tracker", "epoch", "history"):  # nothing of it was written down
        assert_identical(without(skipped[part], "seconds"), without(known[part], "seconds"))
    scene.goes_on()


@PHASES
def test_batches_mixed_up_are_refused_and_the_right_one_can_still_come(phase: Phase) -> None:
    scene = Scene(phase)
    first, second = next(scene.batches), next(scene.batches)
    scene.denoiser.before_step(first)
    with scene.refused(
        OrderError, "^Expected step on the batch that before_step was called with, got another"
    ):
        scene.denoiser.step(second)
    scene.denoiser.step(first)
    scene.goes_on()


def test_parameters_changed_between_before_step_and_step_are_refused_in_phase_two() -> None:
    scene = Scene(Phase.SELF_GUIDED)
    batch = next(scene.batches)
    scene.denoiser.before_step(batch)
    with torch.no_grad():
        scene.model.user_embedding.weight.mul_(1.01)
    with scene.refused(
        OrderError, "^Expected unchanged parameters between before_step and step, got them changed"
    ):
        scene.denoiser.step(batch)
    scene.goes_on()


@PHASES
@pytest.mark.parametrize("call", ["end_epoch", "state_dict"])
def test_ends_and_states_between_before_step_and_step_are_refused(phase: Phase, call: str) -> None:
    scene = Scene(phase)
    batch = next(scene.batches)
    scene.denoiser.before_step(batch)
    with scene.refused(OrderError, "got it between before_step and step"):
        getattr(scene.denoiser, call)()
    scene.denoiser.step(batch)
    scene.goes_on()


def test_an_epoch_without_batches_cannot_end() -> None:
    scene = Scene()
    with scene.refused(OrderError, "^Expected end_epoch after some batches, got none"):
        scene.denoiser.end_epoch()
    scene.goes_on()


# ------------------------------------------------------------------ noise rate and switch


def constant(losses: Tensor) -> Tensor:
    return losses * 0 + 0.5


def test_losses_that_are_all_equal_give_no_noise_rate() -> None:
    scene = Scene()
    scene.spoil = constant
    scene.train()
    with scene.refused(
        NoiseRateError, r"^Expected losses that differ, got all 50 equal to 0\.5\. Check that"
    ):
        scene.denoiser.end_epoch()
    assert scene.denoiser.history == []
    scene.goes_on()
    assert scene.denoiser.end_epoch() is not None


def test_training_goes_on_after_an_automatic_end_of_epoch_failed() -> None:
    scene = Scene()
    scene.spoil = constant
    for _ in range(PER_EPOCH - 1):
        scene.train()
    with pytest.raises(NoiseRateError, match=r"^Expected losses that differ, got all 180 equal"):
        scene.train()
    scene.goes_on()


def one_user() -> tuple[Tensor, Tensor]:
    return torch.zeros(12, dtype=torch.int64), torch.arange(12)


def train_on(denoiser: SelfGuidedDenoiser, users: Tensor, items: Tensor, epochs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        order = torch.randperm(len(users), generator=generator)
        negatives = torch.randint(30, (len(users),), generator=generator)
        batch = (users[order], items[order], negatives)
        denoiser.before_step(batch)
        denoiser.step(batch)


def test_one_user_alone_works_through_both_phases() -> None:
    config = DenoiserConfig(history_length=1, noise_rate_shift=0.5)
    denoiser = build(interactions=one_user(), config=config)
    train_on(denoiser, *one_user(), epochs=6)
    assert denoiser.phase is Phase.SELF_GUIDED
    assert denoiser.noise_rate is not None


def test_users_of_one_interaction_each_need_global_normalization() -> None:
    users, items = torch.arange(20), torch.arange(20)
    with pytest.raises(
        NoiseRateError,
        match=r"^Expected users with two or more interactions, got one each: per-user scaling maps "
        r"every loss to 0\. Set loss_normalization='global' in the config, or noise_rate\.$",
    ):
        build(interactions=(users, items), config=DenoiserConfig(history_length=1))
    config = DenoiserConfig(
        history_length=1, loss_normalization="global", noise_rate_shift=0.5
    )
    denoiser = build(interactions=(users, items), config=config)
    train_on(denoiser, users, items, epochs=6)
    assert denoiser.phase is Phase.SELF_GUIDED


def test_a_forced_switch_with_nothing_memorized_is_refused() -> None:
    config = DenoiserConfig(history_length=10, switch_timeout=2)
    scene = Scene(config=config)
    for _ in range(2 * PER_EPOCH - 1):
        scene.train()
    with scene.refused(
        SwitchError,
        r"^Expected memorized interactions at the forced switch after epoch 2, got none\. Raise "
        r"switch_timeout above history_length / 2 = 5 epochs, or train at a higher rate\.$",
    ):
        scene.denoiser.end_epoch()
    assert scene.denoiser.phase is Phase.MEMORIZATION
    scene.goes_on()


def test_a_switch_by_time_out_warns_once() -> None:
    config = DenoiserConfig(history_length=1, noise_rate=0.0, switch_timeout=1)
    scene = Scene(config=config)
    for _ in range(PER_EPOCH - 1):
        scene.train()
    with pytest.warns(
        DenoiserWarning,
        match=r"^Expected the memorized ratio to reach the clean ratio within 1 epochs, got "
        r"0\.\d+ of 1\.000\. Phase II begins by time-out\.$",
    ):
        scene.train()
    assert scene.denoiser.phase is Phase.SELF_GUIDED
    assert scene.denoiser.memorization_point == 1
    scene.goes_on()


# ------------------------------------------------------------------ models that would be wrong


class TwoLayers(nn.Module):
    """An MLP over embeddings that reaches its layers in one of several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(DATA.n_users, 6)
        self.item = nn.Embedding(DATA.n_items, 6)
        self.first = nn.Linear(12, 6)
        self.second = nn.Linear(6, 1)

    def layers(self) -> list[nn.Module]:
        return [self.first, self.second]

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        first, second = self.layers()
        joined = torch.cat([self.user(users), self.item(items)], dim=1)
        return second(torch.tanh(first(joined))).squeeze(1)


class PlainList(TwoLayers):
    def __init__(self) -> None:
        super().__init__()
        self.kept = [self.first, self.second]

    def layers(self) -> list[nn.Module]:
        return self.kept


class BoundMethod(TwoLayers):
    def __init__(self) -> None:
        super().__init__()
        self.embed = self.user.forward

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        joined = torch.cat([self.embed(users), self.item(items)], dim=1)
        return self.second(torch.tanh(self.first(joined))).squeeze(1)


class Bags(TwoLayers):
    def __init__(self) -> None:
        super().__init__()
        self.user = nn.EmbeddingBag(DATA.n_users, 6, mode="sum")

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        joined = torch.cat([self.user(users[:, None]), self.item(items)], dim=1)
        return self.second(torch.tanh(self.first(joined))).squeeze(1)


class NotTwice(TwoLayers):
    """A custom autograd function whose backward has no backward."""

    class _Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 2 * x * gradient

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return self._Double.apply(super().forward(users, items))


class CachedLightGCN(LightGCN):
    """Keeps its propagated embeddings on itself, until told that parameters have changed."""

    cache: Any = None

    def propagate(self) -> tuple[Tensor, Tensor]:
        if self.cache is None:
            self.cache = super().propagate()
        return self.cache


def unstable_loss() -> Callable[[nn.Module, Any], Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda model, batch: bpr_loss(model, batch) * torch.rand(
        len(batch[0]), generator=generator
    )


def annealed_loss() -> Callable[[nn.Module, Any], Tensor]:
    calls = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        calls.append(batch)
        kept = 1e-4 * len(calls)  # a weight that grows with each call, too little for the values
        penalty = kept * next(model.parameters()).sum() * torch.ones(len(batch[0]))
        return bpr_loss(model, batch) + penalty - penalty.detach()

    return loss


@contextmanager
def refused_before_training(model: nn.Module, match: str) -> Iterator[None]:
    before, streams = snapshot(model), stream_states()
    attributes = {n: set(vars(m)) for n, m in model.named_modules()}
    with pytest.raises(UnsupportedModelError, match=match) as caught:
        yield
    assert str(caught.value).startswith("Expected ")
    assert_identical(snapshot(model), before)
    assert {n: set(vars(m)) for n, m in model.named_modules()} == attributes
    assert stream_states() == streams


def try_first_batch(model: nn.Module, loss_fn: Any = bpr_loss) -> None:
    denoiser = build(model=model, loss_fn=loss_fn)
    denoiser.before_step(BATCHES[0])


def seeded_model(kind: type[nn.Module]) -> nn.Module:
    with seeded(5):
        return kind()


@pytest.mark.parametrize("kind", [PlainList, BoundMethod])
def test_layers_reached_past_the_module_tree_are_refused(kind: type[nn.Module]) -> None:
    model = seeded_model(kind)
    with refused_before_training(
        model,
        f"^Expected the functional twin of {kind.__name__} to give the model's losses, got a "
        r"difference of .* keep submodules in nn\.ModuleList",
    ):
        try_first_batch(model)


def test_the_same_layers_reached_through_the_tree_are_accepted() -> None:
    try_first_batch(seeded_model(TwoLayers))


def test_a_loss_that_closes_over_the_original_model_is_refused() -> None:
    model = seeded_model(TwoLayers)
    with refused_before_training(model, "Use the model that loss_fn is given"):
        try_first_batch(model, lambda _, batch: bpr_loss(model, batch))


def test_a_loss_that_closes_over_part_of_the_original_model_is_refused() -> None:
    model = seeded_model(TwoLayers)

    def loss_fn(given: nn.Module, batch: Any) -> Tensor:
        return bpr_loss(given, batch) + 0.1 * model.user(batch[0]).square().sum(dim=1)

    with refused_before_training(model, "Use the model that loss_fn is given"):
        try_first_batch(model, loss_fn)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Bags, r"\w+Error: .*Replace EmbeddingBag by Embedding and a sum"),
        (NotTwice, r"a second derivative that is wrong\. Write custom autograd functions so that"),
    ],
)
def test_what_cannot_be_differentiated_twice_is_refused(
    kind: type[nn.Module], problem: str
) -> None:
    model = seeded_model(kind)
    with refused_before_training(
        model, f"^Expected a loss that can be differentiated twice, got {problem}"
    ):
        try_first_batch(model)


def test_a_loss_that_draws_from_a_generator_of_its_own_is_refused() -> None:
    model = seeded_model(TwoLayers)
    with refused_before_training(
        model,
        "^Expected loss_fn to repeat itself under the same random state, got losses that differ "
        r"by .*Draw random numbers from torch's global state",
    ):
        try_first_batch(model, unstable_loss())


def test_a_loss_that_counts_its_calls_is_told_to_count_in_the_loop() -> None:
    model = seeded_model(TwoLayers)
    with refused_before_training(
        model,
        "^Expected the functional twin of TwoLayers to give the model's gradients, got a "
        r"difference of .* let loss_fn count nothing: advance an annealing step in the loop\.$",
    ):
        try_first_batch(model, annealed_loss())


def cached_lightgcn() -> CachedLightGCN:
    with seeded(5):
        return CachedLightGCN(DATA.n_users, DATA.n_items, *DATA.tensors(), embedding_dim=8)


def train_with_cache(denoiser: SelfGuidedDenoiser, model: CachedLightGCN) -> None:
    for batch in BATCHES:
        model.cache = None  # parameters have changed
        denoiser.before_step(batch)
        denoiser.step(batch)


def test_a_cache_that_the_loop_clears_is_refused_or_does_no_harm() -> None:
    """The losses at θ̂ must not be read from a cache filled at θ."""
    outcomes = []
    for kind in (LightGCN, CachedLightGCN):
        with seeded(5):
            model = kind(DATA.n_users, DATA.n_items, *DATA.tensors(), embedding_dim=8)

        def score(model: nn.Module, users: Tensor, items: Tensor) -> Tensor:
            model.cache = None
            scores = model(users, items)
            model.cache = None
            return scores

        denoiser = build(model=model, config=SWITCHING.but(meta_lr=0.1), score_fn=score)
        try:
            train_with_cache(denoiser, model)
        except UnsupportedModelError:
            return
        assert denoiser.phase is Phase.SELF_GUIDED
        outcomes.append(snapshot(model)["parameters"])
    assert_identical(outcomes[1], outcomes[0])


class Parametrised(TwoLayers):
    def forward(self, users: Tensor, items: Tensor, params: Any = None) -> Tensor:
        return super().forward(users, items)


class _Meta(type):
    pass


class WithMetaclass(TwoLayers, metaclass=_Meta):
    pass


@pytest.mark.parametrize(
    ("make_model", "message"),
    [
        (
            lambda: nn.DataParallel(seeded_model(TwoLayers)),
            r"^Expected a bare model or DistributedDataParallel, got DataParallel\. Pass",
        ),
        (
            lambda: seeded_model(Parametrised),
            "^Expected no argument named 'params' in forward, got one in the model",
        ),
        (
            lambda: seeded_model(WithMetaclass),
            "^Expected ordinary classes of modules, got the metaclass _Meta in the model",
        ),
    ],
    ids=["DataParallel", "forward(params)", "metaclass"],
)
def test_wrappers_and_odd_classes_are_refused_at_construction(
    make_model: Callable[[], nn.Module], message: str
) -> None:
    model = make_model()
    with refused_before_training(model, message):
        build(model=model)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"^Expected an nn.Module, got function"):
        SelfGuidedDenoiser(
            lambda u, i: u, torch.optim.SGD([torch.ones(1)], lr=0.1), bpr_loss,
            interactions=DATA.tensors(),
        )


# ------------------------------------------------------------------ hooks


def hook_forward(model: nn.Module) -> None:
    model.tower.register_forward_hook(lambda module, inputs, output: torch.sin(3 * output))


def hook_before_forward(model: nn.Module) -> None:
    model.tower[0].register_forward_pre_hook(lambda module, inputs: (inputs[0] ** 2,))


def hook_with_kwargs(model: nn.Module) -> None:
    model.register_forward_hook(
        lambda module, inputs, kwargs, output: output * 3, with_kwargs=True, always_call=True
    )


@pytest.mark.parametrize("hook", [hook_forward, hook_before_forward, hook_with_kwargs])
@pytest.mark.parametrize("late", [False, True], ids=["at construction", "in phase two"])
def test_forward_hooks_count_in_both_phases(hook: Callable[[nn.Module], None], late: bool) -> None:
    """A hooked model trains exactly as one that has the same written into its forward."""

    class Written(MLPScorer):
        on = False

        def forward(self, users: Tensor, items: Tensor) -> Tensor:
            if not self.on:
                return super().forward(users, items)
            joined = torch.cat([self.user(users), self.item(items)], dim=1)
            if hook is hook_before_forward:
                joined = joined**2
            hidden = self.tower[2](torch.tanh(self.tower[0](joined)))
            if hook is hook_forward:
                hidden = torch.sin(3 * hidden)
            scores = hidden.squeeze(1)
            return scores * 3 if hook is hook_with_kwargs else scores

    outcomes = []
    batches = [batch for epoch in range(3) for batch in labelled_epoch(DATA, epoch)]
    for kind in (MLPScorer, Written):
        with seeded(5):
            model = kind(DATA.n_users, DATA.n_items)
        denoiser = build(
            model=model, loss_fn=bce_loss, config=SWITCHING.but(meta_lr=0.1, assumed_lr=0.5)
        )
        for number, batch in enumerate(batches):
            if number == (6 if late else 0):
                if kind is Written:
                    model.on = True
                else:
                    hook(model)
            denoiser.before_step(batch)
            denoiser.step(batch)
        assert denoiser.phase is Phase.SELF_GUIDED
        outcomes.append((snapshot(model)["parameters"], denoiser.state_dict()["self_guided"]))
    for name, parameter in outcomes[0][0].items():
        assert torch.allclose(parameter, outcomes[1][0][name], rtol=1e-4, atol=1e-6), name
    psi, other_psi = (outcome[1]["learner"]["weighting"] for outcome in outcomes)
    for name in psi:
        assert torch.allclose(psi[name], other_psi[name], rtol=1e-3, atol=1e-4), name


# ------------------------------------------------------------------ the tree of errors


def test_every_error_is_a_denoiser_error_and_can_be_imported_from_the_package() -> None:
    errors = [
        value
        for name, value in vars(sgdl_wrap).items()
        if inspect.isclass(value) and issubclass(value, Exception) and name != "DenoiserWarning"
    ]
    assert len(errors) == 12
    assert all(issubclass(error, DenoiserError) for error in errors)
    assert issubclass(DenoiserError, ValueError)
    assert issubclass(OrderError, RuntimeError)
    assert issubclass(SwitchError, RuntimeError)
    assert issubclass(DenoiserWarning, UserWarning)
