"""NaN and Inf stop with a diagnosis before a parameter changes, or are left out and counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.lightgcn import bpr_loss
from sgdl_wrap import DenoiserConfig, NonFiniteError, Phase, SelfGuidedDenoiser
from sgdl_wrap.model.numbers import check_finite, total
from tests.support.models_zoo import (
    SWITCHING,
    WATCHING,
    assert_identical,
    seeded,
    snapshot,
    stream_states,
    tiny_data,
    tiny_denoiser,
    tiny_lightgcn,
    train,
    triple_epoch,
    without,
)
from tests.support.scenes import PHASES
from tests.support.spy import Spy

DATA = tiny_data()
BATCHES = [batch for epoch in range(4) for batch in triple_epoch(DATA, epoch)]
PER_EPOCH = len(BATCHES) // 4


class SteepAtZero(torch.autograd.Function):
    """The identity, whose gradient is Inf: a loss may be finite where its gradient is not."""

    @staticmethod
    def forward(losses: Tensor) -> Tensor:
        return losses.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.inf


class Scene:
    """A run that has trained two steps, or has just learned for the first time in Phase II."""

    def __init__(self, phase: Phase, **changes: Any) -> None:
        with seeded(5):
            self.model = tiny_lightgcn(DATA)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        self.spoil: Callable[[Tensor], Tensor] = lambda losses: losses
        config = (SWITCHING if phase is Phase.SELF_GUIDED else WATCHING).but(
            **{"guidance_interval": 1, **changes}
        )
        self.denoiser = SelfGuidedDenoiser(
            self.model, self.optimizer, self._losses, interactions=DATA.tensors(),
            n_items=DATA.n_items, config=config,
        )  # fmt: skip
        self.place = 0
        while self.place < (PER_EPOCH + 2 if phase is Phase.SELF_GUIDED else 2):
            self.train()
        assert self.denoiser.phase is phase

    def _losses(self, model: nn.Module, batch: Any) -> Tensor:
        return self.spoil(bpr_loss(model, batch))

    def train(self, **more: Any) -> Tensor:
        batch = BATCHES[self.place]
        self.place += 1
        self.denoiser.before_step(batch)
        return self.denoiser.step(batch, **more)

    def spoil_psi(self) -> None:
        self_guided = self.denoiser._epochs.self_guided
        assert self_guided is not None
        assert self_guided.learner is not None
        with torch.no_grad():
            next(self_guided.learner.weighting.parameters()).fill_(torch.nan)

    def parameters(self) -> Any:
        state = snapshot(self.model, self.optimizer)
        return without(state, "gradients")

    def learned(self) -> Any:
        """ψ, φ and their optimizers."""
        state = self.denoiser.state_dict()["self_guided"]
        return None if state is None else without(state["learner"], "generator")


def three_nan(losses: Tensor) -> Tensor:
    return torch.where(torch.arange(len(losses)) < 3, torch.nan, losses)


SPOILED = {
    "losses": (three_nan, r"^Expected finite losses, got 3 NaN or Inf among 50 in {where}\. Skip"),
    "gradients": (
        SteepAtZero.apply,
        r"^Expected finite gradients of the model, got \d+ NaN or Inf among \d+ in {where}\. Lower",
    ),
}


@PHASES
@pytest.mark.parametrize("kind", SPOILED)
def test_it_stops_before_a_parameter_changes_and_goes_on_with_the_next(
    kind: str, phase: Phase
) -> None:
    spoil, message = SPOILED[kind]
    scene = Scene(phase, denoising_learning=False)  # else the learning would notice first
    where = "batch 3 of epoch " + ("2" if phase is Phase.SELF_GUIDED else "1")
    scene.spoil = spoil
    before, streams = scene.parameters(), stream_states()
    with pytest.raises(NonFiniteError, match=message.format(where=where)):
        scene.train()
    assert_identical(scene.parameters(), before)
    assert stream_states() == streams
    scene.spoil = lambda losses: losses
    assert torch.isfinite(scene.train())


@PHASES
@pytest.mark.parametrize("kind", SPOILED)
def test_a_batch_left_out_leaves_no_trace_but_its_count(kind: str, phase: Phase) -> None:
    """Model, optimizer, ψ and φ end as without the bad batch."""
    scene = Scene(phase, on_nonfinite="skip")
    scene.spoil = SPOILED[kind][0]
    before, learned, streams = scene.parameters(), scene.learned(), stream_states()
    assert torch.isnan(scene.train())
    assert_identical(scene.parameters(), before)
    assert_identical(scene.learned(), learned)
    assert stream_states() == streams
    if kind == "gradients" and phase is Phase.MEMORIZATION:  # none is left for others to step on
        assert all(p.grad is None for p in scene.model.parameters())
    scene.spoil = lambda losses: losses
    assert torch.isfinite(scene.train())
    record = scene.denoiser.end_epoch()
    assert record is not None
    assert record.skipped == 1
    assert record.loss == record.loss  # a sum with NaN in it would not be


def test_in_phase_one_the_rest_is_the_run_without_the_bad_batch() -> None:
    skipping, plain = Scene(Phase.MEMORIZATION, on_nonfinite="skip"), Scene(Phase.MEMORIZATION)
    skipping.spoil = three_nan
    skipping.train()
    skipping.spoil = lambda losses: losses
    plain.place += 1
    for scene in (skipping, plain):
        scene.train()
        scene.train()
    found, expected = snapshot(skipping.model), snapshot(plain.model)
    assert_identical(found["parameters"], expected["parameters"])


@pytest.mark.parametrize("mode", ["raise", "skip"])
def test_a_step_that_learns_leaves_psi_and_phi_and_drops_the_guidance_that_failed(
    mode: Any,
) -> None:
    scene = Scene(Phase.SELF_GUIDED, on_nonfinite=mode)
    batch = BATCHES[scene.place]
    before, learned = scene.parameters(), scene.learned()
    calls = Spy()

    def spoil_the_second(losses: Tensor) -> Tensor:  # the first call is the training batch's
        calls.note(1)
        return losses * torch.inf if len(calls) == 2 else losses

    scene.spoil = spoil_the_second
    if mode == "raise":
        with pytest.raises(
            NonFiniteError,
            match=r"^Expected finite losses of the guidance samples, got \d+ NaN or Inf among \d+ "
            r"in batch 3 of epoch 2\. Lower assumed_lr",
        ):
            scene.denoiser.before_step(batch)
    else:
        assert torch.isnan(scene.train())
    assert_identical(scene.parameters(), before)
    assert_identical(scene.learned(), learned)
    assert scene.denoiser.state_dict()["self_guided"]["guidance"] is None
    for _ in range(3):
        assert torch.isfinite(scene.train())
    with pytest.raises(AssertionError):  # it learns again
        assert_identical(scene.learned(), learned)


@pytest.mark.parametrize("call", ["step", "weighted_loss"])
def test_weights_that_are_not_finite_are_named(call: str) -> None:
    scene = Scene(Phase.SELF_GUIDED, guidance_interval=100)
    scene.spoil_psi()
    batch = BATCHES[scene.place]
    scene.denoiser.before_step(batch)
    before = scene.parameters()
    with pytest.raises(NonFiniteError, match=r"^Expected finite weights by ψ, got 50 NaN or Inf"):
        getattr(scene.denoiser, call)(batch)
    assert_identical(scene.parameters(), before)


@pytest.mark.parametrize("mode", ["raise", "skip"])
def test_weights_that_are_not_finite_leave_gradients_that_were_accumulated(mode: Any) -> None:
    scene = Scene(Phase.SELF_GUIDED, guidance_interval=100, on_nonfinite=mode)
    scene.optimizer.zero_grad()
    first, second = BATCHES[scene.place : scene.place + 2]
    scene.denoiser.before_step(first)
    scene.denoiser.weighted_loss(first).backward()
    gradients = snapshot(scene.model)["gradients"]
    scene.spoil_psi()
    scene.denoiser.before_step(second)
    if mode == "raise":
        with pytest.raises(NonFiniteError, match=r"^Expected finite weights by ψ"):
            scene.denoiser.weighted_loss(second)
    else:
        assert scene.denoiser.weighted_loss(second).item() == 0
    assert all(gradient is not None for gradient in gradients.values())
    assert_identical(snapshot(scene.model)["gradients"], gradients)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_batch_is_left_out_for_its_penalty_too(value: float) -> None:
    scene = Scene(Phase.MEMORIZATION, on_nonfinite="skip")
    before = scene.parameters()
    assert torch.isnan(scene.train(penalty=torch.tensor(value)))
    assert_identical(scene.parameters(), before)
    assert torch.isfinite(scene.train(penalty=torch.tensor(1.0)))


@PHASES
def test_the_loss_of_a_batch_left_out_gives_no_parameter_a_gradient(phase: Phase) -> None:
    """Adam's momentum and weight decay do not act either: parameters without one are passed by."""
    scene = Scene(phase, on_nonfinite="skip")
    scene.spoil = three_nan
    before = scene.parameters()
    batch = BATCHES[scene.place]
    scene.denoiser.before_step(batch)
    scene.optimizer.zero_grad()
    loss = scene.denoiser.weighted_loss(batch)
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is None for p in scene.model.parameters())
    scene.optimizer.step()
    assert_identical(scene.parameters(), before)


@PHASES
def test_plain_and_weighted_loss_of_a_batch_left_out_are_both_that_zero(phase: Phase) -> None:
    scene = Scene(phase, on_nonfinite="skip")
    scene.spoil = three_nan
    batch = BATCHES[scene.place]
    scene.denoiser.before_step(batch)
    plain, weighted = scene.denoiser.plain_and_weighted_loss(batch)
    assert plain is weighted
    assert weighted.item() == 0


def test_the_first_batch_may_be_left_out_and_the_next_is_tried() -> None:
    model = tiny_lightgcn(DATA)
    bad = [True]
    denoiser = SelfGuidedDenoiser(
        model, torch.optim.Adam(model.parameters()),
        lambda m, b: three_nan(bpr_loss(m, b)) if bad else bpr_loss(m, b),
        interactions=DATA.tensors(), config=DenoiserConfig(on_nonfinite="skip"),
    )  # fmt: skip
    denoiser.before_step(BATCHES[0])
    assert torch.isnan(denoiser.step(BATCHES[0]))
    bad.clear()
    denoiser.before_step(BATCHES[1])
    assert torch.isfinite(denoiser.step(BATCHES[1]))


@pytest.mark.parametrize("epochs_before", [0, 1])
def test_an_epoch_of_which_every_batch_was_left_out_is_no_epoch(epochs_before: int) -> None:
    denoiser = tiny_denoiser(
        DATA, config=WATCHING.but(on_nonfinite="skip"), explicit_epochs=True,
        loss_fn=lambda model, batch: bpr_loss(model, batch) * factor[0],
    )  # fmt: skip
    factor = [1.0]
    train(denoiser, epochs=epochs_before)
    if epochs_before:
        denoiser.end_epoch()
    factor[0] = torch.nan
    train(denoiser)
    for _ in range(2):
        with pytest.raises(
            NonFiniteError,
            match=rf"^Expected a batch with finite losses and gradients in epoch "
            rf"{epochs_before + 1}, got all {PER_EPOCH} left out\. Go on from a checkpoint before "
            r"it, at a lower learning rate\.$",
        ):
            denoiser.end_epoch()
    assert len(denoiser.history) == epochs_before
    factor[0] = 1.0
    train(denoiser)
    assert denoiser.end_epoch().skipped == PER_EPOCH


def test_the_sum_reads_dense_sparse_half_and_empty_tensors() -> None:
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[1, 1]]), torch.tensor([-4.0, -3.0]), (5,),
        check_invariants=True,
    )  # fmt: skip
    tensors = [torch.zeros(0), None, torch.tensor([2.0, -3.0], dtype=torch.bfloat16), sparse]
    assert total(tensors) == -8.0
    assert total([torch.zeros(0), None]) is None
    big = torch.full((4,), 60_000.0, dtype=torch.float16)
    assert total([big]) == 4 * big[0].float()
    huge = torch.full((4,), 3e38)
    check_finite({"huge": [huge]}, "")  # the sum is Inf, none of them is


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_part_that_is_bad_is_named_with_its_count(bad: float) -> None:
    good = torch.ones(3)
    parts = {"one": [good], "two": [good, torch.tensor([1.0, bad])], "three": [good * bad]}
    message = r"^Expected finite two, got 1 NaN or Inf among 5 in this batch\. Do it\.$"
    with pytest.raises(NonFiniteError, match=message):
        check_finite(parts, "Do it.")
    check_finite({"one": [good], "none": [None]}, "Do it.")


# ------------------------------------------------------------------ the edges of finite


class Factors(nn.Module):
    def __init__(self, n_users: int, n_items: int) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(n_users, 4), nn.Embedding(n_items, 4)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.user(users) * self.item(items)).sum(-1)


def pointwise(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    users, items, labels = batch
    return F.binary_cross_entropy_with_logits(model(users, items), labels, reduction="none")


def run(
    users: Tensor, items: Tensor, *, n_items: int, scale: float = 1.0,
    loss: Callable[..., Tensor] = pointwise, **changes: Any,
) -> SelfGuidedDenoiser:  # fmt: skip
    """Trains by positives and as many drawn items, through four epochs."""
    with seeded(7):
        model = Factors(int(users.max()) + 1, n_items)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    settings = {"history_length": 1, "noise_rate": 0.9, "switch_timeout": 1, **changes}
    denoiser = SelfGuidedDenoiser(
        model, optimizer, lambda m, b: scale * loss(m, b), interactions=(users, items),
        n_items=n_items, config=DenoiserConfig(guidance_interval=1, **settings),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(8)
    for _ in range(4):
        for rows in torch.randperm(len(users), generator=generator).split(16):
            drawn = torch.randint(n_items, (len(rows),), generator=generator)
            batch = (
                users[rows].repeat(2), torch.cat([items[rows], drawn]),
                torch.cat([torch.ones(len(rows)), torch.zeros(len(rows))]),
            )  # fmt: skip
            denoiser.before_step(batch)
            assert torch.isfinite(denoiser.step(batch))
        denoiser.end_epoch()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    return denoiser


CELLS = torch.randperm(20 * 30, generator=torch.Generator().manual_seed(0))[:120].sort().values
USERS, ITEMS = CELLS // 30, CELLS % 30
pytestmark = pytest.mark.filterwarnings("ignore:Expected the memorized ratio to reach")


@pytest.mark.parametrize("scale", [1e6, 1e-12])
@pytest.mark.parametrize("noise_rate", [0.9, None])
def test_losses_of_any_size_train_through_both_phases(
    scale: float, noise_rate: float | None
) -> None:
    denoiser = run(USERS, ITEMS, n_items=30, scale=scale, noise_rate=noise_rate)
    assert denoiser.phase is Phase.SELF_GUIDED


def test_constant_losses_train_through_both_phases_where_the_noise_rate_is_known() -> None:
    denoiser = run(
        USERS, ITEMS, n_items=30, loss=lambda m, b: 1 + 0 * pointwise(m, b), noise_rate=0.9
    )
    assert denoiser.phase is Phase.SELF_GUIDED


@pytest.mark.parametrize("noise_rate", [0.9, None])
@pytest.mark.parametrize(
    ("users", "items", "n_items"),
    [
        (torch.zeros(25, dtype=torch.long), torch.arange(25), 30),
        (torch.arange(25).repeat_interleave(2), torch.tensor([3, 4]).repeat(25), 30),
        (USERS, ITEMS, 30),
    ],
    ids=["one user", "two items", "history of one"],
)
def test_narrow_data_trains_through_both_phases(
    users: Tensor, items: Tensor, n_items: int, noise_rate: float | None
) -> None:
    denoiser = run(users, items, n_items=n_items, noise_rate=noise_rate)
    assert denoiser.phase is Phase.SELF_GUIDED


@pytest.mark.parametrize("n_items", [30, 1], ids=["one item of many", "a catalogue of one"])
def test_one_item_alone_trains_through_both_phases(n_items: int) -> None:
    users, items = torch.arange(25), torch.zeros(25, dtype=torch.long)
    denoiser = run(users, items, n_items=n_items, noise_rate=0.9)
    assert denoiser.phase is Phase.SELF_GUIDED


def test_the_first_call_after_an_epoch_that_ended_by_itself_confirms_it() -> None:
    factor = [1.0]
    denoiser = tiny_denoiser(
        DATA, config=WATCHING.but(on_nonfinite="skip"),
        loss_fn=lambda model, batch: bpr_loss(model, batch) * factor[0],
    )  # fmt: skip
    train(denoiser)
    assert len(denoiser.history) == 1
    factor[0] = torch.nan  # a last batch of repeated pairs, left out
    denoiser.before_step(BATCHES[0])
    denoiser.step(BATCHES[0])
    assert denoiser.end_epoch() is denoiser.history[0]
    assert len(denoiser.history) == 1
