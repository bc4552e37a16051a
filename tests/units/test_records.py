"""What an epoch's record says: its cost, its numbers, and where others put them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sgdl_wrap import EpochRecord, Phase
from sgdl_wrap.loop import progress
from sgdl_wrap.model import clock as stopwatch
from tests.support.models_zoo import SWITCHING, seeded, tiny_data, tiny_denoiser, triple_epoch

DATA = tiny_data()
RECORD = EpochRecord(
    epoch=7, phase=Phase.SELF_GUIDED, memorized_ratio=0.8, clean_ratio=None, noise_rate=0.2,
    loss=0.3, mean_weight=0.9, seconds=3.0, plain_seconds=2.0,
)  # fmt: skip


class Clock:
    """Moves by one second whenever user code runs, and by a hundred at an epoch's end."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_cost_is_all_time_over_that_of_plain_training() -> None:
    assert RECORD.cost == 1.5
    assert dataclasses.replace(RECORD, plain_seconds=None).cost is None
    assert dataclasses.replace(RECORD, plain_seconds=0.0).cost is None


def test_as_a_dict_it_comes_back() -> None:
    assert EpochRecord.from_dict(RECORD.as_dict()) == RECORD


def test_scalars_are_the_numbers_that_are_known() -> None:
    assert RECORD.scalars() == {
        "phase": 1.0, "memorized_ratio": 0.8, "noise_rate": 0.2, "loss": 0.3, "mean_weight": 0.9,
        "seconds": 3.0, "skipped": 0.0, "plain_seconds": 2.0, "cost": 1.5,
        "effective_share": 1.0, "suspicious_weight": 1.0, "rare_weight": 1.0,
    }  # fmt: skip


def test_plain_seconds_are_those_of_loss_backward_and_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(stopwatch.time, "perf_counter", clock)
    monkeypatch.setattr(progress.time, "perf_counter", clock)
    denoiser = tiny_denoiser(DATA, "lightgcn", config=SWITCHING)
    code = denoiser._user_code
    inner, rank, guide = code.loss_fn, code.score, code.streams.own

    def loss_fn(model: Any, batch: Any) -> Any:
        clock.now += 1
        return inner(model, batch)

    def score(*pairs: Any) -> Any:
        clock.now += 100
        return rank(*pairs)

    def own(*arguments: Any, **options: Any) -> Any:  # what the plain loop would not draw
        clock.now += 10
        return guide(*arguments, **options)

    epochs = [triple_epoch(DATA, epoch) for epoch in range(3)]
    denoiser.before_step(epochs[0][0])  # tries the loss, by the true one
    denoiser.step(epochs[0][0])
    code.loss_fn = code._trained_loss = loss_fn
    code.score = score
    code.streams.own = own
    monkeypatch.setattr(denoiser._optimizers[0], "step", lambda: setattr(
        clock, "now", clock.now + 0.5))
    with seeded(23):
        for epoch, batches in enumerate(epochs):
            for batch in batches[1:] if epoch == 0 else batches:
                denoiser.before_step(batch)
                denoiser.step(batch)
    first, second, third = denoiser.history
    steps = len(epochs[1])
    assert first.phase is Phase.MEMORIZATION
    assert first.plain_seconds == 1.5 * (steps - 1)
    for record in (second, third):
        assert record.phase is Phase.SELF_GUIDED
        assert record.plain_seconds == 1.5 * steps
        assert record.seconds >= record.plain_seconds + 100  # ranking is ours


def test_the_part_lived_in_another_process_is_not_known() -> None:
    denoiser, again = (tiny_denoiser(DATA, "lightgcn", config=SWITCHING) for _ in range(2))
    epochs = [triple_epoch(DATA, epoch) for epoch in range(2)]
    with seeded(23):
        denoiser.before_step(epochs[0][0])
        denoiser.step(epochs[0][0])
        again.model.load_state_dict(denoiser.model.state_dict())
        again.load_state_dict(denoiser.state_dict())
        for batch in [*epochs[0][1:], *epochs[1]]:
            again.before_step(batch)
            again.step(batch)
    assert [record.plain_seconds is None for record in again.history] == [True, False]
