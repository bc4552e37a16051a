"""The engine that trains on several processes: torch's DistributedDataParallel, as the user has it.

Its forward cannot be evaluated at virtual parameters, and its backward is what averages gradients:
losses are taken by the wrapped model where a backward of the user's follows, and by the bare model
everywhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sgdl_wrap.errors import OrderError, UnsupportedModelError
from sgdl_wrap.model.compiled import what_was_compiled

_FSDP = ("FullyShardedDataParallel", "FSDPModule")
_DISTRIBUTED = "DTensor"  # of tensor parallelism


def bare(model: nn.Module) -> nn.Module:
    """The user's own model, without the engine or torch.compile around it."""
    inside: nn.Module = what_was_compiled(model)
    return inside.module if isinstance(inside, DistributedDataParallel) else inside


def check_engine(model: nn.Module) -> None:
    """Refuses what cannot be denoised on several processes.

    Raises:
        UnsupportedModelError: FSDP, parameters divided among ranks, a static graph, a forward that
            talks to other ranks, an engine that was compiled.
    """
    inside = what_was_compiled(model)
    if inside is not model and isinstance(inside, DistributedDataParallel):
        raise UnsupportedModelError(
            "Expected DistributedDataParallel around the compiled model, got torch.compile around "
            "DistributedDataParallel. Call model.compile() first, and wrap the model then."
        )
    for module in model.modules():
        kinds = {kind.__name__ for kind in type(module).__mro__}
        if kinds & set(_FSDP):
            raise UnsupportedModelError(
                "Expected whole parameters on every rank, got a model under FSDP, which holds a "
                "shard of each and gathers them for a forward: they have no values to be moved "
                "from and no gradient to be differentiated again. Use DistributedDataParallel."
            )
        if isinstance(model, DistributedDataParallel) and isinstance(module, nn.SyncBatchNorm):
            raise UnsupportedModelError(
                "Expected a forward that each rank can take by itself, got SyncBatchNorm, which "
                "waits for the other ranks. Use BatchNorm1d or LayerNorm."
            )
    if isinstance(model, DistributedDataParallel) and model.static_graph:
        raise UnsupportedModelError(
            "Expected DistributedDataParallel without static_graph, got it with: it takes the "
            "first gradient that is asked for as the backward. Set static_graph=False."
        )
    for name, parameter in model.named_parameters():
        if type(parameter.data).__name__ == _DISTRIBUTED:
            raise UnsupportedModelError(
                f"Expected whole parameters on every rank, got {name!r} as a DTensor, of which "
                "each holds a part. Use DistributedDataParallel."
            )


@contextmanager
def forward_expected(model: nn.Module) -> Iterator[None]:
    """A loss that goes around the engine has gradients that nothing averages.

    Raises:
        UnsupportedModelError: the engine's forward was not called inside.
    """
    if not isinstance(model, DistributedDataParallel):
        yield
        return
    calls: list[bool] = []

    def note(*_: Any) -> None:
        calls.append(True)

    handle = model.register_forward_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()
    if not calls:
        raise UnsupportedModelError(
            "Expected loss_fn to call the model that it is given, got one that goes around "
            "DistributedDataParallel, so that no rank would learn from the others. Call "
            "model(...) itself, not model.module or another of its methods."
        )


def refuse_join(model: nn.Module) -> None:
    """Uneven inputs: the ranks that have run out answer for the engine, but not for us.

    Raises:
        OrderError: inside the engine's `join()`.
    """
    if not isinstance(model, DistributedDataParallel):  # asked first: a module that lacks an
        return  # attribute takes longer to say so than a step's own look at its batch
    if getattr(getattr(model, "_join_config", None), "enable", False):
        raise OrderError(
            "Expected as many batches on every rank, got model.join(), under which ranks that have "
            "run out do not answer the denoiser. Use a DistributedSampler, which fills up, or "
            "drop_last=True."
        )
