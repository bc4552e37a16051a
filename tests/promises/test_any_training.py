"""Whatever the shapes, types, layouts and loaders: the promises hold (hypothesis)."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, TensorDataset

from sgdl_wrap import DenoiserConfig, Phase, SelfGuidedDenoiser, Variants
from tests.support.models_zoo import assert_identical, seeded, stream_states, without

pytestmark = pytest.mark.filterwarnings("ignore:Expected the memorized ratio to reach")


class Triple(NamedTuple):
    users: Any
    items: Any
    third: Any


@dataclass
class Own:
    """A batch of the user's own class."""

    who: Any
    what: Any
    third: Any


# name: how a batch is laid out, how the loss reads it, whether the pairs need a pair_fn
LAYOUTS: dict[str, tuple[Callable[..., Any], Callable[[Any], Any], bool]] = {
    "tuple": (lambda u, i, t: (u, i, t), tuple, False),
    "list": (lambda u, i, t: [u, i, t], tuple, False),
    "named tuple": (Triple, tuple, False),
    "arrays": (
        lambda u, i, t: (u.numpy(), i.numpy(), t.numpy()),
        lambda b: tuple(map(torch.as_tensor, b)), False,
    ),
    "dict": (
        lambda u, i, t: OrderedDict(third=t, item_id=i, user_id=u, source="log"),
        lambda b: (b["user_id"], b["item_id"], b["third"]), True,
    ),
    "object": (Own, lambda b: (b.who, b.what, b.third), True),
    "one matrix": (
        lambda u, i, t: torch.stack([u.double(), i.double(), t.double()], 1),
        lambda b: (b[:, 0].long(), b[:, 1].long(), b[:, 2]), True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One way of training, as drawn."""

    pairs: tuple[tuple[int, int], ...]
    n_items: int
    pointwise: bool
    layout: str
    ids: torch.dtype
    dtype: torch.dtype
    batch_size: int
    drop_last: bool
    replacement: bool
    shuffled: bool
    epochs: int
    calls_end: bool
    config: DenoiserConfig


@st.composite
def drawn_settings(draw: st.DrawFn) -> Setting:
    n_users, n_items = draw(st.integers(1, 9)), draw(st.integers(2, 12))
    cells = draw(
        st.sets(st.integers(0, n_users * n_items - 1), min_size=6, max_size=60).filter(
            lambda cells: len(cells) >= 6
        )
        if n_users * n_items >= 6
        else st.just(set(range(n_users * n_items)))
    )
    config = DenoiserConfig(
        history_length=draw(st.integers(1, 3)),
        noise_rate=draw(st.sampled_from([0.5, 0.95])),
        switch_timeout=draw(st.sampled_from([2, 3])),
        guidance_interval=draw(st.integers(1, 3)),
        guidance_size=draw(st.sampled_from([None, 1, 5])),
        max_guidance_batch=draw(st.sampled_from([None, 2])),
        variants=Variants(
            denoising_scheduler=draw(st.sampled_from(["lstm", "mlp", "top_f", "none"])),
            similarity=draw(st.sampled_from(["alignment", "paper"])),
            weight_normalization=draw(st.sampled_from(["mean", "none"])),
            memorized_data=draw(st.sampled_from([None, "switch", "current", "steady"])),
            gumbel_draws=4, denoising_scheduler_hidden=4, weight_hidden=4,
        ),
        ranking=draw(st.sampled_from(["sampled", "full"])),
    )  # fmt: skip
    return Setting(
        pairs=tuple((cell // n_items, cell % n_items) for cell in sorted(cells)),
        n_items=n_items,
        pointwise=draw(st.booleans()),
        layout=draw(st.sampled_from(sorted(LAYOUTS))),
        ids=draw(st.sampled_from([torch.int64, torch.int32, torch.int16, torch.uint8])),
        dtype=draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16])),
        batch_size=draw(st.integers(1, 17)),
        drop_last=draw(st.booleans()),
        replacement=draw(st.booleans()),
        shuffled=draw(st.booleans()),
        epochs=draw(st.integers(1, 5)),
        calls_end=draw(st.booleans()),
        config=config,
    )


class Factors(nn.Module):
    def __init__(self, n_users: int, n_items: int) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(n_users, 3), nn.Embedding(n_items, 3)
        self.top = nn.Linear(3, 1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return self.top(self.user(users.long()) * self.item(items.long())).squeeze(-1)


class Run:
    """One run of a setting, through the plain loop or denoised."""

    def __init__(self, setting: Setting, *, denoised: bool, **changes: Any) -> None:
        self.setting = setting
        columns = torch.tensor(setting.pairs)
        self.users, self.items = columns[:, 0], columns[:, 1]
        with seeded(11):
            self.model = Factors(int(self.users.max()) + 1, setting.n_items).to(setting.dtype)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.05)
        self.lay, self.read, needs_pair_fn = LAYOUTS[setting.layout]
        self.denoiser: SelfGuidedDenoiser | None = None
        if denoised:
            self.denoiser = SelfGuidedDenoiser(
                self.model, self.optimizer, self.losses, interactions=(self.users, self.items),
                n_items=setting.n_items, config=setting.config.but(**changes),
                pair_fn=self.pairs if needs_pair_fn else None,
            )  # fmt: skip

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        users, items, third = self.read(batch)
        if self.setting.pointwise:
            scores = model(users, items)
            labels = third.to(scores.dtype)
            return F.binary_cross_entropy_with_logits(scores, labels, reduction="none")
        return F.softplus(model(users, third) - model(users, items))

    def pairs(self, batch: Any) -> Any:
        users, items, third = self.read(batch)
        return (users, items, third > 0) if self.setting.pointwise else (users, items)

    def batches(self, epoch: int) -> list[Any]:
        """What a DataLoader gives, with as many drawn negatives as positives, laid out."""
        setting, generator = self.setting, torch.Generator().manual_seed(epoch)
        rows = TensorDataset(torch.arange(len(self.users)))
        sampler: Any = SequentialSampler(rows)
        if setting.shuffled or setting.replacement:
            sampler = RandomSampler(rows, replacement=setting.replacement, generator=generator)
        loader = DataLoader(
            rows, min(setting.batch_size, len(rows)), sampler=sampler,
            drop_last=setting.drop_last, generator=generator,
        )  # fmt: skip
        batches = []
        for (chosen,) in loader:
            users, items = self.users[chosen], self.items[chosen]
            drawn = torch.randint(2, setting.n_items, (len(chosen),), generator=generator) if (
                setting.n_items > 2
            ) else torch.zeros(len(chosen), dtype=torch.long)
            if setting.pointwise:
                third = torch.cat([torch.ones(len(chosen)), torch.zeros(len(chosen))])
                users, items = users.repeat(2), torch.cat([items, drawn])
            elif setting.layout == "one matrix":
                third = drawn
            else:
                third = drawn.to(setting.ids)
            batches.append(self.lay(users.to(setting.ids), items.to(setting.ids), third))
        return batches

    def train(self, *epochs: int) -> Run:
        for epoch in epochs:
            for batch in self.batches(epoch):
                if self.denoiser is not None:
                    self.denoiser.before_step(batch)
                    assert math.isfinite(self.denoiser.step(batch))
                else:
                    self.optimizer.zero_grad()
                    self.losses(self.model, batch).mean().backward()
                    self.optimizer.step()
            if self.denoiser is not None and self.setting.calls_end:
                self.denoiser.end_epoch()
        return self


def told_apart(setting: Setting) -> bool:
    """Negatives that are all 0 or 1 would be refused as integer labels, by design."""
    return setting.pointwise or setting.n_items > 3 or LAYOUTS[setting.layout][2]


def many(examples: int) -> Any:
    return settings(
        max_examples=examples, deadline=None, derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:Expected an epoch that ends by itself")  # with replacement
@pytest.mark.filterwarnings("ignore:Expected each pair once in a pass")  # by chance, too
@many(40)
@given(setting=drawn_settings().filter(told_apart))
def test_phase_one_is_the_plain_loop_bit_for_bit(setting: Setting) -> None:
    epochs = range(setting.epochs)
    plain = Run(setting, denoised=False).train(*epochs)
    streams = stream_states()
    found = Run(
        setting, denoised=True, history_length=50, switch_timeout=None
    ).train(*epochs)
    assert stream_states() == streams
    assert_identical(found.model.state_dict(), plain.model.state_dict())
    assert_identical(found.optimizer.state_dict(), plain.optimizer.state_dict())


@pytest.mark.filterwarnings("ignore:Expected an epoch that ends by itself")  # with replacement
@pytest.mark.filterwarnings("ignore:Expected each pair once in a pass")  # by chance, too
@many(60)
@given(setting=drawn_settings().filter(told_apart))
def test_what_is_told_is_always_within_its_range(setting: Setting) -> None:
    run = Run(setting, denoised=True).train(*range(setting.epochs))
    denoiser = run.denoiser
    assert denoiser is not None
    for parameter in run.model.parameters():
        assert torch.isfinite(parameter).all()
    for number, record in enumerate(denoiser.history, 1):
        assert record.epoch == number
        assert 0 <= record.memorized_ratio <= 1
        assert record.clean_ratio is not None
        assert 0 <= record.clean_ratio <= 1
        assert math.isfinite(record.loss)
        assert record.mean_weight > 0
        assert record.skipped == 0
    if setting.calls_end:
        assert len(denoiser.history) == setting.epochs
    batch = run.batches(99)[0]
    weights = denoiser.sample_weights(batch)
    assert weights.shape == run.losses(run.model, batch).shape
    assert (weights >= 0).all()
    if denoiser.phase is Phase.SELF_GUIDED:
        assert denoiser.memorization_point is not None
        if setting.config.variants.weight_normalization == "mean":
            assert float(weights.float().mean()) == pytest.approx(1, rel=2e-2)
        else:
            assert (weights <= 1).all()
    report = denoiser.report()
    assert len(report) == len(setting.pairs)
    assert sorted(zip(report["user"].tolist(), report["item"].tolist(), strict=True)) == sorted(
        setting.pairs
    )


@pytest.mark.filterwarnings("ignore:Expected an epoch that ends by itself")  # with replacement
@pytest.mark.filterwarnings("ignore:Expected each pair once in a pass")  # by chance, too
@many(40)
@given(setting=drawn_settings().filter(told_apart), cut=st.integers(0, 30))
def test_a_run_saved_anywhere_goes_on_bit_for_bit(setting: Setting, cut: int) -> None:
    whole, part, again = (Run(setting, denoised=True) for _ in range(3))
    steps = [(e, b) for e in range(setting.epochs) for b in range(len(whole.batches(e)))]
    cut = min(cut, len(steps))

    def go(run: Run, some: list[tuple[int, int]]) -> None:
        assert run.denoiser is not None
        for epoch, place in some:
            batches = run.batches(epoch)
            run.denoiser.before_step(batches[place])
            run.denoiser.step(batches[place])
            if setting.calls_end and place == len(batches) - 1:
                run.denoiser.end_epoch()

    go(whole, steps)
    go(part, steps[:cut])
    assert part.denoiser is not None
    assert again.denoiser is not None
    again.model.load_state_dict(copy.deepcopy(part.model.state_dict()))
    again.optimizer.load_state_dict(copy.deepcopy(part.optimizer.state_dict()))
    again.denoiser.load_state_dict(copy.deepcopy(part.denoiser.state_dict()))
    go(again, steps[cut:])
    assert whole.denoiser is not None
    assert_identical(again.model.state_dict(), whole.model.state_dict())
    assert_identical(
        without(again.denoiser.state_dict(), "seconds"),
        without(whole.denoiser.state_dict(), "seconds"),
    )


