"""What is written down of steps does not depend on when it is written down."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.models.lightgcn import bpr_loss
from bench.models.neumf import bce_loss
from sgdl_wrap import DenoiserConfig, Phase, SelfGuidedDenoiser
from sgdl_wrap.batches.batch import StepRecord
from sgdl_wrap.batches.pairs import Pairs
from sgdl_wrap.watching import backlog
from sgdl_wrap.watching.backlog import Backlog, Reading, loss_values, step_sums, weight_values
from sgdl_wrap.watching.notebook import Notebook
from tests.support.models_zoo import (
    SWITCHING,
    WATCHING,
    assert_identical,
    labelled_epoch,
    seeded,
    snapshot,
    tiny_data,
    tiny_denoiser,
    tiny_lightgcn,
    tiny_neumf,
    triple_epoch,
    without,
)

DATA = tiny_data()

# ------------------------------------------------------------------ the backlog alone


def step_of(losses: Tensor, weights: Tensor | None = None) -> StepRecord:
    ids = torch.arange(len(losses))
    return StepRecord("batch 1 of epoch 1", Pairs(ids, ids, None), losses, weights)


def test_steps_are_taken_once_and_in_their_order() -> None:
    one, other, third = (step_of(torch.ones(size)) for size in (3, 4, 5))
    kept = Backlog().plus(one).plus(other)
    assert kept.steps == (one, other)
    assert kept.samples == 7
    reading = Reading(2, [], 7, 7, 0, np.zeros(2), np.zeros(2))
    assert kept.after(reading) == Backlog()
    assert kept.plus(third).after(reading) == Backlog().plus(third)


def test_it_is_full_when_as_many_samples_wait_as_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "CAPACITY", 5)
    kept = Backlog().plus(step_of(torch.ones(4)))
    assert not kept.full
    assert kept.plus(step_of(torch.ones(1))).full


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(torch.float16, np.float32), (torch.bfloat16, np.float32), (torch.float32, np.float32),
     (torch.float64, np.float64)],
)  # fmt: skip
def test_losses_come_out_exactly(kind: torch.dtype, expected: type) -> None:
    losses = torch.rand(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = loss_values([step_of(losses[:4].to(kind)), step_of(losses[4:].to(kind))])
    assert values.dtype == expected
    assert values.tolist() == losses.to(kind).tolist()


def test_the_sum_of_weights_is_taken_in_double_precision() -> None:
    weights = torch.tensor([1.0, 2.0**-30, 2.0**-30])
    ones, weighted = step_of(torch.ones(4)), step_of(torch.ones(3), weights)
    for steps in ([weighted, ones], [weighted]):
        starts = np.array([0, 3])[: len(steps)]
        sums = step_sums(weight_values(steps), starts)
        assert sums.tolist() == [1 + 2.0**-29, 4.0][: len(steps)]


# ------------------------------------------------------------------ any sequence of steps

CAPACITIES = (1, 70, 8192)
SMOOTHED = ("loss", "smoothed_loss", "memorization_rate", "observed")
CONFIGS: dict[str, DenoiserConfig] = {
    "watching": WATCHING.but(noise_rate=0.9),
    "watching, smoothed": WATCHING.but(noise_rate=0.9, weight_inputs=SMOOTHED),
    "switching": SWITCHING,
    "switching, smoothed": SWITCHING.but(weight_inputs=SMOOTHED),
    "every third step": SWITCHING.but(guidance_interval=3, guidance_size=5),
    "memorized alone": SWITCHING.but(denoising_learning=False),
}
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["step", "step", "step", "skip", "state", "reload", "end_epoch"]),
        st.integers(0, 99),
    ),
    min_size=1, max_size=14,
)  # fmt: skip


def drawn_batch(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Interactions with repeats, negatives, pairs that are marked observed and are not."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 60))
    rows = rng.integers(len(DATA), size=size)
    users, items = DATA.users[rows], DATA.items[rows]
    labels = (rng.random(size) < 0.6).astype(np.float64)
    unknown = rng.random(size) < 0.2
    items = np.where(unknown | (labels == 0), rng.integers(DATA.n_items, size=size), items)
    items[0], labels[0] = DATA.items[rows[0]], 1.0  # one is known
    return tuple(torch.from_numpy(column) for column in (users, items, labels))


class Run:
    """A training run in double precision, where sums do round."""

    def __init__(self, config: DenoiserConfig, *, explicit_epochs: bool = False) -> None:
        self.model = tiny_neumf(DATA).double()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        self.config = config
        self.explicit_epochs = explicit_epochs
        self.denoiser = self.build()
        self.visits: list[tuple[Any, np.ndarray]] = []

    def build(self) -> SelfGuidedDenoiser:
        return tiny_denoiser(
            DATA, "neumf", model=self.model, optimizer=self.optimizer, config=self.config,
            explicit_epochs=self.explicit_epochs,
        )

    def act(self, action: str, seed: int) -> None:
        if action in ("step", "skip"):
            batch = drawn_batch(seed)
            self.denoiser.before_step(batch)
            if action == "skip":
                self.denoiser.skip_batch()
                return
            with torch.no_grad():
                losses = bce_loss(self.model, batch).numpy()
            self.visits.append((tuple(column.clone() for column in batch), losses))
            self.denoiser.step(batch)
            for column in batch:  # as a loader that reuses its buffers
                column.zero_()
        elif action == "state":
            self.denoiser.state_dict()
        elif action == "reload":
            state = copy.deepcopy(self.denoiser.state_dict())
            self.denoiser = self.build()
            self.denoiser.load_state_dict(state)
        elif self.visits:
            self.denoiser.end_epoch()


def outcome(
    config: DenoiserConfig, actions: list[tuple[str, int]], capacity: int
) -> tuple[Any, Any]:
    with pytest.MonkeyPatch.context() as patch, seeded(1):
        patch.setattr(backlog, "CAPACITY", capacity)
        run = Run(config)
        for action, seed in actions:
            run.act(action, seed)
        parameters = snapshot(run.model)["parameters"]
        return parameters, without(run.denoiser.state_dict(), "seconds")


@pytest.mark.filterwarnings("ignore:Expected the pairs of batch")  # strangers are meant
@pytest.mark.parametrize("name", CONFIGS)
@settings(deadline=None, max_examples=15)
@given(actions=ACTIONS)
def test_the_same_is_known_whatever_the_capacity_and_whenever_it_is_saved(
    name: str, actions: list[tuple[str, int]]
) -> None:
    # whether an epoch ends by itself is told by whether one was ended by hand: saved too
    first = outcome(CONFIGS[name], actions, 1)
    for capacity in CAPACITIES[1:]:
        assert_identical(outcome(CONFIGS[name], actions, capacity), first)
    plain = [(action, seed) for action, seed in actions if action not in ("state", "reload")]
    assert_identical(outcome(CONFIGS[name], plain, CAPACITIES[-1]), first)


@pytest.mark.filterwarnings("ignore:Expected the pairs of batch")  # strangers are meant
@pytest.mark.parametrize("capacity", CAPACITIES)
@settings(deadline=None, max_examples=25)
@given(seeds=st.lists(st.integers(0, 99), min_size=1, max_size=12))
def test_what_is_written_down_is_each_step_in_its_order(capacity: int, seeds: list[int]) -> None:
    """Against one recording a step, with ids looked up in a dict."""
    config = CONFIGS["watching, smoothed"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backlog, "CAPACITY", capacity)
        run = Run(config, explicit_epochs=True)  # one epoch, however long
        for seed in seeds:
            run.act("step", seed)
        state = run.denoiser.state_dict()
    tracker = Notebook(run.denoiser.interactions, config)
    observed, total = 0, 0.0
    for (users, items, labels), losses in run.visits:
        ids = DATA.ids(users, items).numpy()
        known = (ids >= 0) & (labels.numpy() > 0)
        tracker.record(ids[known], losses[known])
        observed += int(known.sum())
        total += float(losses.sum())
    assert_identical(state["tracker"], tracker.state_dict())
    assert state["epoch"]["observed"] == observed
    assert state["epoch"]["samples"] == sum(len(losses) for _, losses in run.visits)
    assert state["epoch"]["batches"] == len(seeds)
    assert state["epoch"]["loss_sum"] == pytest.approx(total, rel=1e-14)
    assert state["epoch"]["weight_sum"] == state["epoch"]["samples"]


def test_two_visits_of_one_interaction_that_are_written_down_together_both_count() -> None:
    config = WATCHING.but(weight_inputs=("smoothed_loss",), loss_smoothing=0.75)
    denoiser = tiny_denoiser(DATA, config=config)
    batch = triple_epoch(DATA, 0)[0]
    seen = []
    for _ in range(3):
        seen.append(bpr_loss(denoiser.model, batch).detach())
        denoiser.before_step(batch)
        denoiser.step(batch)
    expected = 0.75 * (0.75 * seen[0] + 0.25 * seen[1]) + 0.25 * seen[2]
    ids = DATA.ids(batch[0], batch[1])
    found = denoiser.state_dict()["tracker"]["smoothed"][ids]
    assert torch.allclose(found, expected, rtol=1e-6)


# ------------------------------------------------------------------ when it is written down


def test_steps_are_written_down_together_when_enough_samples_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backlog, "CAPACITY", 100)
    calls = []
    note = Notebook.note

    def listening(self: Notebook, visits: Any, averages: Any) -> None:
        calls.append(sum(len(ids) for ids, _ in visits))
        note(self, visits, averages)

    monkeypatch.setattr(Notebook, "note", listening)
    denoiser = tiny_denoiser(DATA, config=WATCHING)
    course = []
    for batch in triple_epoch(DATA, 0, batch_size=30):  # six batches, of 180 samples
        denoiser.before_step(batch)
        denoiser.step(batch)
        course.append(list(calls))
    # when half of the pairs have come, and at the epoch's end
    assert course == [[], [], [90], [90], [90], [90, 90]]
    assert len(denoiser.history) == 1
    calls.clear()
    course.clear()
    for batch in triple_epoch(DATA, 1, batch_size=30):
        denoiser.before_step(batch)
        denoiser.step(batch)
        course.append(list(calls))
    # with the fifth batch, and at the epoch's end
    assert course == [[], [], [], [], [120], [120, 60]]
    assert len(denoiser.history) == 2


def test_the_smoothed_loss_that_weights_read_is_the_one_written_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = []
    features = Notebook.features

    def listening(
        self: Notebook, ids: np.ndarray, losses: Tensor, names: Any
    ) -> Tensor:
        read.append((ids, features(self, ids, losses, names)))
        return read[-1][1]

    monkeypatch.setattr(Notebook, "features", listening)
    denoiser = tiny_denoiser(
        DATA, config=SWITCHING.but(weight_inputs=("smoothed_loss",), loss_smoothing=0.7)
    )
    for epoch in range(3):
        for batch in triple_epoch(DATA, epoch):
            denoiser.before_step(batch)
            denoiser.step(batch)
            if not read:
                continue
            written = denoiser.state_dict()["tracker"]["smoothed"]
            for ids, column in read:  # for ψ's step and for the weights
                if len(ids) != len(batch[0]):  # what an epoch's end says of the weights
                    continue
                assert torch.equal(written[torch.from_numpy(ids)], column[:, 0])
            read.clear()
    assert denoiser.phase is Phase.SELF_GUIDED


def test_sample_weights_between_steps_write_nothing_of_their_batch_down() -> None:
    config = SWITCHING.but(weight_inputs=SMOOTHED)
    outcomes = []
    for asking in (False, True):
        denoiser = tiny_denoiser(DATA, config=config)
        for epoch in range(3):
            for batch in triple_epoch(DATA, epoch):
                denoiser.before_step(batch)
                denoiser.step(batch)
                if asking:
                    denoiser.sample_weights(triple_epoch(DATA, 9)[0])
        state = without(denoiser.state_dict(), "seconds")
        outcomes.append((snapshot(denoiser.model)["parameters"], state))
    assert_identical(outcomes[1], outcomes[0])


# ------------------------------------------------------------------ what is kept


def test_a_step_keeps_its_losses_alone_and_not_what_they_were_a_part_of() -> None:
    def column_of_many(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return bpr_loss(model, batch)[:, None].expand(-1, 1000).clone()[:, 0]

    denoiser = tiny_denoiser(DATA, config=WATCHING, loss_fn=column_of_many)
    batch = triple_epoch(DATA, 0)[0]
    denoiser.before_step(batch)
    denoiser.step(batch)
    (step,) = denoiser._epochs.backlog.steps
    assert step.losses.untyped_storage().nbytes() == 4 * len(batch[0])
    assert not step.losses.requires_grad


@pytest.mark.parametrize("kind", ["lightgcn", "neumf"])
def test_batches_overwritten_after_the_step_are_written_down_as_they_were(kind: str) -> None:
    states = []
    for reuse in (False, True):
        with seeded(2):
            denoiser = tiny_denoiser(DATA, kind, config=SWITCHING)
            epoch_of = triple_epoch if kind == "lightgcn" else labelled_epoch
            for batch in [b for epoch in range(2) for b in epoch_of(DATA, epoch)][:6]:
                denoiser.before_step(batch)
                denoiser.step(batch)
                if reuse:
                    for column in batch:
                        column.fill_(1)
            states.append(without(denoiser.state_dict(), "seconds"))
    assert_identical(states[1], states[0])


def test_a_state_loaded_forgets_the_steps_that_waited() -> None:
    denoiser = tiny_denoiser(DATA, config=WATCHING)
    batches = triple_epoch(DATA, 0)
    denoiser.before_step(batches[0])
    denoiser.step(batches[0])
    state = without(denoiser.state_dict())
    denoiser.before_step(batches[1])
    denoiser.step(batches[1])
    denoiser.load_state_dict(state)
    assert_identical(without(denoiser.state_dict(), "seconds"), without(state, "seconds"))


def test_a_denoiser_of_another_model_starts_with_no_steps_waiting() -> None:
    one = tiny_denoiser(DATA, config=WATCHING, model=tiny_lightgcn(DATA))
    batch = triple_epoch(DATA, 0)[0]
    one.before_step(batch)
    one.step(batch)
    other = tiny_denoiser(DATA, config=WATCHING, model=tiny_lightgcn(DATA))
    assert other.state_dict()["epoch"]["samples"] == 0
    assert one.state_dict()["epoch"]["samples"] == len(batch[0])
