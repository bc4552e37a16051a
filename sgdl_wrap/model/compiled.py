"""Models and losses under torch.compile: where the compiled form serves, and what is inside it.

Compiled graphs have no second derivative and know nothing of virtual parameters. The compiled form
trains where neither is needed; everywhere else what was compiled is called, which has the same
parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sgdl_wrap.errors import UnsupportedModelError
from sgdl_wrap.notices import warn

_IN_PLACE = "_compiled_call_impl"  # what module.compile() sets
_WRAPPED = "_orig_mod"  # the one submodule of what torch.compile(module) returns


def what_was_compiled(called: Any) -> Any:
    """The module or function that was handed to torch.compile; anything else as it is."""
    if isinstance(called, torch.jit.ScriptModule):  # whose _modules have no get
        return called
    if isinstance(called, nn.Module):
        return called._modules.get(_WRAPPED, called)
    return getattr(called, "_torchdynamo_orig_callable", called)


@contextmanager
def uncompiled(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Modules that were compiled in place run as they are written inside."""
    held = [vars(module) for root in modules for module in root.modules()]
    kept = [(own, own.pop(_IN_PLACE)) for own in held if _IN_PLACE in own]
    try:
        yield
    finally:
        for own, implementation in kept:
            own[_IN_PLACE] = implementation


def check_compiled(model: nn.Module) -> None:
    """Refuses wrappers of torch.compile that stand inside a model.

    Args:
        model: without such a wrapper around it.

    Raises:
        UnsupportedModelError: a functional twin would call the original parameters there.
    """
    for name, module in model.named_modules():
        if _WRAPPED in module._modules:
            where = f"submodule {name!r}" if name else "what DistributedDataParallel holds"
            raise UnsupportedModelError(
                f"Expected torch.compile around the whole model, got it around {where}. "
                "Compile that module in place instead: module.compile()."
            )


def is_compiled(model: nn.Module, loss_fn: Any) -> bool:
    """Whether the model, a submodule or the loss is compiled."""
    in_place = any(vars(module).get(_IN_PLACE) is not None for module in model.modules())
    return in_place or any(what_was_compiled(called) is not called for called in (model, loss_fn))


def say_where_compiled(model: nn.Module, loss_fn: Any) -> None:
    """Tells once that steps which learn run uncompiled.

    Warns:
        DenoiserWarning: the model, a submodule or the loss is compiled.
    """
    if is_compiled(model, loss_fn):
        warn(
            "Expected an eager model and loss, got torch.compile, whose graphs have no second "
            "derivative. The compiled form trains in Phase I and in the steps of Phase II that do "
            "not learn ψ and φ; those that learn, and all that is evaluated aside, call what was "
            "compiled. Nothing is to be done."
        )
