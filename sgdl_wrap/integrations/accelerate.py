"""Accelerate: the loop stays the user's, and so little is needed (docs/accelerate.md).

The denoiser takes what `accelerator.prepare` returned as any other model and optimizer. What is
here is the denoiser's part in `save_state` and `load_state`: Accelerate's own
`register_for_checkpointing` saves the state of the main process alone, and every process has one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sgdl_wrap.checkpoint import load_checkpoint, save_checkpoint
from sgdl_wrap.denoiser import SelfGuidedDenoiser
from sgdl_wrap.errors import StateError, UnsupportedModelError
from sgdl_wrap.model.engine import bare
from sgdl_wrap.ranks.ranks import Ranks, ranks_of
from sgdl_wrap.ranks.resharding import merge_states, state_of_rank
from sgdl_wrap.saving.header import broken_state_refused, check_header, check_seal

try:
    from accelerate import Accelerator
except ImportError as error:
    raise ImportError(
        "Expected Accelerate, got none installed. Run `pip install \"sgdl-wrap[accelerate]\"`."
    ) from error


def register_denoiser(accelerator: Accelerator, denoiser: SelfGuidedDenoiser) -> None:
    """From now on `save_state` and `load_state` save and load the denoiser, too.

    Every process writes ``denoiser-RANK.pt`` into the folder of the checkpoint by
    `save_checkpoint`; ``load_checkpoint(path)["denoiser"]`` reads the state. As many processes go
    on bit for bit; another number goes on from all states merged, as ``merge_states`` says.

    Raises:
        UnsupportedModelError: on several processes, a denoiser around another model than the one
            that `accelerator.prepare` returned.

    Raises, in `load_state`, on every process, before denoiser, model or optimizer have changed on
    any:
        StateError: a checkpoint without the denoiser, a torn or altered file, one of another save
            than the rest, or the state of another denoiser.

    Raises, in `save_state`, on every process:
        StateError: a file could not be written; the one of before is whole.
        OrderError: between before_step and step.
    """
    _check_prepared(accelerator, denoiser.model)
    ranks = ranks_of(denoiser.model)

    def save(models: list[nn.Module], weights: list[Any], folder: str) -> None:
        _save(Path(folder), denoiser, ranks)
        if accelerator.is_local_main_process:
            _remove_others(Path(folder), ranks.size)

    def load(models: list[nn.Module], folder: str) -> None:
        state = _state(Path(folder), denoiser, ranks)
        with ranks.together():
            denoiser.load_state_dict(state)

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def _check_prepared(accelerator: Accelerator, model: nn.Module) -> None:
    if accelerator.num_processes > 1 and not isinstance(model, DistributedDataParallel):
        raise UnsupportedModelError(
            f"Expected the model in DistributedDataParallel, as {accelerator.num_processes} "
            f"processes train it, got {type(model).__name__}. Build the denoiser after prepare, "
            "around the model that it returned."
        )


def _path(folder: Path, rank: int) -> Path:
    return folder / f"denoiser-{rank}.pt"


def _save(folder: Path, denoiser: SelfGuidedDenoiser, ranks: Ranks) -> None:
    """A file of each rank, all marked as of one save: a folder may hold files of an older one."""
    mark = ranks.objects(uuid4().hex)[0]
    with ranks.together():
        save_checkpoint(_path(folder, ranks.rank), denoiser=denoiser, saved=mark)


def _remove_others(folder: Path, size: int) -> None:
    """What more processes than now had left there."""
    for path in folder.glob("denoiser-*.pt"):
        rank = path.stem.removeprefix("denoiser-")
        if rank.isdecimal() and int(rank) >= size:
            path.unlink(missing_ok=True)


def _state(folder: Path, denoiser: SelfGuidedDenoiser, ranks: Ranks) -> dict[str, Any]:
    """The rank's own state, or the merged one of another number of ranks; fit to be loaded.

    Rank 0's file alone says how many there are, so that no rank decides otherwise than the rest.
    """
    told: tuple[int, str] | None = None
    with ranks.together():
        if ranks.rank == 0:
            first, mark = _read(folder, 0)
            with broken_state_refused():
                told = int(first.get("ranks", [0, 1])[1]), mark
    size, mark = ranks.objects(told)[0]
    with ranks.together():
        if size == ranks.size:
            state = _read_of(mark, folder, ranks.rank)
        else:
            state = merge_states([_read_of(mark, folder, rank) for rank in range(size)])
        check_seal(state)
        # asked before any rank takes its own: one whose state is refused would be left behind
        check_header(
            state_of_rank(state, ranks, denoiser.interactions),
            denoiser.interactions, denoiser.config, bare(denoiser.model), enabled=denoiser.enabled,
        )  # fmt: skip
    return state


def _read_of(mark: str, folder: Path, rank: int) -> dict[str, Any]:
    """A rank's state, if it was saved together with rank 0's."""
    state, found = _read(folder, rank)
    if found != mark:
        raise StateError(
            f"Expected files of one save in the checkpoint {folder}, got denoiser-{rank}.pt of "
            "another one than denoiser-0.pt. Load another checkpoint, and save each into a folder "
            "of its own."
        )
    return state


def _read(folder: Path, rank: int) -> tuple[dict[str, Any], str]:
    """A rank's state, and the mark of its save."""
    path = _path(folder, rank)
    try:
        found = load_checkpoint(path)
    except FileNotFoundError as error:
        raise StateError(
            f"Expected {path.name} in the checkpoint {folder}, got none. Load a checkpoint that "
            "was saved after register_denoiser, or load before the denoiser is registered."
        ) from error
    if not isinstance(found.get("denoiser"), dict) or not isinstance(found.get("saved"), str):
        raise StateError(
            f"Expected the denoiser in {path}, got another checkpoint. Load the folder that "
            "save_state wrote after register_denoiser."
        )
    return found["denoiser"], found["saved"]
