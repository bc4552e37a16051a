"""A small run whose loss can be made to fail, and what a refusal must leave as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sklearn.mixture  # noqa: F401  (its import may draw from the streams: test_plain_equality)
import torch
from torch import Tensor, nn

from bench.models.lightgcn import bpr_loss
from sgdl_wrap import (
    DenoiserError,
    Phase,
    SelfGuidedDenoiser,
)
from tests.support.models_zoo import (
    SWITCHING,
    WATCHING,
    assert_identical,
    snapshot,
    stream_states,
    tiny_data,
    tiny_lightgcn,
    triple_epoch,
)

DATA = tiny_data()
BATCHES = [batch for epoch in range(3) for batch in triple_epoch(DATA, epoch)]
PER_EPOCH = len(BATCHES) // 3


class Scene:
    """A small run whose loss can be made to fail."""

    def __init__(self, phase: Phase = Phase.MEMORIZATION, **changes: Any) -> None:
        self.model = changes.pop("model", None) or tiny_lightgcn(DATA)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        self.spoil: Callable[[Tensor], Any] = lambda losses: losses
        arguments: dict[str, Any] = {
            "interactions": DATA.tensors(),
            "n_items": DATA.n_items,
            "config": SWITCHING if phase is Phase.SELF_GUIDED else WATCHING,
        }
        arguments.update(changes)
        self.denoiser = SelfGuidedDenoiser(self.model, self.optimizer, self._losses, **arguments)
        self.batches = iter(BATCHES)
        if phase is Phase.SELF_GUIDED:
            for _ in range(PER_EPOCH + 2):
                self.train()
        assert self.denoiser.phase is phase

    def _losses(self, model: nn.Module, batch: Any) -> Any:
        return self.spoil(bpr_loss(model, batch))

    def train(self) -> None:
        batch = next(self.batches)
        self.denoiser.before_step(batch)
        self.denoiser.step(batch)

    @contextmanager
    def refused(self, error: type[Exception], match: str) -> Iterator[None]:
        """The error comes, and parameters, gradients, buffers, optimizer and streams stay."""
        before, streams = snapshot(self.model, self.optimizer), stream_states()
        with pytest.raises(error, match=match) as caught:
            yield
        assert isinstance(caught.value, DenoiserError)
        assert str(caught.value).startswith("Expected ")
        assert ", got " in str(caught.value)
        assert_identical(snapshot(self.model, self.optimizer), before)
        assert stream_states() == streams

    def goes_on(self) -> None:
        """A step of training works and moves the parameters."""
        self.spoil = lambda losses: losses
        before = snapshot(self.model)
        self.train()
        with pytest.raises(AssertionError):
            assert_identical(snapshot(self.model), before)


PHASES = pytest.mark.parametrize("phase", list(Phase), ids=lambda phase: phase.value)
