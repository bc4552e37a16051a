"""A call that raises leaves what it found: made again, it does what it would have done at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import sklearn.mixture  # noqa: F401  (its import may draw from the streams: test_plain_equality)
import torch
from torch import Tensor, nn

import sgdl_wrap
from sgdl_wrap import (
    DenoiserConfig,
    LossError,
    NonFiniteError,
    OrderError,
    Phase,
    SelfGuidedDenoiser,
    UnsupportedModelError,
)
from tests.promises.runs import (
    AUDITING,
    LEARNING,
    WATCHING,
    Batch,
    Factors,
    Steep,
    adam,
    bce,
    bpr,
    denoiser,
    epoch,
    train,
    until_learning,
    users_streams,
)
from tests.support.models_zoo import assert_identical, seeded, snapshot, without
from tests.support.spy import Spy

LIBRARY = str(Path(sgdl_wrap.__file__).parent)


class Dropping(Factors):
    """Dropout and batch normalisation: what draws, and what writes to buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.norm = nn.Dropout(0.3), nn.BatchNorm1d(4)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        mixed = self.norm(self.dropout(self.user(users) * self.item(items)))
        return mixed.sum(-1)


def everything(wrapped: SelfGuidedDenoiser, optimizer: torch.optim.Optimizer) -> Any:
    """What a run ends with, but for wall-clock times."""
    return {
        "model": {k: v.clone() for k, v in wrapped.model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "denoiser": without(wrapped.state_dict(), "seconds", "plain_seconds", "seal"),
        "streams": users_streams(),
    }


# ------------------------------------------------------------------ a function of the user's raises


class Failing:
    """Raises at one call."""

    def __init__(self, inner: Callable[..., Tensor]) -> None:
        self.inner, self.calls, self.at = inner, Spy(), [0]

    def __call__(self, *arguments: Any) -> Tensor:
        self.calls.note(1)
        found = self.inner(*arguments)  # which has drawn, and written to buffers
        if len(self.calls) == self.at[0]:
            raise MemoryError("mine")
        return found

    def at_the(self, number: int) -> None:
        """At the call that is `number` calls ahead."""
        self.at[0] = len(self.calls) + number


def score(model: nn.Module, users: Tensor, items: Tensor) -> Tensor:
    return model(users, items) + 0.1 * torch.rand(len(users))


def with_failing_loss(number: int | None) -> Any:
    """A run through Phase II whose loss raises once: at that call of a before_step that learns."""
    with seeded(5):
        model = Dropping()
        optimizer, loss_fn = adam(model), Failing(bpr)
        wrapped = denoiser(model, loss_fn, optimizer=optimizer, score_fn=score, config=LEARNING)
        first, *rest = until_learning(wrapped)
        if number is not None:
            loss_fn.at_the(number)
            with pytest.raises(MemoryError, match=r"^mine$"):
                wrapped.before_step(first)
        train(wrapped, [first, *rest])
        return everything(wrapped, optimizer)


@pytest.mark.parametrize("number", [1, 2], ids=["in training", "in guidance"])
def test_before_step_made_again_after_a_loss_that_raised_learns_the_same(number: int) -> None:
    assert_identical(with_failing_loss(number), with_failing_loss(None))


def with_failing_scores(how: str) -> Any:
    with seeded(5):
        model = Dropping()
        optimizer, score_fn = adam(model), Failing(score)
        config = DenoiserConfig(history_length=2, noise_rate=0.5, switch_timeout=2)
        wrapped = denoiser(
            model, bpr, optimizer=optimizer, score_fn=score_fn, config=config.but(ranking_chunk=64),
            explicit_epochs=True,
        )  # fmt: skip
        for number in range(3):
            train(wrapped, epoch(number))
            if how == "retried":
                score_fn.at_the(2)
                with pytest.raises(MemoryError, match=r"^mine$"):
                    wrapped.end_epoch()
            wrapped.end_epoch()
        return everything(wrapped, optimizer)


@pytest.mark.filterwarnings("ignore:Expected the memorized ratio to reach")
def test_end_epoch_made_again_after_scores_that_raised_ranks_the_same_candidates() -> None:
    assert_identical(with_failing_scores("retried"), with_failing_scores("undisturbed"))


def test_a_step_whose_loss_raised_can_be_made_again() -> None:
    found = []
    for fails in (False, True):
        with seeded(5):
            model = Dropping()
            optimizer, loss_fn = adam(model), Failing(bpr)
            wrapped = denoiser(model, loss_fn, optimizer=optimizer)
            first, *rest = epoch(0)
            train(wrapped, [first])
            wrapped.before_step(rest[0])
            if fails:
                loss_fn.at_the(1)
                with pytest.raises(MemoryError, match=r"^mine$"):
                    wrapped.step(rest[0])
            wrapped.step(rest[0])
            train(wrapped, rest[1:])
            found.append(everything(wrapped, optimizer))
    assert_identical(found[1], found[0])


# ------------------------------------------------------------------ penalties


@pytest.mark.parametrize("config", [WATCHING, LEARNING], ids=["one", "two"])
@pytest.mark.parametrize(
    ("penalty", "error"),
    [
        (torch.tensor(float("nan")), NonFiniteError),
        (torch.ones(3), LossError),
        (0.5, LossError),
    ],
    ids=["nan", "three numbers", "a float"],
)
@pytest.mark.parametrize("then", ["the next batch", "the same batch", "state_dict", "end_epoch"])
def test_after_a_wrong_penalty_everything_can_go_on(
    penalty: Any, error: type[Exception], config: DenoiserConfig, then: str
) -> None:
    wrapped = denoiser(Factors(), config=config)
    batches = until_learning(wrapped) if config is LEARNING else epoch(0)
    wrapped.before_step(batches[0])
    before = snapshot(wrapped.model)["parameters"]
    with pytest.raises(error, match=r"^Expected (a finite penalty|penalty to be a scalar)"):
        wrapped.step(batches[0], penalty=penalty)
    assert_identical(snapshot(wrapped.model)["parameters"], before)
    if then == "the next batch":
        wrapped.before_step(batches[1])
        wrapped.step(batches[1])
    elif then == "the same batch":
        wrapped.step(batches[0], penalty=torch.tensor(0.5))
    elif then == "state_dict":
        wrapped.state_dict()
    elif config is LEARNING:
        wrapped.end_epoch()
    train(wrapped, batches[1:])


# ------------------------------------------------------------------ gradients that are NaN


def steep_where_told(model: nn.Module, batch: Batch) -> Tensor:
    losses = bpr(model, batch)
    return Steep.apply(losses) if "steep" in batch else losses


def steep(batch: Batch) -> Batch:
    return {**batch, "steep": torch.ones(len(batch["user"]))}


@pytest.mark.parametrize("mode", ["raise", "skip"])
@pytest.mark.parametrize("loaded", [False, True], ids=["the first", "the first after loading"])
def test_a_first_batch_with_gradients_of_nan_is_named_as_what_it_is(
    mode: Any, loaded: bool
) -> None:
    config = WATCHING.but(on_nonfinite=mode)
    wrapped = denoiser(Factors(), steep_where_told, config=config)
    batches, where = epoch(0), "batch 1 of epoch 1"
    if loaded:
        train(wrapped, batches[:1])
        state = wrapped.state_dict()
        wrapped = denoiser(Factors(), steep_where_told, config=config)
        wrapped.load_state_dict(state)
        batches, where = batches[1:], "batch 2 of epoch 1"
    before = snapshot(wrapped.model)["parameters"]
    bad = steep(batches[0])
    wrapped.before_step(bad)
    if mode == "skip":
        assert torch.isnan(wrapped.step(bad))
    else:
        with pytest.raises(
            NonFiniteError,
            match=rf"^Expected finite gradients of the model, got \d+ NaN or Inf among \d+ in "
            rf"{where}\.",
        ):
            wrapped.step(bad)
    assert_identical(snapshot(wrapped.model)["parameters"], before)
    train(wrapped, batches)


def test_after_a_first_batch_that_told_nothing_the_next_one_is_tried() -> None:
    """A model that Phase II cannot have is refused at the first batch that tells."""
    model = Factors()

    def loss_fn(given: nn.Module, batch: Batch) -> Tensor:
        return steep_where_told(model, batch)  # not the model that it is given

    wrapped = denoiser(model, loss_fn, config=WATCHING.but(on_nonfinite="skip"))
    first, second, *_ = epoch(0)
    train(wrapped, [steep(first)])
    with pytest.raises(UnsupportedModelError, match=r"^Expected the functional twin of Factors"):
        wrapped.before_step(second)


# ------------------------------------------------------------------ inference mode


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_what_is_built_in_inference_mode_trains_later(mode: Callable[[], Any]) -> None:
    found = []
    for inside in (False, True):
        context = mode() if inside else torch.enable_grad()
        with seeded(5):
            model = Factors()
            optimizer = adam(model)
            with context:
                wrapped = denoiser(model, optimizer=optimizer, config=LEARNING)
            train(wrapped, epoch(0)[:-1])
            batch = epoch(0)[-1]
            wrapped.before_step(batch)
            wrapped.weighted_loss(batch).backward()
            optimizer.step()
            with context:
                wrapped.end_epoch()
                wrapped.report()
                state = wrapped.state_dict()
            assert wrapped.phase is Phase.SELF_GUIDED
            resumed = denoiser(model, optimizer=optimizer, config=LEARNING)
            with context:
                resumed.load_state_dict(state)
                resumed.sample_weights(batch)
            train(resumed, [*epoch(1), *epoch(2)])
            found.append(everything(resumed, optimizer))
    assert_identical(found[1], found[0])


@pytest.mark.parametrize("config", [WATCHING, LEARNING], ids=["one", "two"])
def test_training_in_inference_mode_is_refused_and_can_go_on_outside(
    config: DenoiserConfig,
) -> None:
    wrapped = denoiser(Factors(), config=config)
    batches = until_learning(wrapped) if config is LEARNING else epoch(0)
    with torch.inference_mode(), pytest.raises(
        OrderError, match=r"^Expected before_step where a model can be trained, got it inside"
    ):
        wrapped.before_step(batches[0])
    wrapped.before_step(batches[0])
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), pytest.raises(
            OrderError, match=r"^Expected step with gradients, got it inside torch\.no_grad\(\) or"
        ):
            wrapped.step(batches[0])
    wrapped.step(batches[0])


# ------------------------------------------------------------------ interrupts


class Interrupter:
    """Raises KeyboardInterrupt at one line of the library; counts them if that is none."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.lines = at, 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        return self.line if frame.f_code.co_filename.startswith(LIBRARY) else None

    def line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                raise KeyboardInterrupt
        return self.line


@contextmanager
def traced(interrupter: Interrupter) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(interrupter)
    try:
        yield
    finally:
        sys.settrace(before)


def disturbed(call: Callable[[], Any], at: int) -> None:
    """The call, interrupted at a line and made again; an OrderError says that it was done."""
    try:
        with traced(Interrupter(at)):
            call()
    except KeyboardInterrupt:
        with suppress(OrderError):
            call()


def run(
    kind: str, place: int | None = None, at: int = 0, lines: dict[int, int] | None = None
) -> Any:
    """A run of two epochs, the second in Phase II, of which one call is interrupted at a line.

    With `lines`, how many lines each call has is noted there instead.
    """
    with seeded(5):
        model = Dropping() if kind == "pairwise" else Factors()
        optimizer = adam(model)
        wrapped = denoiser(
            model, bpr if kind == "pairwise" else bce, optimizer=optimizer, score_fn=score,
            config=LEARNING.but(weight_inputs=("loss", "smoothed_loss")),
        )  # fmt: skip
        batches = [b for n in range(2) for b in epoch(n, labelled=kind == "pointwise")]
        calls: list[Callable[[], Any]] = []
        for batch in batches:
            calls += [lambda b=batch: wrapped.before_step(b), lambda b=batch: wrapped.step(b)]
        calls += [wrapped.end_epoch, lambda: wrapped.load_state_dict(wrapped.state_dict())]
        for number, call in enumerate(calls):
            if lines is not None:
                counter = Interrupter()
                with traced(counter):
                    call()
                lines[number] = counter.lines
            elif number == place:
                disturbed(call, at)
            else:
                call()
        assert wrapped.phase is Phase.SELF_GUIDED
        assert len(wrapped.history) == 2
        assert all(module.training for module in model.modules())
        return everything(wrapped, optimizer)


@pytest.mark.parametrize("kind", ["pairwise", "pointwise"])
def test_a_run_interrupted_at_any_line_and_gone_on_with_ends_as_undisturbed(kind: str) -> None:
    """A draw of lines; `python -m tests.stress interrupts` tries many more."""
    lines: dict[int, int] = {}
    expected = run(kind, lines=lines)
    assert_identical(run(kind), expected)
    generator = torch.Generator().manual_seed(1)
    steps = len(epoch(0))
    last = len(lines) - 1
    # the first batch, which is tried; steps of each phase; the end of an epoch; what comes last
    for place in (0, 1, 2 * steps - 1, 2 * steps + 2, 2 * steps + 3, last - 1, last):
        for at in torch.randint(1, lines[place] + 1, (6,), generator=generator).tolist():
            found = run(kind, place, at)
            assert_identical(found, expected, f"call {place}, line {at} of {lines[place]}")


def test_a_second_optimizer_is_stepped_once_after_an_interrupt_between_the_two() -> None:
    found = []
    for interrupted in (False, True):
        model = Factors()
        optimizers = [torch.optim.Adam(p.parameters(), lr=0.1) for p in (model.user, model.item)]
        wrapped = denoiser(model, optimizer=optimizers)
        batch = epoch(0)[0]
        wrapped.before_step(batch)
        if interrupted:
            step = optimizers[1].step
            optimizers[1].step = interrupting  # type: ignore[method-assign]
            with pytest.raises(KeyboardInterrupt):
                wrapped.step(batch)
            optimizers[1].step = step  # type: ignore[method-assign]
        wrapped.step(batch)
        found.append([dict(model.state_dict()), *(one.state_dict() for one in optimizers)])
    assert_identical(found[1], found[0])


def interrupting(*_: Any) -> None:
    raise KeyboardInterrupt


def test_an_audit_is_as_undisturbed_too() -> None:
    found = []
    for interrupted in (False, True):
        with seeded(5):
            model = Dropping()
            optimizer = adam(model)
            wrapped = denoiser(model, optimizer=optimizer, config=AUDITING, score_fn=score)
            for number in range(2):
                for batch in epoch(number):
                    wrapped.before_step(batch)
                    if interrupted:
                        disturbed(partial(wrapped.step, batch), 40)
                    else:
                        wrapped.step(batch)
            found.append(everything(wrapped, optimizer))
    assert_identical(found[1], found[0])


def test_a_step_whose_gradients_are_nan_says_so_each_time() -> None:
    wrapped = denoiser(Factors(), steep_where_told, config=LEARNING.but(guidance_interval=100))
    first, *rest = until_learning(wrapped)
    bad = steep(first)
    wrapped.before_step(bad)
    for _ in range(2):
        with pytest.raises(NonFiniteError, match=r"^Expected finite gradients of the model, got"):
            wrapped.step(bad)
    train(wrapped, [first, *rest])


def test_an_interrupt_right_after_the_backward_loses_nothing() -> None:
    """Where a signal is handled that has come during the backward."""
    found = []
    for interrupted in (False, True):
        with seeded(5):
            model = Dropping()
            optimizer = adam(model)
            wrapped = denoiser(model, optimizer=optimizer, config=LEARNING)
            first, *rest = until_learning(wrapped)
            wrapped.before_step(first)
            if interrupted:
                backward = torch.autograd.backward

                def then_interrupted(*arguments: Any, **options: Any) -> None:
                    backward(*arguments, **options)  # noqa: B023
                    raise KeyboardInterrupt

                torch.autograd.backward = then_interrupted
                try:
                    with pytest.raises(KeyboardInterrupt):
                        wrapped.step(first)
                finally:
                    torch.autograd.backward = backward
            wrapped.step(first)
            train(wrapped, rest)
            found.append(everything(wrapped, optimizer))
    assert_identical(found[1], found[0])


def test_a_checkpoint_loaded_in_inference_mode_trains_on(tmp_path: Path) -> None:
    model = Dropping()
    optimizer = adam(model)
    wrapped = denoiser(model, optimizer=optimizer)
    train(wrapped, epoch(0)[:2])
    parts = {"denoiser": wrapped, "model": model, "optimizer": optimizer}
    sgdl_wrap.save_checkpoint(tmp_path / "run.pt", **parts)
    with torch.inference_mode():
        sgdl_wrap.load_checkpoint(tmp_path / "run.pt", **parts)
    train(wrapped, epoch(0)[2:])
