"""Ways of training that users bring along: as without the denoiser in Phase I, sound in Phase II.

Each is one loop, written once, that takes the loss of a batch from the plain model or from the
denoiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from sgdl_wrap import DenoiserConfig, Phase, SelfGuidedDenoiser
from tests.support.models_zoo import assert_identical, seeded, snapshot

N_USERS, N_ITEMS, EPOCHS = 20, 30, 4
Batch = Any
LossOf = Callable[[Batch], Tensor]
Loop = Callable[[LossOf, nn.Module, list[Optimizer], Iterable[Batch]], None]


class Factors(nn.Module):
    def __init__(self, *, sparse: bool = False, tied: bool = False) -> None:
        super().__init__()
        self.user = nn.Embedding(N_USERS, 4, sparse=sparse)
        self.item = nn.Embedding(N_ITEMS, 4, sparse=sparse)
        self.top = nn.Linear(4, 4, bias=False)
        if tied:
            self.again = nn.Embedding(N_ITEMS, 4)
            self.again.weight = self.item.weight

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        last = self.again if hasattr(self, "again") else self.item
        return (self.top(self.user(users) + self.item(items)) * last(items)).sum(-1)


def bpr(model: nn.Module, batch: Batch) -> Tensor:
    users, positives, negatives = batch
    return F.softplus(model(users, negatives) - model(users, positives))


def bpr_autocast(model: nn.Module, batch: Batch) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return bpr(model, batch).float()


CELLS = torch.randperm(N_USERS * N_ITEMS, generator=torch.Generator().manual_seed(0))[:160]
USERS, ITEMS = CELLS.sort().values // N_ITEMS, CELLS.sort().values % N_ITEMS


def in_lists(epoch: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(epoch)
    rows = torch.randperm(len(USERS), generator=generator).split(40)
    return [
        (USERS[r], ITEMS[r], torch.randint(N_ITEMS, (len(r),), generator=generator)) for r in rows
    ]


def _loader(epoch: int, *, replacement: bool, workers: int, drop_last: bool) -> Iterable[Batch]:
    generator = torch.Generator().manual_seed(epoch)
    negatives = torch.randint(N_ITEMS, (len(USERS),), generator=generator)
    data = TensorDataset(USERS, ITEMS, negatives)
    sampler = RandomSampler(data, replacement=replacement, generator=generator)
    return DataLoader(
        data, batch_size=48, sampler=sampler, num_workers=workers, drop_last=drop_last,
        generator=generator,
    )  # fmt: skip


def with_workers(epoch: int) -> Iterable[Batch]:
    return _loader(epoch, replacement=False, workers=2, drop_last=True)


def with_replacement(epoch: int) -> Iterable[Batch]:
    return _loader(epoch, replacement=True, workers=0, drop_last=False)


# ------------------------------------------------------------------ loops


def ordinary(
    loss_of: LossOf, model: nn.Module, optimizers: list[Optimizer], batches: Iterable[Batch]
) -> None:
    for batch in batches:
        loss = loss_of(batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


def clipping(
    loss_of: LossOf, model: nn.Module, optimizers: list[Optimizer], batches: Iterable[Batch]
) -> None:
    for batch in batches:
        loss = loss_of(batch)
        optimizers[0].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizers[0].step()


def accumulating(
    loss_of: LossOf, model: nn.Module, optimizers: list[Optimizer], batches: Iterable[Batch]
) -> None:
    optimizers[0].zero_grad()
    for number, batch in enumerate(batches, 1):
        (loss_of(batch) / 2).backward()
        if number % 2 == 0:
            optimizers[0].step()
            optimizers[0].zero_grad()


def autocasting(
    loss_of: LossOf, model: nn.Module, optimizers: list[Optimizer], batches: Iterable[Batch]
) -> None:
    for batch in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16):  # with its cache of casts
            loss = loss_of(batch)
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()


def scaling(
    loss_of: LossOf, model: nn.Module, optimizers: list[Optimizer], batches: Iterable[Batch]
) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for batch in batches:
        loss = loss_of(batch)
        optimizers[0].zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizers[0])
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizers[0])
        scaler.update()


def scheduling(
    loss_of: LossOf, model: nn.Module, optimizers: list[Optimizer], batches: Iterable[Batch]
) -> None:
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizers[0], 0.1, total_steps=20)
    for batch in batches:
        ordinary(loss_of, model, optimizers, [batch])
        schedule.step()


# ------------------------------------------------------------------ what is trained


def adam(model: nn.Module) -> list[Optimizer]:
    return [torch.optim.Adam(model.parameters(), lr=0.05)]


def in_groups(model: Any) -> list[Optimizer]:
    groups = [
        {"params": model.user.parameters(), "lr": 0.1},
        {"params": model.item.parameters(), "weight_decay": 0.1},
        {"params": model.top.parameters(), "betas": (0.5, 0.9)},
    ]
    return [torch.optim.AdamW(groups, lr=0.02)]


def sparse_and_dense(model: Any) -> list[Optimizer]:
    tables = [model.user.weight, model.item.weight]
    return [torch.optim.SparseAdam(tables, lr=0.05), torch.optim.Adam(model.top.parameters())]


def frozen_top(model: Any) -> list[Optimizer]:
    model.top.weight.requires_grad_(False)
    return adam(model)


FEATURES: dict[str, dict[str, Any]] = {
    "clipping": {"loop": clipping},
    "accumulation": {"loop": accumulating},
    "autocast around the calls": {"loop": autocasting},
    "gradient scaling under autocast": {"loop": scaling, "loss": bpr_autocast},
    "a learning-rate schedule": {"loop": scheduling},
    "parameter groups": {"optimizers": in_groups},
    "sparse tables and two optimizers": {"model": {"sparse": True}, "optimizers": sparse_and_dense},
    "frozen parameters": {"optimizers": frozen_top},
    "tied tables": {"model": {"tied": True}},
    "workers and drop_last": {"batches": with_workers},
    "sampling with replacement": {"batches": with_replacement},
}


def trained(feature: dict[str, Any], config: DenoiserConfig | None) -> tuple[Any, Any, Any]:
    """Model, optimizers and denoiser after some epochs; without a config, of the plain loop."""
    with seeded(3):
        model = Factors(**feature.get("model", {}))
        optimizers = feature.get("optimizers", adam)(model)
        loss_fn = feature.get("loss", bpr)
        denoiser = None
        if config is not None:
            denoiser = SelfGuidedDenoiser(
                model, optimizers, loss_fn, interactions=(USERS, ITEMS), n_items=N_ITEMS,
                config=config,
            )  # fmt: skip

        def loss_of(batch: Batch) -> Tensor:
            if denoiser is None:
                mean: Tensor = loss_fn(model, batch).mean()
                return mean
            denoiser.before_step(batch)
            return denoiser.weighted_loss(batch)

        for epoch in range(EPOCHS):
            batches = feature.get("batches", in_lists)(epoch)
            feature.get("loop", ordinary)(loss_of, model, optimizers, batches)
            if denoiser is not None:
                denoiser.end_epoch()
    return model, optimizers, denoiser


@pytest.mark.parametrize("name", FEATURES)
def test_phase_one_is_the_plain_loop_bit_for_bit(name: str) -> None:
    plain, plain_optimizers, _ = trained(FEATURES[name], None)
    model, optimizers, denoiser = trained(FEATURES[name], DenoiserConfig())
    assert denoiser.phase is Phase.MEMORIZATION
    found, expected = snapshot(model), snapshot(plain)
    assert_identical(found["parameters"], expected["parameters"])
    for one, other in zip(optimizers, plain_optimizers, strict=True):
        assert_identical(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", FEATURES)
def test_phase_two_learns_and_its_weights_matter(name: str) -> None:
    soon = DenoiserConfig(  # g alone: so few pairs are evidence of nothing
        history_length=1, noise_rate=0.9, guidance_interval=1, meta_lr=0.05, evidence_weights=False
    )
    model, _, denoiser = trained(FEATURES[name], soon)
    assert denoiser.phase is Phase.SELF_GUIDED
    assert all(torch.isfinite(p).all() for p in model.parameters())
    # g computes in bfloat16, too, where autocast stands around the calls
    rounding = 1e-3 if name == "autocast around the calls" else 1e-6
    assert denoiser.history[-1].mean_weight == pytest.approx(1, rel=rounding)
    learner = denoiser.state_dict()["self_guided"]["learner"]
    assert learner["optimizer"]["state"]  # ψ has been learned
    plain, *_ = trained(FEATURES[name], None)
    assert list(model.state_dict()) == list(plain.state_dict())
    with pytest.raises(AssertionError):
        assert_identical(snapshot(model)["parameters"], snapshot(plain)["parameters"])
    if name == "frozen parameters":
        assert torch.equal(model.top.weight, plain.top.weight)
    if name == "tied tables":
        assert model.again.weight is model.item.weight


def test_accumulation_may_use_step_for_every_second_batch_of_its_own() -> None:
    """`step` empties the gradients first: what was accumulated before it is gone, by design."""
    with seeded(3):
        model = Factors()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    denoiser = SelfGuidedDenoiser(model, optimizer, bpr, interactions=(USERS, ITEMS))
    first, second, *_ = in_lists(0)
    denoiser.before_step(first)
    denoiser.weighted_loss(first).backward()
    with seeded(3):
        alone = Factors()
    other = torch.optim.SGD(alone.parameters(), lr=0.1)
    denoiser.before_step(second)
    denoiser.step(second)
    ordinary(lambda batch: bpr(alone, batch).mean(), alone, [other], [second])
    assert_identical(snapshot(model)["parameters"], snapshot(alone)["parameters"])


def test_gradient_scaling_passes_by_a_batch_left_out_as_the_page_says() -> None:
    with seeded(3):
        model = Factors()
    optimizer = torch.optim.Adam(model.parameters())
    denoiser = SelfGuidedDenoiser(
        model, optimizer, lambda m, b: bpr(m, b) * torch.nan, interactions=(USERS, ITEMS),
        config=DenoiserConfig(on_nonfinite="skip"),
    )  # fmt: skip
    scaler = torch.amp.GradScaler("cpu")
    batch = in_lists(0)[0]
    denoiser.before_step(batch)
    loss = denoiser.weighted_loss(batch)
    assert loss.item() == 0
    scaler.scale(loss).backward()
    with pytest.raises(AssertionError, match="No inf checks were recorded"):
        scaler.step(optimizer)
