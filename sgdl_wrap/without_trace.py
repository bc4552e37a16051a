"""Running the user's model where the plain loop would not, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Every submodule in evaluation mode inside, each as it was after.

    Flags are set one by one: a user's own `train()` or `eval()` may do more than that.
    """
    flags = [(module, module.training) for root in modules for module in root.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def undisturbed(modules: Sequence[nn.Module], *, buffers: bool = True) -> Iterator[None]:
    """Buffers and plain attributes of modules are as before after a run in between.

    Args:
        buffers: False where nothing writes to them, as in evaluation mode.
    """
    kept = []
    for module in (module for root in modules for module in root.modules()):
        copies = {
            name: (buffer, buffer.detach().clone())
            for name, buffer in module._buffers.items()
            if buffers and buffer is not None and buffer.layout == torch.strided
        }
        kept.append((module, dict(vars(module)), dict(module._buffers), copies))
    try:
        yield
    finally:
        for module, attributes, all_buffers, copies in kept:
            for name in set(vars(module)) - set(attributes):
                del module.__dict__[name]
            module.__dict__.update(attributes)
            module._buffers.update(all_buffers)
            with torch.no_grad():
                for buffer, copy in copies.values():
                    buffer.copy_(copy)


@contextmanager
def swapped(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """The parameters hold other values inside, and the very same storage after."""
    originals = [p.data for p in parameters]
    try:
        for p, value in zip(parameters, values, strict=True):
            p.data = value.detach()
        yield
    finally:
        for p, original in zip(parameters, originals, strict=True):
            p.data = original
