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
            vars(module)["training"] = False  # not nn.Module's own way, which is slow
        yield
    finally:
        for module, training in flags:
            vars(module)["training"] = training


@contextmanager
def undisturbed(modules: Sequence[nn.Module], *, buffers: bool = True) -> Iterator[list[Tensor]]:
    """Buffers and plain attributes of modules are as before after a run in between.

    An autocast around it keeps no cast of a parameter from before or inside: one of other values,
    or made without a graph, would serve the wrong forward.

    Args:
        buffers: False where nothing writes to them, as in evaluation mode.

    Yields:
        A list that has the buffers that were put back, after. Others are not written to: a graph
        of before may need them as they are.
    """
    restored: list[Tensor] = []
    kept = []
    copies = []
    for module in (module for root in modules for module in root.modules()):
        kept += [(vars(module), dict(vars(module))), (module._buffers, dict(module._buffers))]
        if buffers:
            strided = (b for b in module._buffers.values() if b is not None)
            copies += [(b, b.detach().clone()) for b in strided if b.layout == torch.strided]
    torch.clear_autocast_cache()
    try:
        yield restored
    finally:
        torch.clear_autocast_cache()
        for now, before in kept:
            now.update(before)
            if len(now) > len(before):  # something was added
                for name in set(now) - set(before):
                    del now[name]
        with torch.no_grad():
            for buffer, copy in copies:
                if not torch.equal(buffer, copy):
                    buffer.copy_(copy)
                    restored.append(buffer)


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
