"""Set-ups that are odd and real: refused with a remedy, told of, or as good as any other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sgdl_wrap import (
    BatchError,
    DenoiserConfig,
    DenoiserWarning,
    LossError,
    OptimizerError,
    Phase,
    SelfGuidedDenoiser,
    StateError,
    UnsupportedModelError,
    Variants,
    load_checkpoint,
    save_checkpoint,
)
from tests.support.models_zoo import assert_identical
from tests.support.small_factors import (
    N_ITEMS,
    N_USERS,
    SOON,
    Factors,
    batches,
    bpr,
    interactions,
    made,
)

USERS, ITEMS = interactions()
Batch = tuple[Tensor, Tensor, Tensor]


def epoch(seed: int) -> list[Batch]:
    return batches(32, seed)


def adam(*modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for m in modules for p in m.parameters()], lr=0.05)


def denoiser(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor] = bpr,
    optimizer: torch.optim.Optimizer | None = None,
    **arguments: Any,
) -> SelfGuidedDenoiser:
    return SelfGuidedDenoiser(
        model, optimizer or adam(model), loss_fn, interactions=(USERS, ITEMS), n_items=N_ITEMS,
        **({"config": SOON} | arguments),
    )  # fmt: skip


def train(wrapped: SelfGuidedDenoiser, batches: list[Any]) -> None:
    for batch in batches:
        wrapped.before_step(batch)
        wrapped.step(batch)


# ------------------------------------------------------------------ models


def test_parameters_outside_the_model_are_told_of() -> None:
    users, items = nn.Embedding(N_USERS, 4), nn.Embedding(N_ITEMS, 4)

    def score(model: nn.Module, u: Tensor, i: Tensor) -> Tensor:
        return (model(u) * items(i)).sum(-1)

    with pytest.warns(DenoiserWarning, match="got 1 that belong neither to it nor to a loss"):
        denoiser(
            users, lambda model, b: -F.logsigmoid(score(model, b[0], b[1])), adam(users, items),
            score_fn=score,
        )  # fmt: skip


class Complex(Factors):
    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.ones(4, dtype=torch.complex64))


class Container(Factors):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Module()
        self.layers.scale = nn.Linear(1, 1)


class Lazy(Factors):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LazyLinear(1)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Complex, "Expected real parameters, got torch.complex64 in 'filter'"),
        (Container, "got a bare nn.Module as submodule 'layers'"),
        (Lazy, "got 'head.weight' of a lazy module. Call the model once"),
    ],
)
def test_models_without_a_functional_twin_are_refused_at_once(
    kind: type[nn.Module], sentence: str
) -> None:
    model = kind()
    learned = [p for p in model.parameters() if not isinstance(p, nn.UninitializedParameter)]
    with pytest.raises(UnsupportedModelError, match=sentence):
        denoiser(model, optimizer=torch.optim.Adam(learned))


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # of another kind from torch 2.14 on
def test_a_script_module_is_refused_as_one() -> None:
    model = Factors()
    traced = torch.jit.trace(model, (USERS[:2], ITEMS[:2]))
    with pytest.raises(UnsupportedModelError, match="got a ScriptModule as the model"):
        denoiser(traced, optimizer=adam(model))


class Checkpointed(Factors):
    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        found = self.user(users), self.item(items)
        if not torch.is_grad_enabled():
            return (found[0] * found[1]).sum(-1)
        return checkpoint(lambda u, i: (u * i).sum(-1), *found, use_reentrant=True)


def test_what_autograd_cannot_differentiate_is_refused_with_a_remedy() -> None:
    with pytest.raises(UnsupportedModelError, match="checkpoint with use_reentrant=False"):
        train(denoiser(Checkpointed()), epoch(0)[:1])


def test_a_hook_that_changes_gradients_is_named() -> None:
    model = Factors()
    model.user.weight.register_hook(lambda gradient: gradient.clamp(-1e-9, 1e-9))
    named = "It has a hook that changes its gradient, which has no place"
    with pytest.raises(UnsupportedModelError, match=named):
        train(denoiser(model), epoch(0)[:1])


class Counting(Factors):
    """Counts its calls in a buffer, whatever its mode, and anneals by them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        self.calls += 1
        scores: Tensor = super().forward(users, items) * (self.calls / 200).clamp(max=1.0)
        return scores


class CountingInPlace(Counting):
    """Writes past autograd's notice, and reads a buffer that nobody writes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(4))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        self.calls.data.add_(1)
        return (self.user(users) * self.item(items) * self.temperature).sum(-1)


class CountingAndReading(CountingInPlace):
    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        self.calls += 1
        return (self.user(users) * self.item(items) * self.temperature).sum(-1)


def test_buffers_that_a_graph_needs_are_not_written_to_by_scoring() -> None:
    def bce(model: nn.Module, batch: Any) -> Tensor:
        users, items, labels = batch
        return F.binary_cross_entropy_with_logits(model(users, items), labels, reduction="none")

    wrapped = denoiser(made(CountingAndReading), bce)
    for number in range(6):
        for users, items, negatives in epoch(number):
            labels = torch.cat([torch.ones(len(users)), torch.zeros(len(users))])
            train(wrapped, [(users.repeat(2), torch.cat([items, negatives]), labels)])
    assert wrapped.phase is Phase.SELF_GUIDED


def test_losses_aside_are_watched_apart_from_scores() -> None:
    model = made(Counting)
    wrapped = denoiser(model, score_fn=lambda m, u, i: (m.user(u) * m.item(i)).sum(-1))
    before = model.calls.clone()
    for _ in range(2):
        wrapped.sample_weights(epoch(0)[0])
    assert torch.equal(model.calls, before)


@pytest.mark.parametrize("chunk", [2**18, 64])
@pytest.mark.parametrize("kind", [Counting, CountingInPlace, CountingAndReading])
def test_a_buffer_that_scoring_writes_is_as_in_the_plain_loop(
    chunk: int, kind: type[nn.Module]
) -> None:
    model, plain = made(kind), made(kind)
    config = DenoiserConfig(history_length=10, ranking_chunk=chunk)
    wrapped = denoiser(model, config=config)
    optimizer = adam(plain)
    for number in range(3):
        train(wrapped, epoch(number))
        for batch in epoch(number):
            optimizer.zero_grad()
            bpr(plain, batch).mean().backward()
            optimizer.step()
    assert model.calls == plain.calls > 0
    assert_identical(model.state_dict(), plain.state_dict())


class Bags(nn.Module):
    """Has no second derivative, which audit_only does not ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.EmbeddingBag(N_USERS, 4), nn.Embedding(N_ITEMS, 4)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.user(users[:, None]) * self.item(items)).sum(-1)


def test_an_audit_asks_nothing_of_the_loss_that_it_does_not_need() -> None:
    with pytest.raises(UnsupportedModelError, match="Expected a loss that can be differentiated"):
        train(denoiser(Bags()), epoch(0)[:1])
    wrapped = denoiser(Bags(), config=DenoiserConfig(history_length=1, audit_only=True))
    for number in range(3):
        train(wrapped, epoch(number))
    assert wrapped.phase is Phase.MEMORIZATION
    assert np.isfinite(np.asarray(wrapped.report()["suspicion"])).any()


def test_an_audit_tries_the_loss_on_its_example() -> None:
    audit = DenoiserConfig(history_length=1, audit_only=True)
    with pytest.raises(LossError, match="got a scalar"):
        denoiser(
            Factors(), lambda model, batch: bpr(model, batch).mean(), config=audit,
            example_batch=epoch(0)[0],
        )  # fmt: skip


def test_an_audit_refuses_a_first_batch_of_strangers() -> None:
    wrapped = denoiser(Factors(), config=DenoiserConfig(history_length=1, audit_only=True))
    known = set(zip(USERS.tolist(), ITEMS.tolist(), strict=True))
    items = torch.tensor([i for i in range(N_ITEMS) if (0, i) not in known])
    strange = (torch.zeros_like(items), items, items)
    with pytest.raises(BatchError):
        wrapped.before_step(strange)


# ------------------------------------------------------------------ optimizers


class Sharp(torch.optim.SGD):
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        return closure()


def test_an_optimizer_that_requires_a_closure_is_refused() -> None:
    model = Factors()
    with pytest.raises(OptimizerError, match="steps without a closure, got Sharp"):
        denoiser(model, optimizer=Sharp(model.parameters(), lr=0.1))


def psi(wrapped: SelfGuidedDenoiser) -> Tensor:
    learner: dict[str, Any] = wrapped.state_dict()["self_guided"]["learner"]
    hidden: Tensor = learner["weighting"]["hidden.weight"]
    return hidden.clone()


def test_a_first_group_that_stands_still_does_not_switch_guidance_off() -> None:
    model = made(Factors)
    groups = [
        {"params": model.user.parameters(), "lr": 0.0},
        {"params": model.item.parameters(), "lr": 0.05},
    ]
    wrapped = denoiser(model, optimizer=torch.optim.Adam(groups))
    for number in range(2):
        train(wrapped, epoch(number))
    assert wrapped.phase is Phase.SELF_GUIDED
    before = psi(wrapped)
    for number in range(2, 8):
        train(wrapped, epoch(number))
    after = psi(wrapped)
    assert not torch.allclose(before, after)


def test_gradients_may_be_off_around_before_step_in_phase_i() -> None:
    wrapped = denoiser(Factors())
    batch = epoch(0)[0]
    with torch.no_grad():
        wrapped.before_step(batch)
    wrapped.step(batch)


# ------------------------------------------------------------------ batches


def with_more(batch: Batch, **more: Any) -> dict[str, Any]:
    return dict(zip(("user", "item", "negative"), batch, strict=True)) | more


def named(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    return bpr(model, (batch["user"], batch["item"], batch["negative"]))


def pairs(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return batch["user"], batch["item"]


@pytest.mark.parametrize(
    "more",
    [
        lambda n, seed: {"genres": [[1] * (1 + (k + seed) % 3) for k in range(n)]},
        lambda n, seed: {"title": [f"t{k}" for k in range(n)]},
        lambda n, seed: {"title": list(np.array([f"t{k}" for k in range(n)]))},
        lambda n, seed: {"rows": [torch.ones(1 + k % 2) for k in range(n)]},
        lambda n, seed: {"title": np.array([f"t{k}" for k in range(n)])},
    ],
    ids=["ragged", "strings", "numpy strings", "tensors", "text array"],
)
def test_batches_with_lists_and_text_are_resumed(tmp_path: Any, more: Callable[..., Any]) -> None:
    def of_epoch(seed: int) -> list[dict[str, Any]]:
        return [with_more(b, **more(len(b[0]), seed)) for b in epoch(seed)]

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer, SelfGuidedDenoiser]:
        model = made(Factors)
        optimizer = adam(model)
        return model, optimizer, denoiser(model, named, optimizer, pair_fn=pairs)

    model, optimizer, wrapped = fresh()
    train(wrapped, of_epoch(0))
    train(wrapped, of_epoch(1))
    train(wrapped, of_epoch(2)[:2])
    assert wrapped.phase is Phase.SELF_GUIDED
    save_checkpoint(tmp_path / "c.pt", denoiser=wrapped, model=model, optimizer=optimizer)
    model_2, optimizer_2, resumed = fresh()
    load_checkpoint(tmp_path / "c.pt", denoiser=resumed, model=model_2, optimizer=optimizer_2)
    small = [{name: value[:3] for name, value in b.items()} for b in of_epoch(3)]
    for run in (wrapped, resumed):
        train(run, small)
    assert_identical(model.state_dict(), model_2.state_dict())


@pytest.mark.parametrize("inside", [{1, 2}, np.array([object()]), [[[[[1]]]]]])
def test_a_batch_that_no_state_can_hold_is_told_of_at_once(inside: Any) -> None:
    wrapped = denoiser(Factors(), named, pair_fn=pairs)
    with pytest.warns(DenoiserWarning, match=r"state_dict\(\) will fail once Phase II has begun"):
        wrapped.before_step(with_more(epoch(0)[0], inside=inside))


def test_what_is_never_stored_is_not_told_of() -> None:
    variants = Variants(denoising_learning=False)
    config = DenoiserConfig(history_length=1, noise_rate=0.9, variants=variants)
    wrapped = denoiser(Factors(), named, pair_fn=pairs, config=config)
    for number in range(2):
        train(wrapped, [with_more(batch, inside={1, 2}) for batch in epoch(number)])
    assert wrapped.phase is Phase.SELF_GUIDED
    wrapped.state_dict()


def test_a_list_of_fewer_columns_may_come_after_the_state_was_loaded() -> None:
    def loss_fn(model: nn.Module, batch: list[Tensor]) -> Tensor:
        return -F.logsigmoid(model(batch[0], batch[1]))

    wrapped = denoiser(Factors(), loss_fn)
    for number in range(2):
        train(wrapped, [list(batch) for batch in epoch(number)])
    resumed = denoiser(Factors(), loss_fn)
    resumed.load_state_dict(wrapped.state_dict())
    before = psi(resumed)
    train(resumed, [list(batch)[:2] for batch in epoch(3)])
    assert not torch.equal(psi(resumed), before)


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    user: Tensor
    item: Tensor
    negative: Tensor


def test_objects_with_slots_are_copied_and_resumed() -> None:
    def loss_fn(model: nn.Module, batch: Slotted) -> Tensor:
        return bpr(model, (batch.user, batch.item, batch.negative))

    def run(reuse: bool) -> tuple[nn.Module, SelfGuidedDenoiser]:
        model = made(Factors)
        wrapped = denoiser(model, loss_fn, pair_fn=lambda batch: (batch.user, batch.item))
        for number in range(4):
            for batch in epoch(number):
                held = Slotted(*(column.clone() for column in batch))
                train(wrapped, [held])
                if reuse:  # as a loader that fills the same memory again
                    for column in (held.user, held.item, held.negative):
                        column.zero_()
        return model, wrapped

    (fresh, wrapped), (reused, _) = run(False), run(True)
    assert_identical(fresh.state_dict(), reused.state_dict())
    other = denoiser(
        made(Factors), loss_fn, pair_fn=lambda batch: (batch.user, batch.item)
    )
    other.load_state_dict(wrapped.state_dict())
    train(other, [Slotted(*batch) for batch in epoch(9)])


def test_the_layout_of_a_long_list_is_told_in_a_few_words() -> None:
    wrapped = denoiser(Factors())
    with pytest.raises(BatchError) as caught:
        wrapped.before_step([(1, 2, 3)] * 4096)
    assert len(str(caught.value)) < 1000


def test_numbers_of_numpy_are_saved_wherever_they_are(tmp_path: Any) -> None:
    save_checkpoint(tmp_path / "c.pt", metrics={"ndcg": np.float64(0.3), "curve": [np.int64(2)]})
    assert load_checkpoint(tmp_path / "c.pt") == {"metrics": {"ndcg": 0.3, "curve": [2]}}
    with pytest.raises(StateError):
        save_checkpoint(tmp_path / "d.pt", metrics={"array": np.zeros(2)})
