"""Accelerate: the loop stays the user's, and so little is needed (docs/accelerate.md).

The denoiser takes what `accelerator.prepare` returned as any other model and optimizer. What is
here is the denoiser's part in `save_state` and `load_state`: Accelerate's own
`register_for_checkpointing` saves the state of the main process alone, and every process has one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sgdl_wrap.checkpoint import load_checkpoint, save_checkpoint
from sgdl_wrap.denoiser import SelfGuidedDenoiser
from sgdl_wrap.distributed.resharding import merge_states
from sgdl_wrap.errors import StateError, UnsupportedModelError

try:
    from accelerate import Accelerator
except ImportError as error:
    raise ImportError(
        "Expected Accelerate, got none installed. Run `pip install sgdl-wrap[accelerate]`."
    ) from error


def register_denoiser(accelerator: Accelerator, denoiser: SelfGuidedDenoiser) -> None:
    """From now on `save_state` and `load_state` save and load the denoiser, too.

    Every process writes ``denoiser-RANK.pt`` into the folder of the checkpoint by
    `save_checkpoint`; ``load_checkpoint(path)["denoiser"]`` reads the state. As many processes go
    on bit for bit; another number goes on from all states merged, as ``merge_states`` says.

    Raises:
        UnsupportedModelError: on several processes, a denoiser around another model than the one
            that `accelerator.prepare` returned.

    Raises, in `load_state`, before model or optimizer have changed:
        StateError: a checkpoint without the denoiser, a torn or altered file, or the state of
            another denoiser.

    Raises, in `save_state`:
        StateError: the file could not be written; the one of before is whole.
        OrderError: between before_step and step.
    """
    _check_prepared(accelerator, denoiser.model)

    def save(models: list[nn.Module], weights: list[Any], folder: str) -> None:
        save_checkpoint(_path(folder, accelerator.process_index), denoiser=denoiser)

    def load(models: list[nn.Module], folder: str) -> None:
        denoiser.load_state_dict(
            _state(folder, accelerator.process_index, accelerator.num_processes)
        )

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def _check_prepared(accelerator: Accelerator, model: nn.Module) -> None:
    if accelerator.num_processes > 1 and not isinstance(model, DistributedDataParallel):
        raise UnsupportedModelError(
            f"Expected the model in DistributedDataParallel, as {accelerator.num_processes} "
            f"processes train it, got {type(model).__name__}. Build the denoiser after prepare, "
            "around the model that it returned."
        )


def _path(folder: str, rank: int) -> Path:
    return Path(folder) / f"denoiser-{rank}.pt"


def _state(folder: str, rank: int, size: int) -> dict[str, Any]:
    """The rank's own state, or the merged one of another number of ranks."""
    if _path(folder, rank).exists():
        own = _read(folder, rank)
        if list(own.get("ranks", [0, 1])) == [rank, size]:
            return own
    first = _read(folder, 0)
    _, saved_size = first.get("ranks", [0, 1])
    return merge_states([first, *(_read(folder, other) for other in range(1, saved_size))])


def _read(folder: str, rank: int) -> dict[str, Any]:
    path = _path(folder, rank)
    if not path.exists():
        raise StateError(
            f"Expected {path.name} in the checkpoint {folder}, got none. Load a checkpoint that "
            "was saved after register_denoiser, or load before the denoiser is registered."
        )
    found = load_checkpoint(path)
    if not isinstance(found.get("denoiser"), dict):
        raise StateError(
            f"Expected the denoiser in {path}, got another checkpoint. Load the folder that "
            "save_state wrote after register_denoiser."
        )
    state: dict[str, Any] = found["denoiser"]
    return state
