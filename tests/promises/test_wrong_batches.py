"""Interactions and batches whose pairs cannot be read, or are not known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sklearn.mixture  # noqa: F401  (its import may draw from the streams: test_plain_equality)
import torch
from torch import Tensor

from bench.models.lightgcn import bpr_loss
from sgdl_wrap import (
    BatchError,
    InteractionsError,
    Phase,
    SelfGuidedDenoiser,
)
from sgdl_wrap.watching.backlog import Backlog
from tests.support.models_zoo import (
    SWITCHING,
    WATCHING,
    assert_identical,
    snapshot,
    tiny_denoiser,
    without,
)
from tests.support.scenes import BATCHES, DATA, PER_EPOCH, PHASES, Scene

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
    "items from 1": (
        (torch.arange(3), torch.arange(28, 31)),
        {"n_items": 30},
        r"No id is 0, and the largest is n_items: are items numbered from 1\?$",
    ),
    "floats": ((ONES * 0.5, ONES), {}, "^Expected users to hold integers, got float32"),
    "one tensor": (ONES, {}, r"^Expected interactions=\(users, items\), got Tensor"),
    "three columns": ((ONES,) * 3, {}, r"^Expected interactions=\(users, items\), got tuple"),
}


@pytest.mark.parametrize("kind", WRONG_INTERACTIONS)
def test_wrong_interactions_are_refused_at_construction(kind: str) -> None:
    interactions, changes, message = WRONG_INTERACTIONS[kind]
    with pytest.raises(InteractionsError, match=message):
        tiny_denoiser(DATA, interactions=interactions, **changes)


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
    "items from 1": (
        lambda users, items: (users, torch.where(items > 0, items + 1, 30)),
        InteractionsError,
        r"^Expected item ids below n_items = 30, got 30 in {where}\. Pass the n_items of the whole "
        r"catalogue\. No id is 0, and the largest is n_items: are items numbered from 1\?",
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
        tiny_denoiser(
            DATA, pair_fn=lambda batch: misread(*batch[:2]), example_batch=BATCHES[0],
            config=WATCHING,
        )


@MISREAD
def test_unknown_pairs_are_refused_at_once_where_they_guide(kind: str) -> None:
    _, error, message = UNKNOWN[kind]
    scene = Misread(Phase.SELF_GUIDED)
    with scene.refused(error, message.format(where="batch 3 of epoch 2") + "$"):
        scene.train_misread(kind)
    scene.goes_on()


@MISREAD
@pytest.mark.parametrize("call", ["end_epoch", "state_dict", "before_step"])
def test_unknown_pairs_among_good_batches_are_named_when_steps_are_written_down(
    call: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The good batches before and after are noted as if the other had not been."""
    _, error, message = UNKNOWN[kind]
    named = message.format(where="batch 2 of epoch 1") + "$"
    scene = Misread(config=WATCHING.but(noise_rate=0.1), explicit_epochs=True)
    scene.train()
    scene.train_misread(kind)  # trained on, and not yet looked up
    scene.train()
    expected = SelfGuidedDenoiser(
        scene.model, scene.optimizer, bpr_loss, interactions=DATA.tensors(),
        n_items=DATA.n_items, config=scene.denoiser.config, explicit_epochs=True,
    )  # fmt: skip
    first, _, third = scene.denoiser._epochs.backlog.steps
    expected._epochs.backlog = Backlog().plus(first).plus(third)
    expected._epochs.running.batches = 1  # the one that is refused
    if call == "before_step":
        monkeypatch.setattr("sgdl_wrap.watching.backlog.CAPACITY", 150)
        with scene.refused(error, named):
            scene.denoiser.before_step(BATCHES[3])
    else:
        with scene.refused(error, named):
            getattr(scene.denoiser, call)()
    assert scene.denoiser.history == []
    found = scene.denoiser.state_dict()
    assert found["epoch"]["observed"] == 100
    assert found["epoch"]["samples"] == 100
    expected._reading.looked_at = True
    want = expected.state_dict()
    assert_identical(found["tracker"], want["tracker"])
    assert_identical(without(found["epoch"], "seconds"), without(want["epoch"], "seconds"))
    scene.goes_on()
    record = scene.denoiser.end_epoch()
    assert record is not None
    assert record.epoch == 1


@MISREAD
def test_unknown_pairs_are_named_by_the_step_that_may_end_the_epoch(kind: str) -> None:
    _, error, message = UNKNOWN[kind]
    scene = Misread(config=WATCHING.but(noise_rate=0.1))
    for _ in range(PER_EPOCH + 1):
        scene.train()
    scene.train_misread(kind)
    scene.train()
    before = snapshot(scene.model)["parameters"]
    with pytest.raises(error, match=message.format(where="batch 2 of epoch 2") + "$"):
        scene.train()  # 180 samples of 180 might have been observed; 130 were
    with pytest.raises(AssertionError):  # the step is done
        assert_identical(snapshot(scene.model)["parameters"], before)
    assert len(scene.denoiser.history) == 1
    scene.train()  # 50 more
    assert [record.epoch for record in scene.denoiser.history] == [1, 2]


def test_unknown_pairs_of_the_first_epoch_are_named_when_half_of_the_pairs_may_have_come() -> None:
    scene = Misread(config=WATCHING.but(noise_rate=0.1))
    scene.train()
    with pytest.raises(BatchError, match="in batch 2 of epoch 1, got none of its 50"):
        scene.train_misread("unknown")  # 100 samples of 180 might have been observed
    scene.goes_on()
    assert scene.denoiser.state_dict()["epoch"]["observed"] == 100


def test_the_first_of_several_unknown_batches_is_named_and_the_others_are_counted() -> None:
    scene = Misread(config=WATCHING.but(noise_rate=0.1), explicit_epochs=True)
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

    denoiser = tiny_denoiser(
        DATA, pair_fn=lambda batch: batch.columns_of_mine[:2],
        loss_fn=lambda model, batch: bpr_loss(model, batch.columns_of_mine),
        config=SWITCHING,
    )
    for columns in BATCHES:
        batch = Opaque(columns)
        denoiser.before_step(batch)
        denoiser.step(batch)
    assert denoiser.phase is Phase.SELF_GUIDED
