from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sgdl_wrap import UnsupportedModelError
from sgdl_wrap.integrations.replay import Replay
from tests.support.models_zoo import seeded, stream_states

CPU = torch.device("cpu")


def drawn() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.rand()), random.random()  # noqa: NPY002


def test_the_second_time_all_three_streams_give_the_same_and_are_as_before_after() -> None:
    with seeded(1):
        replay = Replay(nn.Linear(1, 1), CPU)
        first = drawn()
        before = stream_states()
        with replay.again():
            assert drawn() == first
            drawn()
        assert stream_states() == before
        assert drawn() != first


def test_streams_are_put_back_after_an_error() -> None:
    with seeded(1):
        replay = Replay(nn.Linear(1, 1), CPU)
        drawn()
        before = stream_states()
        with pytest.raises(KeyError), replay.again():
            raise KeyError
        assert stream_states() == before


class Caching(nn.Module):
    """Writes to a buffer and to an attribute when it is called."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros(size))
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = self.scale * x * self.calls[0]
        return self.last


def test_buffers_and_attributes_are_what_they_were_and_the_first_graph_stays_whole() -> None:
    model = Caching(3)
    loss = model(torch.ones(()))
    kept, buffer, version = model.last, model.calls, model.calls._version
    with Replay(model, CPU).again():
        second = model(torch.ones(()))
        assert second.item() == 2
    assert model.last is kept
    assert model.calls is buffer
    assert buffer._version == version  # else the backward of the first forward would refuse
    assert buffer.tolist() == [1, 1, 1]
    (loss + second).backward()
    assert model.scale.grad == 3


def test_a_large_buffer_that_is_written_to_again_is_refused_by_its_name() -> None:
    model = Caching(70_000)
    message = r"^Expected a forward that leaves large buffers as they are, got 'calls' written to"
    with pytest.raises(UnsupportedModelError, match=message), Replay(model, CPU).again():
        model(torch.ones(()))


def test_a_large_buffer_that_is_only_read_is_not_copied() -> None:
    model = nn.Module()
    model.register_buffer("graph", torch.ones(70_000))
    graph = model.graph
    with Replay(model, CPU).again():
        assert model.graph is graph
