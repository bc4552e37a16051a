"""When an epoch ends, what its record tells, and the switch."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import sklearn.mixture  # noqa: F401  (its import may draw from the streams: test_plain_equality)
import torch

from sgdl_wrap import (
    DenoiserConfig,
    DenoiserWarning,
    EpochRecord,
    Phase,
    ScoreError,
    SelfGuidedDenoiser,
    StateError,
    Variants,
)
from sgdl_wrap.equations.memorization import first_stall
from sgdl_wrap.ranks.ranks import Ranks
from tests.support.models_zoo import (
    SWITCHING,
    WATCHING,
    assert_identical,
    build,
    labelled_epoch,
    seeded,
    tiny_data,
    tiny_lightgcn,
    train,
    triple_epoch,
    without,
)
from tests.support.resealed import resealed

DATA = tiny_data()
N = len(DATA)


def test_an_epoch_ends_with_the_last_of_n_observed_samples() -> None:
    denoiser = build(config=WATCHING)
    batches = triple_epoch(DATA, 0)
    for batch in batches[:-1]:
        denoiser.before_step(batch)
        denoiser.step(batch)
    assert denoiser.history == []
    denoiser.before_step(batches[-1])
    assert denoiser.history == []
    denoiser.step(batches[-1])
    assert [record.epoch for record in denoiser.history] == [1]


def test_sampled_negatives_do_not_count_towards_an_epoch() -> None:
    denoiser = build("neumf", config=WATCHING)
    batches = labelled_epoch(DATA, 0, batch_size=N // 2)  # 2N samples, N of them observed
    ends = []
    for batch in batches:
        denoiser.before_step(batch)
        denoiser.step(batch)
        ends.append(len(denoiser.history))
    assert ends == [0, 0, 0, 1]
    assert denoiser.history[0].loss > 0


def test_unknown_pairs_do_not_count_towards_an_epoch() -> None:
    denoiser = build(config=WATCHING)
    users, items = DATA.tensors()
    others = (items + 1) % DATA.n_items  # some of them observed, some not
    known = int((DATA.ids(users, others) >= 0).sum())
    assert 0 < known < N
    batch = (users, others, items)
    with pytest.warns(UserWarning, match=f"^Expected the pairs of .*, got {N - known} of {N}"):
        denoiser.before_step(batch)
    denoiser.step(batch)
    assert denoiser.state_dict()["epoch"]["observed"] == known
    assert denoiser.history == []


def test_repeated_rows_make_an_epoch_as_long_as_the_loader() -> None:
    users, items = DATA.tensors()
    doubled = (torch.cat([users, users[:40]]), torch.cat([items, items[:40]]))
    with pytest.warns(UserWarning, match="^Expected distinct pairs, got 40 repeats among 220"):
        denoiser = build(interactions=doubled, config=WATCHING)
    batch = (doubled[0], doubled[1], (doubled[1] + 5) % 30)
    parts = [tuple(c[start : start + 55] for c in batch) for start in range(0, 220, 55)]
    for number, part in enumerate(parts):
        denoiser.before_step(part)
        denoiser.step(part)
        assert len(denoiser.history) == (number == 3)


# ------------------------------------------------------------------ an epoch is a pass


def several_rows_each(each: int, seed: int, *, together: bool) -> list[Any]:
    """A pass with a row for each negative, in one batch or anywhere."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.permutation(N), each)
    rows = rows if together else rng.permutation(rows)
    users, items = DATA.tensors()
    columns = (users[rows], items[rows], torch.from_numpy(rng.integers(30, size=len(rows))))
    return [tuple(c[start : start + 60] for c in columns) for start in range(0, len(rows), 60)]


def passes_seen(denoiser: SelfGuidedDenoiser, passes: Iterable[list[Any]]) -> list[int]:
    """How many epochs had ended after each pass."""
    found = []
    for batches in passes:
        for batch in batches:
            denoiser.before_step(batch)
            denoiser.step(batch)
        found.append(len(denoiser.history))
    return found


SEVERAL = (
    r"^Expected each pair once in a pass over the loader, got about 3\.0 rows of each\. An epoch "
    r"ends by itself after 540 observed samples, as such a pass does\. Call end_epoch\(\) after "
    r"each pass over the loader, or set explicit_epochs=True, if a pass is longer or shorter\.$"
)


@pytest.mark.parametrize("together", [True, False])
def test_a_pass_with_a_row_for_each_negative_is_one_epoch(together: bool) -> None:
    denoiser = build(config=WATCHING)
    passes = [several_rows_each(3, seed, together=together) for seed in range(6)]
    with pytest.warns(DenoiserWarning, match=SEVERAL) as caught:
        assert passes_seen(denoiser, passes) == [1, 2, 3, 4, 5, 6]
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("ignore:Expected each pair once")
def test_what_was_learned_of_passes_is_saved() -> None:
    passes = [several_rows_each(3, seed, together=False) for seed in range(2)]
    outcomes = []
    for stop in ((), (2, 5, 8, 11)):  # of 18 batches
        model = tiny_lightgcn(DATA)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        denoiser = build(model=model, optimizer=optimizer, config=WATCHING)
        for number, batch in enumerate([*passes[0], *passes[1]]):
            if number in stop:
                state = denoiser.state_dict()
                denoiser = build(model=model, optimizer=optimizer, config=WATCHING)
                denoiser.load_state_dict(state)
            denoiser.before_step(batch)
            denoiser.step(batch)
        assert len(denoiser.history) == 2
        outcomes.append(without(denoiser.state_dict(), "seconds", "plain_seconds"))
    assert_identical(outcomes[1], outcomes[0])


def test_a_state_whose_visits_are_of_another_number_is_refused() -> None:
    denoiser = build(config=WATCHING)
    state = denoiser.state_dict()
    state["epoch"]["counts"] = torch.zeros(N - 1, dtype=torch.uint8)
    with pytest.raises(StateError, match=r"^Expected counts as torch.uint8 of shape \(180,\)"):
        denoiser.load_state_dict(resealed(state))


def test_pairs_that_never_come_are_said_when_an_epoch_ends_by_itself() -> None:
    denoiser = build(config=WATCHING)
    passes = [
        [tuple(c[rows] for c in whole) for rows in torch.arange(N // 2).split(30)]
        for whole in ((*DATA.tensors(), DATA.tensors()[1].flip(0)),) * 4
    ]
    with pytest.warns(
        DenoiserWarning,
        match=r"^Expected an epoch that ends by itself to show nearly every pair, got 50% of 180 "
        r"in 180 observed samples\. Look for pairs that come more often than others, or never, and "
        r"for observed pairs that are marked unobserved\. Call end_epoch\(\) after each pass over "
        r"the loader, or set explicit_epochs=True\.$",
    ) as caught:
        assert passes_seen(denoiser, passes) == [0, 1, 1, 2]  # as many samples as there are pairs
    assert len(caught) == 1


def test_nothing_is_said_to_those_who_call_end_epoch() -> None:
    for explicit, each in ((True, 3), (False, 3), (True, 1)):
        denoiser = build(config=WATCHING, explicit_epochs=explicit)
        for seed in range(3):
            batches = several_rows_each(each, seed, together=False)
            passes_seen(denoiser, [batches[: len(batches) // 2] if each == 1 else batches])
            denoiser.end_epoch()
        assert len(denoiser.history) == 3


def test_a_loader_over_distinct_pairs_and_one_over_repeats_both_end_with_the_pass() -> None:
    users, items = DATA.tensors()
    times = 1 + torch.arange(N) % 3
    rows = torch.arange(N).repeat_interleave(times)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    for loaded in (rows, rows.unique()):
        with pytest.warns(UserWarning, match="^Expected distinct pairs, got 180 repeats among 360"):
            denoiser = build(interactions=(users[rows], items[rows]), config=WATCHING)
        batch = [users[loaded], items[loaded], items[loaded.flip(0)]]
        parts = list(zip(*(column.split(70) for column in batch), strict=True))
        assert passes_seen(denoiser, [parts] * 3) == [1, 2, 3]


def test_an_end_that_failed_is_tried_again_a_pass_later() -> None:
    fails = [False]

    def score(model: Any, users: Any, items: Any) -> Any:
        return model(users, items) * (torch.nan if fails[0] else 1)

    denoiser = build(config=WATCHING, score_fn=score)
    fails[0] = True
    with pytest.raises(ScoreError):
        train(denoiser)
    fails[0] = False
    batches = triple_epoch(DATA, 1)
    assert passes_seen(denoiser, [batches[:-1], batches[-1:]]) == [0, 1]
    train(denoiser, start=2)
    assert len(denoiser.history) == 2


def test_from_the_first_end_epoch_on_epochs_end_by_calls_alone() -> None:
    denoiser = build(config=WATCHING)
    batches = triple_epoch(DATA, 0)
    for batch in batches[:2]:
        denoiser.before_step(batch)
        denoiser.step(batch)
    first = denoiser.end_epoch()
    assert isinstance(first, EpochRecord)
    assert denoiser.history == [first]
    train(denoiser, epochs=3)  # three times N samples and no call
    assert len(denoiser.history) == 1
    assert denoiser.end_epoch() is denoiser.history[-1]
    assert [record.epoch for record in denoiser.history] == [1, 2]


def test_with_explicit_epochs_the_first_epoch_too_ends_by_a_call_alone() -> None:
    denoiser = build(config=WATCHING, explicit_epochs=True)
    train(denoiser, epochs=2)  # twice N samples
    assert denoiser.history == []
    denoiser.load_state_dict(build(config=WATCHING).state_dict())  # which was built without
    train(denoiser, epochs=2)
    assert denoiser.history == []
    assert denoiser.end_epoch() is denoiser.history[0]


def test_end_epoch_after_an_automatic_end_confirms_it() -> None:
    denoiser = build(config=WATCHING)
    for epoch in range(3):
        train(denoiser, start=epoch)
        record = denoiser.end_epoch()
        assert record is not None
        assert record.epoch == epoch + 1
        assert len(denoiser.history) == epoch + 1


def test_a_record_tells_what_the_epoch_was() -> None:
    denoiser = build(config=WATCHING)
    with seeded(23):
        losses, sizes = [], []
        for batch in triple_epoch(DATA, 0):
            denoiser.before_step(batch)
            losses.append(float(denoiser.step(batch)))
            sizes.append(len(batch[0]))
    record = denoiser.history[0]
    assert record.epoch == 1
    assert record.phase is Phase.MEMORIZATION
    assert record.loss == pytest.approx(np.average(losses, weights=sizes), rel=1e-5)
    assert record.mean_weight == 1.0
    assert record.memorized_ratio == 0.0  # epochs not yet lived count as 0
    assert record.noise_rate is not None
    assert record.clean_ratio == pytest.approx(1 - record.noise_rate)
    assert denoiser.noise_rate == record.noise_rate
    assert record.seconds > 0
    denoiser.history.clear()
    assert len(denoiser.history) == 1  # a copy was handed out


def test_the_history_is_a_table_in_one_line() -> None:
    pandas = pytest.importorskip("pandas")
    denoiser = build()
    train(denoiser, epochs=3)
    table = pandas.DataFrame(denoiser.history)
    assert table["epoch"].tolist() == [1, 2, 3]
    assert table["phase"].tolist() == [record.phase for record in denoiser.history]


# ------------------------------------------------------------------ the switch


def test_it_switches_when_the_memorized_are_as_many_as_the_clean() -> None:
    denoiser = build(config=DenoiserConfig(history_length=2))
    assert denoiser.memorization_point is None
    train(denoiser, epochs=5)
    point = denoiser.memorization_point
    assert point is not None
    assert denoiser.phase is Phase.SELF_GUIDED
    for record in denoiser.history:
        reached = record.clean_ratio is not None and record.memorized_ratio >= record.clean_ratio
        if record.epoch < point:
            assert not reached
            assert record.phase is Phase.MEMORIZATION
        elif record.epoch == point:
            assert reached
            assert record.phase is Phase.MEMORIZATION
        else:
            assert record.phase is Phase.SELF_GUIDED
            assert record.mean_weight == pytest.approx(1)
            assert record.noise_rate == denoiser.noise_rate  # frozen
    memorized = denoiser.state_dict()["self_guided"]["memorized"]  # by now: it is a ranking loss
    assert len(memorized) / N == pytest.approx(denoiser.history[-1].memorized_ratio)


def test_the_memorized_are_frozen_at_the_switch_where_asked_for() -> None:
    denoiser = build(config=SWITCHING.but(memorized_data="switch"))
    train(denoiser)
    before = denoiser.state_dict()["self_guided"]["memorized"].clone()
    train(denoiser, epochs=3, start=1)
    assert torch.equal(denoiser.state_dict()["self_guided"]["memorized"], before)
    ratios = {record.memorized_ratio for record in denoiser.history}
    assert len(ratios) > 1  # while the records go on watching


@pytest.mark.parametrize(("shift", "point"), [(-0.05, None), (0.35, 1)])
def test_the_noise_rate_shift_moves_the_switch(shift: float, point: int | None) -> None:
    variants = Variants(noise_rate_shift=shift)
    config = DenoiserConfig(history_length=1, noise_rate=0.02, variants=variants)
    denoiser = build(config=config)
    train(denoiser, epochs=3)
    assert denoiser.memorization_point == point
    assert denoiser.history[0].clean_ratio == pytest.approx(min(1.0, 0.98 - shift))
    assert denoiser.noise_rate == 0.02

# ------------------------------------------------------------------ a switch that never comes

NEVER = DenoiserConfig(history_length=1, noise_rate=0.0)  # not all are ever memorized


def standing_still(config: DenoiserConfig) -> SelfGuidedDenoiser:
    """A denoiser whose model learns nothing."""
    model = tiny_lightgcn(DATA)
    return build(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0), config=config)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.name for record in caplog.records} <= {"sgdl_wrap"}
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_a_switch_that_comes_no_nearer_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    denoiser = standing_still(NEVER)
    train(denoiser, epochs=19)
    assert warned(caplog) == []  # ten epochs are compared with the ten before
    train(denoiser, epochs=6, start=19)
    (said,) = warned(caplog)
    gaps = [record.clean_ratio - record.memorized_ratio for record in denoiser.history]
    epoch = first_stall(gaps, 10)
    last = denoiser.history[epoch - 1]
    assert said == (
        f"Phase I may never end: after epoch {epoch} the memorized ratio is "
        f"{last.memorized_ratio:.3f} and the clean ratio 1.000, no nearer than 10 epochs before. "
        "Set switch_timeout, or noise_rate if it is known; a higher learning rate or a shorter "
        "history_length may help, too."
    )
    again = standing_still(NEVER)
    again.load_state_dict(denoiser.state_dict())
    train(again, epochs=3, start=25)
    assert warned(caplog) == [said]


@pytest.mark.parametrize("changes", [{"audit_only": True}, {"switch_timeout": 50}], ids=str)
def test_nothing_is_said_where_no_switch_is_waited_for_in_vain(
    changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    train(standing_still(NEVER.but(**changes)), epochs=25)
    assert warned(caplog) == []


def test_of_several_ranks_the_first_alone_says_it(caplog: pytest.LogCaptureFixture) -> None:
    denoiser = standing_still(NEVER)
    denoiser._epochs._ranks = Ranks()
    denoiser._epochs._ranks.rank = 1
    train(denoiser, epochs=25)
    assert warned(caplog) == []


def test_the_wait_is_as_long_as_the_history(caplog: pytest.LogCaptureFixture) -> None:
    denoiser = standing_still(NEVER.but(history_length=14))
    train(denoiser, epochs=27)
    assert warned(caplog) == []
    train(denoiser, epochs=8, start=27)
    (said,) = warned(caplog)
    assert "no nearer than 14 epochs before" in said
