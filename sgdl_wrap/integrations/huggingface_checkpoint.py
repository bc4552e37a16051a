"""The denoiser's file in each checkpoint of a Trainer, and how it is found again.

A Trainer tells its callbacks the step that is resumed, and not the folder. So the file knows the
parameters that it belongs to, by their SHA-256.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sgdl_wrap.checkpoint import load_checkpoint, save_checkpoint
from sgdl_wrap.denoiser import SelfGuidedDenoiser
from sgdl_wrap.errors import StateError
from sgdl_wrap.notices import warn

FILE = "denoiser.pt"
_PREFIX = "checkpoint"  # of Transformers' folders


def save(denoiser: SelfGuidedDenoiser, model: nn.Module, args: Any, state: Any) -> None:
    """Writes the state beside the Trainer's files.

    Args:
        model: whose parameters the checkpoint holds.
        args, state: the TrainingArguments, and the TrainerState of that step.

    Raises:
        StateError: the Trainer's folder is not where it is expected, or cannot be written to.
    """
    folder = _folder(args, state)
    if not folder.is_dir():
        raise StateError(
            f"Expected the checkpoint in {folder}, got none there. In a hyperparameter search, "
            "pass save_strategy='no'."
        )
    save_checkpoint(folder / FILE, denoiser=denoiser, parameters=_fingerprint(model))


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"{_PREFIX}-{state.global_step}"


def _resumed(args: Any, state: Any) -> Path:
    """The folder that the Trainer resumes; it tells its callbacks the step alone."""
    told = args.resume_from_checkpoint
    folder = Path(told) if isinstance(told, str) else _folder(args, state)
    if not folder.is_dir():
        raise StateError(
            f"Expected the checkpoint of step {state.global_step} in {folder}, got none there. "
            "Name the folder that is resumed in TrainingArguments, too: "
            "resume_from_checkpoint='...'."
        )
    return folder


def restore(denoiser: SelfGuidedDenoiser, model: nn.Module, args: Any, state: Any) -> None:
    """Takes back what :func:`save` wrote into the checkpoint that is resumed.

    Raises:
        StateError: a folder that is not found, a damaged file, or one of another checkpoint.

    Warns:
        DenoiserWarning: there is no such file; the denoiser stays as it is.
    """
    folder = _resumed(args, state)
    path = folder / FILE
    if not path.exists():
        warn(
            f"Expected {FILE} in the checkpoint {folder}, got none: it was saved without the "
            "callback, or the save was cut short. Phase I begins here; if that is not what you "
            "want, resume an earlier checkpoint."
        )
        return
    if load_checkpoint(path).get("parameters") != _fingerprint(model):
        raise StateError(
            f"Expected {path} to be saved with the parameters that are resumed, got that of "
            "others. Name the folder that is resumed in TrainingArguments, too: "
            "resume_from_checkpoint='...'."
        )
    load_checkpoint(path, denoiser=denoiser)


def _fingerprint(model: nn.Module) -> str:
    """SHA-256 of all parameters, by which the state knows its model."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
