"""What a model and a loss keep beside parameters is as in plain training, and streams are, too."""

from __future__ import annotations

import random
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sgdl_wrap import DenoiserConfig, LossError, Phase, UnsupportedModelError
from tests.promises.runs import (
    AUDITING,
    LEARNING,
    N_ITEMS,
    WATCHING,
    Batch,
    Factors,
    bce,
    bpr,
    denoiser,
    epoch,
    epochs,
    train,
    train_plainly,
    users_streams,
)
from tests.support.models_zoo import assert_identical, seeded, snapshot
from tests.support.spy import Spy

PASSES = 3
STEPS = PASSES * len(epoch(0))

# ------------------------------------------------------------------ models that keep something


class Kept(Factors):
    """Scales its scores by what it has kept so far, and keeps more."""

    def more(self) -> float:
        raise NotImplementedError

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return super().forward(users, items) * (1 + 0.01 * self.more())


class InTensor(Kept):
    def __init__(self) -> None:
        super().__init__()
        self.count = torch.zeros(())  # no buffer

    def more(self) -> float:
        self.count += 1
        return float(self.count)


class InList(Kept):
    def __init__(self) -> None:
        super().__init__()
        self.count: Any = []

    def more(self) -> float:
        self.count.append(1)
        return len(self.count)


class InDeque(InList):
    def __init__(self) -> None:
        super().__init__()
        self.count = deque()


class InDict(Kept):
    def __init__(self) -> None:
        super().__init__()
        self.count = Counter()

    def more(self) -> float:
        self.count["calls"] += 1
        return self.count["calls"]


class InSet(Kept):
    def __init__(self) -> None:
        super().__init__()
        self.count: set[int] = set()

    def more(self) -> float:
        self.count.add(len(self.count))
        return len(self.count)


class InArray(Kept):
    def __init__(self) -> None:
        super().__init__()
        self.count = np.zeros(1)

    def more(self) -> float:
        self.count[0] += 1
        return float(self.count[0])


class Memory:
    def __init__(self) -> None:
        self.inner = {"count": 0}


class InObject(Kept):
    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()

    @property
    def count(self) -> int:
        return self.memory.inner["count"]

    def more(self) -> float:
        self.memory.inner["count"] += 1
        return self.count


class OwnGenerator(Kept):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(1)

    @property
    def count(self) -> Any:
        return self.generator.get_state()

    def more(self) -> float:
        return float(torch.rand((), generator=self.generator))


class OwnNumpyGenerator(Kept):
    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(1)

    @property
    def count(self) -> Any:
        return self.generator.bit_generator.state

    def more(self) -> float:
        return float(self.generator.random())


class OwnRandom(Kept):
    def __init__(self) -> None:
        super().__init__()
        self.generator = random.Random(1)

    @property
    def count(self) -> Any:
        return self.generator.getstate()

    def more(self) -> float:
        return self.generator.random()


class LateBuffer(Kept):
    """An evaluation writes to a buffer from the second pass on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("steps", torch.zeros(1))

    def more(self) -> float:
        if self.training:
            self.steps += 1
        elif self.steps > len(epoch(0)) + 2:
            self.count += 1
        return float(self.count)


MODELS = [
    InTensor, InList, InDeque, InDict, InSet, InArray, InObject, OwnGenerator, OwnNumpyGenerator,
    OwnRandom, LateBuffer,
]  # fmt: skip


@pytest.mark.parametrize("config", [WATCHING, AUDITING], ids=["phase one", "audit"])
@pytest.mark.parametrize("kind", MODELS)
def test_watched_a_model_that_keeps_something_trains_as_in_the_plain_loop(
    kind: type[Any], config: DenoiserConfig
) -> None:
    plain, watched = kind(), kind()
    train_plainly(plain, bpr, epochs(PASSES))
    wrapped = denoiser(watched, config=config)
    for batches in epochs(PASSES):
        train(wrapped, batches)
        wrapped.sample_weights(batches[0])
    wrapped.report()
    assert wrapped.phase is Phase.MEMORIZATION
    assert len(wrapped.history) == PASSES
    assert_identical(dict(watched.state_dict()), dict(plain.state_dict()))
    assert_identical(watched.count, plain.count)


@pytest.mark.parametrize("kind", MODELS)
def test_in_phase_two_a_model_keeps_what_its_own_steps_have_brought(kind: type[Any]) -> None:
    """Twice per step: a pair has two scores."""
    plain, guided = kind(), kind()
    train_plainly(plain, bpr, epochs(PASSES))
    wrapped = denoiser(guided, config=LEARNING)
    for batches in epochs(PASSES):
        train(wrapped, batches)
    assert wrapped.phase is Phase.SELF_GUIDED
    assert_identical(guided.count, plain.count)


# ------------------------------------------------------------------ losses that count


def flat_at_first(calls: int) -> float:
    return 1 + 0.01 * max(0, calls - 9)


def with_closure() -> tuple[Callable[..., Tensor], Callable[[], int]]:
    calls = 0

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        return bpr(model, batch) * flat_at_first(calls)

    return loss, lambda: calls


def with_list() -> tuple[Callable[..., Tensor], Callable[[], int]]:
    calls: list[int] = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        calls.append(1)
        return bpr(model, batch) * flat_at_first(len(calls))

    return loss, lambda: len(calls)


def with_attribute() -> tuple[Callable[..., Tensor], Callable[[], int]]:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        loss.calls += 1  # type: ignore[attr-defined]
        return bpr(model, batch) * flat_at_first(loss.calls)  # type: ignore[attr-defined]

    loss.calls = 0  # type: ignore[attr-defined]
    return loss, lambda: loss.calls  # type: ignore[attr-defined]


def with_default() -> tuple[Callable[..., Tensor], Callable[[], int]]:
    kept = {"calls": 0}

    def loss(model: nn.Module, batch: Batch, kept: dict[str, int] = kept) -> Tensor:
        kept["calls"] += 1
        return bpr(model, batch) * flat_at_first(kept["calls"])

    return loss, lambda: kept["calls"]


CALLS = 0


def counting_globally(model: nn.Module, batch: Batch) -> Tensor:
    global CALLS
    CALLS += 1
    return bpr(model, batch) * flat_at_first(CALLS)


def with_global() -> tuple[Callable[..., Tensor], Callable[[], int]]:
    global CALLS
    CALLS = 0
    return counting_globally, lambda: CALLS


class Annealed:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        self.calls += 1
        return bpr(model, batch) * flat_at_first(self.calls)

    def scaled(self, scale: float, model: nn.Module, batch: Batch) -> Tensor:
        return scale * self(model, batch)


def with_object() -> tuple[Callable[..., Tensor], Callable[[], int]]:
    loss = Annealed()
    return loss, lambda: loss.calls


def with_method() -> tuple[Callable[..., Tensor], Callable[[], int]]:
    loss = Annealed()
    return loss.__call__, lambda: loss.calls


def with_partial() -> tuple[Callable[..., Tensor], Callable[[], int]]:
    loss = Annealed()
    return partial(loss.scaled, 1.0), lambda: loss.calls


class AnnealedModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        self.calls += 1
        return bpr(model, batch) * flat_at_first(self.calls)


def with_module() -> tuple[Callable[..., Tensor], Callable[[], int]]:
    loss = AnnealedModule()
    return loss, lambda: loss.calls


LOSSES = [
    with_closure, with_list, with_attribute, with_default, with_global, with_object, with_method,
    with_partial, with_module,
]  # fmt: skip


@pytest.mark.parametrize("config", [WATCHING, AUDITING, LEARNING], ids=["one", "audit", "two"])
@pytest.mark.parametrize("made", LOSSES)
def test_a_loss_that_counts_counts_steps(
    made: Callable[[], tuple[Callable[..., Tensor], Callable[[], int]]], config: DenoiserConfig
) -> None:
    plain, model = Factors(), Factors()
    loss_fn, _ = made()
    train_plainly(plain, loss_fn, epochs(PASSES))
    loss_fn, calls = made()
    wrapped = denoiser(model, loss_fn, config=config)
    for batches in epochs(PASSES):
        train(wrapped, batches)
        wrapped.sample_weights(batches[0])
    assert calls() == STEPS
    if config is not LEARNING:
        assert_identical(dict(model.state_dict()), dict(plain.state_dict()))


# ------------------------------------------------------------------ streams


def drawing_for_few(model: nn.Module, batch: Batch) -> Tensor:
    """Draws for small batches alone: not for the first one, but for a part of it."""
    losses = bpr(model, batch)
    if len(losses) < 50:
        losses = losses * (1 + 0.1 * np.random.rand() + 0.1 * random.random())  # noqa: NPY002
    return losses


class DrawingLate:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        self.calls += 1
        losses = bpr(model, batch)
        return losses * (1 + 0.1 * np.random.rand()) if self.calls > 6 else losses  # noqa: NPY002


def drawing_score(model: nn.Module, users: Tensor, items: Tensor) -> Tensor:
    return model(users, items) + 1e-3 * np.random.rand() + 1e-3 * random.random()  # noqa: NPY002


def drawing_pairs(batch: Batch) -> tuple[Tensor, ...]:
    np.random.rand()  # noqa: NPY002
    random.random()
    torch.rand(3)
    return tuple(batch[key] for key in ("user", "item", "label") if key in batch)


@pytest.mark.parametrize("config", [WATCHING, AUDITING, LEARNING], ids=["one", "audit", "two"])
@pytest.mark.parametrize(
    ("made", "labelled", "more"),
    [
        (lambda: drawing_for_few, False, {}),
        (DrawingLate, False, {}),
        (lambda: bpr, False, {"score_fn": drawing_score}),
        (lambda: bce, True, {"score_fn": drawing_score}),
        (lambda: bpr, False, {"pair_fn": drawing_pairs}),
    ],
    ids=["for small batches", "late", "scores", "scores of negatives", "pairs"],
)
def test_the_users_streams_stand_where_the_plain_loop_leaves_them(
    made: Callable[[], Any], labelled: bool, more: dict[str, Any], config: DenoiserConfig
) -> None:
    with seeded(11):
        train_plainly(Factors(), made(), epochs(PASSES, labelled=labelled))
        expected = users_streams()
    with seeded(11):
        wrapped = denoiser(Factors(), made(), config=config, **more)
        for batches in epochs(PASSES, labelled=labelled):
            train(wrapped, batches)
            wrapped.sample_weights(batches[0])
        assert users_streams() == expected


# ------------------------------------------------------------------ what is refused


def smoothing_in_place(model: nn.Module, batch: Batch) -> Tensor:
    batch["label"] *= 0.9
    return bce(model, batch)


def smoothing_an_array(model: nn.Module, batch: Any) -> Tensor:
    batch["label"][:] = 0.9 * batch["label"]
    return bce(model, {name: torch.as_tensor(column) for name, column in batch.items()})


@pytest.mark.parametrize("arrays", [False, True], ids=["tensors", "arrays"])
def test_a_loss_that_writes_to_its_batch_is_told_so_and_the_batch_is_as_it_was(
    arrays: bool,
) -> None:
    batch: Any = epoch(0, labelled=True)[0]
    loss_fn, kind = smoothing_in_place, r"torch\.float32"
    if arrays:
        batch = {name: column.numpy().copy() for name, column in batch.items()}
        loss_fn, kind = smoothing_an_array, "float32"
    before = {name: torch.as_tensor(column).tolist() for name, column in batch.items()}
    wrapped = denoiser(Factors(), loss_fn)
    with pytest.raises(
        LossError,
        match=rf"^Expected loss_fn to leave its batch as it is, got {kind} of shape \(100,\) in "
        r"the first batch written to in place, which every evaluation of the batch would do "
        r"again\. Make a new tensor: labels = 0\.9 \* labels, not labels \*= 0\.9\.$",
    ):
        wrapped.before_step(batch)
    assert {name: torch.as_tensor(column).tolist() for name, column in batch.items()} == before


def test_a_loss_that_begins_to_write_to_its_batch_is_told_so_before_it_guides() -> None:
    late = [False]

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        return smoothing_in_place(model, batch) if late[0] else bce(model, batch)

    wrapped = denoiser(Factors(), loss_fn, config=LEARNING)
    train(wrapped, epoch(0, labelled=True))
    late[0] = True
    batch = epoch(1, labelled=True)[0]
    with pytest.raises(LossError, match=r"^Expected loss_fn to leave its batch as it is, got"):
        wrapped.before_step(batch)
    late[0] = False
    train(wrapped, epoch(1, labelled=True))


def test_an_audit_lets_a_loss_write_to_its_batch() -> None:
    """It is called on it once, as in plain training."""
    plain, model = Factors(), Factors()
    train_plainly(plain, smoothing_in_place, epochs(1, labelled=True))
    train(denoiser(model, smoothing_in_place, config=AUDITING), epoch(0, labelled=True))
    assert_identical(dict(model.state_dict()), dict(plain.state_dict()))


def popping(model: nn.Module, batch: Batch) -> Tensor:
    label = batch.pop("label")
    return bce(model, {**batch, "label": label})


@pytest.mark.parametrize(
    "config",
    [WATCHING, AUDITING, LEARNING, LEARNING.but(similarity="paper")],  # it looks at guidance twice
    ids=["one", "audit", "two", "paper"],
)
def test_a_loss_may_take_its_target_out_of_the_batch(config: DenoiserConfig) -> None:
    """Each call of the denoiser's has containers of its own; the user's own is changed once."""
    models = []
    for loss_fn in (bce, popping):
        models.append(Factors())
        wrapped = denoiser(models[-1], loss_fn, config=config)
        for batches in epochs(PASSES, labelled=True):
            train(wrapped, batches)
            assert all(("label" in batch) is (loss_fn is bce) for batch in batches)
        wrapped.sample_weights(epoch(0, labelled=True)[0])
    assert_identical(dict(models[0].state_dict()), dict(models[1].state_dict()))


class WithTarget(Factors):
    def __init__(self) -> None:
        super().__init__()
        self.target = nn.Embedding(N_ITEMS, 4).requires_grad_(False)


def following(target: nn.Module, source: nn.Module) -> None:
    with torch.no_grad():
        for p, q in zip(target.parameters(), source.parameters(), strict=True):
            p.mul_(0.9).add_(q, alpha=0.1)


def test_a_momentum_target_that_the_loss_updates_is_named() -> None:
    def loss_fn(model: Any, batch: Batch) -> Tensor:
        following(model.target, model.item)
        return bpr(model, batch)

    model = WithTarget()
    before = snapshot(model)
    with pytest.raises(
        UnsupportedModelError,
        match=r"^Expected loss_fn to read parameters, got 'target\.weight' written to\. Update a "
        "momentum target, or clip weights, in your loop, after the step",
    ):
        denoiser(model, loss_fn).before_step(epoch(0)[0])
    assert_identical(snapshot(model), before)


def test_a_momentum_target_in_a_closure_is_named() -> None:
    target = nn.Embedding(N_ITEMS, 4).requires_grad_(False)
    before = target.weight.clone()

    def loss_fn(model: Any, batch: Batch) -> Tensor:
        following(target, model.item)
        return bpr(model, batch)

    with pytest.raises(UnsupportedModelError, match=r"got 'loss_fn\.target\.weight' written to"):
        denoiser(Factors(), loss_fn).before_step(epoch(0)[0])
    assert torch.equal(target.weight, before)


class LargeLate(Factors):
    def __init__(self) -> None:
        super().__init__()
        self.late = False
        self.register_buffer("table", torch.zeros(100_000))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        if self.late and not self.training:
            self.table += 1
        return super().forward(users, items)


@pytest.mark.parametrize("config", [WATCHING, AUDITING], ids=["phase one", "audit"])
def test_a_large_buffer_that_scoring_begins_to_write_to_stops_the_run(
    config: DenoiserConfig,
) -> None:
    model = LargeLate()
    wrapped = denoiser(model, config=config)
    train(wrapped, epoch(0))
    model.late = True
    with pytest.raises(
        UnsupportedModelError,
        match=r"^Expected scores to be taken without a trace, got 'table' written to, of which "
        "there is no copy",
    ):
        train(wrapped, epoch(1))


def test_a_large_buffer_that_scoring_writes_to_from_the_start_is_put_back() -> None:
    model = LargeLate()
    model.late = True
    wrapped = denoiser(model)
    for batches in epochs(PASSES):
        train(wrapped, batches)
    assert len(wrapped.history) == PASSES
    assert model.table.eq(0).all()


# ------------------------------------------------------------------ what is left alone


class Trainer:
    """A large object of the user's whose method is the loss, and on which a thread works."""

    def __init__(self, step_of_a_thread: Callable[[Any], None]) -> None:
        self.calls = 0
        self.histories = {user: list(range(100)) for user in range(2_000)}
        self.arrived: list[int] = []
        self._thread = step_of_a_thread

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self._tick()
        self._thread(self)
        return bpr(model, batch) * flat_at_first(self.calls)

    def _tick(self) -> None:
        self.calls += 1


def arrives(trainer: Any) -> None:
    """What the loss itself does not name; run within it, to be sure of the moment."""
    vars(trainer)["arrived"].append(1)


def test_of_the_users_object_only_what_the_loss_names_is_put_back() -> None:
    seen = Spy()

    def counting(trainer: Any) -> None:
        seen.note(1)
        arrives(trainer)

    trainer = Trainer(counting)
    wrapped = denoiser(Factors(), trainer.loss, config=LEARNING)
    for batches in epochs(PASSES):
        train(wrapped, batches)
    assert trainer.calls == STEPS
    assert len(trainer.arrived) == len(seen) > STEPS


class LongLog(Kept):
    """A list and a dict that are too long to be copied, and grow."""

    def __init__(self) -> None:
        super().__init__()
        self.log = [0] * 10_000
        self.table = dict.fromkeys(range(10_000), 0)

    @property
    def count(self) -> Any:
        return self.log, self.table

    def more(self) -> float:
        self.log.append(len(self.log))
        self.table[len(self.table)] = 1
        return len(self.log) - 10_000


def test_a_long_list_that_grows_is_cut_back() -> None:
    plain, watched = LongLog(), LongLog()
    train_plainly(plain, bpr, epochs(PASSES))
    wrapped = denoiser(watched)
    for batches in epochs(PASSES):
        train(wrapped, batches)
    assert watched.count == plain.count
    assert_identical(dict(watched.state_dict()), dict(plain.state_dict()))


FORWARDS = 0


class InGlobal(Kept):
    @property
    def count(self) -> int:
        return FORWARDS

    def more(self) -> float:
        global FORWARDS
        FORWARDS += 1
        return FORWARDS


def test_a_global_that_forward_counts_in_counts_steps() -> None:
    global FORWARDS
    for config in (WATCHING, AUDITING, LEARNING):
        FORWARDS = 0
        wrapped = denoiser(InGlobal(), config=config)
        for batches in epochs(PASSES):
            train(wrapped, batches)
        assert FORWARDS == 2 * STEPS  # a pair has two scores


class Large(Kept):
    """More than is copied at each evaluation, and changed from the first on."""

    def __init__(self) -> None:
        super().__init__()
        self.array, self.table = np.zeros(100_000), dict.fromkeys(range(10_000), 0)
        self.rows = [torch.zeros(1) for _ in range(200)]

    @property
    def count(self) -> Any:
        return float(self.array[0]), self.table[0], float(self.rows[150])

    def more(self) -> float:
        self.array[0] += 1
        self.table[0] += 1
        self.rows[150] += 1
        return self.table[0]


@pytest.mark.parametrize("config", [WATCHING, AUDITING], ids=["one", "audit"])
def test_what_is_large_and_changed_from_the_first_evaluation_on_is_put_back(
    config: DenoiserConfig,
) -> None:
    plain, watched = Large(), Large()
    train_plainly(plain, bpr, epochs(PASSES))
    wrapped = denoiser(watched, config=config)
    for batches in epochs(PASSES):
        train(wrapped, batches)
    assert watched.count == plain.count
    assert_identical(dict(watched.state_dict()), dict(plain.state_dict()))


def test_a_late_write_that_was_refused_is_put_back_when_the_call_is_made_again() -> None:
    model = LargeLate()
    wrapped = denoiser(model, explicit_epochs=True)
    train(wrapped, epoch(0))
    wrapped.end_epoch()
    train(wrapped, epoch(1))
    model.late = True
    with pytest.raises(UnsupportedModelError, match="got 'table' written to"):
        wrapped.end_epoch()
    written = model.table.clone()
    wrapped.end_epoch()
    assert torch.equal(model.table, written)


# ------------------------------------------------------------------ what is made on the first call


def made_in_attribute() -> Callable[..., Tensor]:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        losses = bpr(model, batch)
        if not hasattr(loss, "scale"):
            loss.scale = losses.detach().mean()  # type: ignore[attr-defined]
        return losses / loss.scale  # type: ignore[attr-defined]

    return loss


def made_in_global() -> Callable[..., Tensor]:
    globals().pop("SCALE", None)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        global SCALE
        losses = bpr(model, batch)
        if "SCALE" not in globals():
            SCALE = losses.detach().mean()
        return losses / SCALE

    return loss


def made_in_cell() -> Callable[..., Tensor]:
    def outer() -> Callable[..., Tensor]:
        def loss(model: nn.Module, batch: Batch) -> Tensor:
            nonlocal scale
            losses = bpr(model, batch)
            try:
                known = scale
            except NameError:
                known = scale = losses.detach().mean()
            return losses / known

        if False:
            scale = torch.ones(())  # a name of this function's, without a value
        return loss

    return outer()


def made_in_namespace() -> Callable[..., Tensor]:
    kept = SimpleNamespace(scale=None)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        losses = bpr(model, batch)
        if kept.scale is None:
            kept.scale = losses.detach().mean()
        return losses / kept.scale

    return loss


class Hooked(Factors):
    """A forward hook that takes its scale from the first data that it sees."""

    def __init__(self) -> None:
        super().__init__()
        scale: list[Tensor] = []

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            if not scale:
                scale.append(output.detach().std())
            return output / scale[0]

        self.register_forward_hook(hook)


@pytest.mark.parametrize("config", [WATCHING, AUDITING], ids=["one", "audit"])
@pytest.mark.parametrize(
    ("kind", "made"),
    [
        (Factors, made_in_attribute),
        (Factors, made_in_global),
        (Factors, made_in_cell),
        (Factors, made_in_namespace),
        (Hooked, lambda: bpr),
    ],
    ids=["attribute", "global", "cell", "namespace", "hook"],
)
def test_what_is_made_at_the_first_call_is_made_of_the_users_own_call(
    kind: type[Any], made: Callable[[], Any], config: DenoiserConfig
) -> None:
    plain, watched = kind(), kind()
    train_plainly(plain, made(), epochs(PASSES))
    wrapped = denoiser(watched, made(), config=config)
    for batches in epochs(PASSES):
        train(wrapped, batches)
    assert_identical(dict(watched.state_dict()), dict(plain.state_dict()))


class Recent(OrderedDict[Any, Any]):
    """The recipe of Python's manual: what is looked up moves to the end."""

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        self.move_to_end(key)
        return value


class Lazy:
    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise ConnectionError("not connected")


class Dead:
    pass


def test_ordinary_objects_that_will_not_be_looked_into_are_no_matter() -> None:
    recent, gone = Recent({number: number for number in range(20)}), Dead()
    proxy, lazy = weakref.proxy(gone), Lazy()
    del gone

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        recent[3]
        held = [proxy, lazy]  # names of the closure
        assert len(held) == 2
        return bpr(model, batch)

    model = Factors()
    model.resized = torch.zeros(0)
    wrapped = denoiser(model, loss, score_fn=resizing, config=LEARNING)
    for batches in epochs(2):
        train(wrapped, batches)
    assert model.resized.shape == (0,)


def resizing(model: Any, users: Tensor, items: Tensor) -> Tensor:
    model.resized.resize_(len(users)).fill_(1.0)
    return model(users, items)
