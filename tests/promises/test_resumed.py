"""A run that is resumed equals the run that goes on, whatever batches come next."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sgdl_wrap import NonFiniteError, SelfGuidedDenoiser
from tests.promises.runs import LEARNING, WATCHING, Factors, Steep, adam, bpr, denoiser, epoch
from tests.support.models_zoo import assert_identical, seeded, without

BATCHES = [batch for number in range(3) for batch in epoch(number)]


class Drawing(Factors):
    """Dropout: a step that is left out in one run alone shows in all that follow."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.3)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.dropout(self.user(users) * self.item(items))).sum(-1)


def any_layout(model: nn.Module, batch: Any) -> Tensor:
    values = batch.values() if isinstance(batch, dict) else batch
    users, items, others, *more = (torch.as_tensor(column) for column in values)
    losses = bpr(model, {"user": users, "item": items, "other": others})
    return Steep.apply(losses) if more else losses


def as_dict(number: int) -> Any:
    return dict(BATCHES[number])


def as_tuple(number: int) -> Any:
    return tuple(BATCHES[number].values())


def with_steep(number: int) -> Any:
    """Batches whose gradients are NaN, every third."""
    more = {"steep": torch.ones(1)} if number % 3 == 2 else {}
    return {**BATCHES[number], **more}


def alternating(number: int) -> Any:
    columns = list(BATCHES[number].values())
    layouts: list[Callable[[], Any]] = [
        lambda: dict(BATCHES[number]), lambda: tuple(columns), lambda: columns,
        lambda: tuple(column.numpy() for column in columns),
    ]  # fmt: skip
    return layouts[number % len(layouts)]()


def of_zeros_and_ones(number: int) -> Any:
    """Negatives that could be labels, but for the first batch."""
    users, items, others = BATCHES[number].values()
    return users, items, others if number == 0 else others % 2


def a_single_row_first(number: int) -> Any:
    columns = tuple(BATCHES[number].values())
    return tuple(column[:1] for column in columns) if number < 2 else columns


def trained(wrapped: SelfGuidedDenoiser, batches: Callable[[int], Any], numbers: range) -> None:
    for number in numbers:
        batch = batches(number)
        try:
            wrapped.before_step(batch)
            wrapped.step(batch)
        except NonFiniteError:  # the user goes on with the next
            wrapped.skip_batch()


def ended(wrapped: SelfGuidedDenoiser, optimizer: torch.optim.Optimizer) -> Any:
    return [
        dict(wrapped.model.state_dict()), optimizer.state_dict(),
        without(wrapped.state_dict(), "seconds"), torch.get_rng_state(),
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["raise", "skip"])
@pytest.mark.parametrize("config", [WATCHING, LEARNING], ids=["one", "two"])
@pytest.mark.parametrize(
    "batches",
    [as_dict, as_tuple, with_steep, alternating, of_zeros_and_ones, a_single_row_first],
)
def test_saved_before_any_batch_and_loaded_into_new_objects_it_ends_the_same(
    batches: Callable[[int], Any], config: Any, mode: Any
) -> None:
    config = config.but(on_nonfinite=mode)

    def made() -> tuple[SelfGuidedDenoiser, torch.optim.Optimizer]:
        model = Drawing()
        optimizer = adam(model)
        return denoiser(model, any_layout, optimizer=optimizer, config=config), optimizer

    def finished(moments: list[Any]) -> Any:
        """Trains to the end; before each batch, what a checkpoint holds goes to `moments`."""
        with seeded(7):
            wrapped, optimizer = made()
            for number in range(len(BATCHES)):
                file = io.BytesIO()
                torch.save(
                    [wrapped.state_dict(), wrapped.model.state_dict(), optimizer.state_dict(),
                     torch.get_rng_state()],
                    file,
                )  # fmt: skip
                moments.append(file)
                trained(wrapped, batches, range(number, number + 1))
            return ended(wrapped, optimizer)

    moments: list[Any] = []
    expected = finished(moments)
    for number, file in enumerate(moments):
        file.seek(0)
        state, model, optimizer_state, stream = torch.load(file, weights_only=True)
        with seeded(8):
            wrapped, optimizer = made()
            wrapped.model.load_state_dict(model)
            optimizer.load_state_dict(optimizer_state)
            wrapped.load_state_dict(state)
            torch.set_rng_state(stream)
            trained(wrapped, batches, range(number, len(BATCHES)))
            assert_identical(ended(wrapped, optimizer), expected, f"saved before batch {number}")
