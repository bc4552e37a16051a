"""A run says what came of it: in words when it is asked, and by a record at each epoch's end."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from sgdl_wrap import (
    DenoiserConfig,
    DenoiserError,
    EpochRecord,
    NoiseRateError,
    SwitchError,
    load_checkpoint,
    save_checkpoint,
)
from tests.promises.runs import (
    AUDITING,
    LEARNING,
    WATCHING,
    Factors,
    adam,
    denoiser,
    epoch,
    epochs,
    train,
)
from tests.support.models_zoo import assert_identical, seeded, without

# ------------------------------------------------------------------ in words


@pytest.mark.parametrize(
    ("arguments", "count", "begins"),
    [
        ({"enabled": False}, 1, "Plain training: the denoiser is off"),
        ({"config": WATCHING}, 0, "Not yet switched: 0 of at least 11 epochs of Phase I"),
        ({"config": WATCHING}, 2, "Not yet switched: 2 of at least 11 epochs of Phase I"),
        ({"config": AUDITING}, 2, "Watched only: training is plain training"),
        ({"config": LEARNING}, 1, "Switched after epoch 1: "),
        ({"config": LEARNING}, 3, "Nothing sure was found from epoch 2 on, so that weights are"),
        (
            {"config": LEARNING.but(evidence_weights=False, weighting_entropy=0.0)}, 4,
            "Denoised from epoch 2 on: the most suspicious tenth of the interactions counts ",
        ),
    ],
)  # fmt: skip
def test_printed_it_says_what_happened(
    arguments: dict[str, Any], count: int, begins: str
) -> None:
    wrapped = denoiser(Factors(), **arguments)
    for batches in epochs(count):
        train(wrapped, batches)
        wrapped.end_epoch()
    with redirect_stdout(io.StringIO()) as printed:
        print(wrapped)
    assert printed.getvalue().startswith(begins)
    assert printed.getvalue() == wrapped.summary() + "\n"
    assert re.fullmatch(r"<sgdl_wrap\.denoiser\.SelfGuidedDenoiser object at \w+>", repr(wrapped))


def test_summing_up_changes_nothing() -> None:
    found = []
    for summed_up in (False, True):
        with seeded(5):
            wrapped = denoiser(Factors(), config=LEARNING)
            for batch in [*epoch(0), *epoch(1)]:
                wrapped.before_step(batch)
                if summed_up:
                    wrapped.summary()
                wrapped.step(batch)
            found.append(without(wrapped.state_dict(), "seconds", "plain_seconds", "seal"))
    assert_identical(found[1], found[0])


# ------------------------------------------------------------------ by a record


@pytest.mark.parametrize("explicit", [False, True], ids=["by themselves", "by calls"])
def test_on_epoch_is_called_once_an_epoch_with_its_record(explicit: bool) -> None:
    told: list[EpochRecord] = []
    wrapped = denoiser(
        Factors(), config=LEARNING, on_epoch=told.append, explicit_epochs=explicit
    )
    for batches in epochs(3):
        train(wrapped, batches)
        if explicit:
            wrapped.end_epoch()
    if not explicit:
        wrapped.end_epoch()  # the third has ended by itself: this confirms it
    assert [record.epoch for record in told] == [1, 2, 3]
    assert told == wrapped.history


def test_a_denoiser_that_is_off_calls_nothing() -> None:
    told: list[EpochRecord] = []
    wrapped = denoiser(Factors(), enabled=False, on_epoch=told.append)
    train(wrapped, epoch(0))
    wrapped.end_epoch()
    assert told == []


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(
        DenoiserError, match=r"^Expected on_epoch to be a function, got list\. Pass what can be "
    ):
        denoiser(Factors(), on_epoch=[])


class Unreachable(Exception):
    """As of a logger whose server is down."""


def run(raising: bool, *, explicit: bool) -> Any:
    """Two epochs whose on_epoch raises, or not; all that the run ends with."""
    calls: list[int] = []

    def on_epoch(record: EpochRecord) -> None:
        calls.append(record.epoch)
        if raising:
            raise Unreachable

    raised = 0
    with seeded(5):
        model = Factors()
        optimizer = adam(model)
        wrapped = denoiser(
            model, optimizer=optimizer, config=LEARNING, on_epoch=on_epoch,
            explicit_epochs=explicit,
        )  # fmt: skip
        for batches in epochs(3):
            for batch in batches:
                wrapped.before_step(batch)
                try:
                    wrapped.step(batch)
                except Unreachable:
                    raised += 1
            if explicit:
                try:
                    wrapped.end_epoch()
                except Unreachable:
                    raised += 1
        assert calls == [1, 2, 3]
        assert raised == (3 if raising else 0)
        assert len(wrapped.history) == 3
        return {
            "model": {k: v.clone() for k, v in model.state_dict().items()},
            "optimizer": optimizer.state_dict(),
            "denoiser": without(wrapped.state_dict(), "seconds", "plain_seconds", "seal"),
        }


@pytest.mark.parametrize("explicit", [False, True], ids=["by themselves", "by calls"])
def test_an_error_in_on_epoch_comes_out_and_loses_nothing(explicit: bool) -> None:
    assert_identical(run(True, explicit=explicit), run(False, explicit=explicit))


def test_what_the_epoch_itself_has_to_say_is_not_lost_with_it() -> None:
    def on_epoch(record: EpochRecord) -> None:
        raise Unreachable

    config = DenoiserConfig(history_length=20, switch_timeout=1)
    wrapped = denoiser(Factors(), config=config, on_epoch=on_epoch, explicit_epochs=True)
    train(wrapped, epoch(0))
    with pytest.raises(Unreachable) as caught:
        wrapped.end_epoch()
    assert isinstance(caught.value.__context__, SwitchError)


def test_an_epoch_that_cannot_end_is_not_reported() -> None:
    told: list[EpochRecord] = []
    batch = epoch(0)[0]
    negatives = {**batch, "item": batch["other"], "label": 0 * batch["other"].float()}

    def loss_fn(model: Any, given: Any) -> Any:
        return model(given["user"], given["item"]) ** 2

    wrapped = denoiser(Factors(), loss_fn, on_epoch=told.append, explicit_epochs=True)
    seen = {**batch, "label": 1 + 0 * batch["user"].float()}
    train(wrapped, [seen])
    wrapped.end_epoch()
    train(wrapped, [negatives])
    with pytest.raises(NoiseRateError, match=r"^Expected observed pairs in epoch 2 to estimate"):
        wrapped.end_epoch()
    assert [record.epoch for record in told] == [1]


def test_a_checkpoint_saved_by_on_epoch_goes_on_bit_for_bit(tmp_path: Path) -> None:
    path, found = tmp_path / "run.pt", []
    with seeded(5):
        model = Factors()
        optimizer = adam(model)

        def on_epoch(record: EpochRecord) -> None:
            if record.epoch == 2:
                save_checkpoint(path, denoiser=wrapped, model=model, optimizer=optimizer)

        wrapped = denoiser(model, optimizer=optimizer, config=LEARNING, on_epoch=on_epoch)
        for batches in epochs(3):
            train(wrapped, batches)
        found.append(without(wrapped.state_dict(), "seconds", "plain_seconds", "seal"))
    with seeded(6):
        told: list[int] = []
        other = Factors()
        optimizer = adam(other)
        again = denoiser(
            other, optimizer=optimizer, config=LEARNING,
            on_epoch=lambda record: told.append(record.epoch),
        )  # fmt: skip
        load_checkpoint(path, denoiser=again, model=other, optimizer=optimizer)
        assert told == []  # those epochs were told by the run that was saved
        train(again, epoch(2))
        assert told == [3]
        found.append(without(again.state_dict(), "seconds", "plain_seconds", "seal"))
    assert_identical(dict(other.state_dict()), dict(model.state_dict()))
    assert_identical(found[1], found[0])
