"""Denoised training of an unmodified RecBole model: ``denoise(trainer, train_data)``, then fit."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgdl_wrap.checkpoint import load_checkpoint, save_checkpoint
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.denoiser import SelfGuidedDenoiser
from sgdl_wrap.errors import DenoiserError, OrderError, StateError, UnsupportedModelError
from sgdl_wrap.model.streams import RandomStreams
from sgdl_wrap.model.untouched import evaluating, undisturbed
from sgdl_wrap.records import Phase

try:
    from recbole.data.dataloader import TrainDataLoader
    from recbole.data.interaction import Interaction
    from recbole.trainer import Trainer
    from recbole.utils import InputType, ModelType
except ImportError as error:
    raise ImportError(
        f"Expected RecBole, got {error}. Run `pip install \"sgdl-wrap[recbole]\"`."
    ) from error

from sgdl_wrap.integrations.recbole_losses import Columns, RecBoleLosses

SUFFIX = ".denoiser"  # of the file beside RecBole's own checkpoint
_HOOKS = ("_train_epoch", "_save_checkpoint", "resume_checkpoint")


def denoise(
    trainer: Any, train_data: Any, *, config: DenoiserConfig | None = None
) -> SelfGuidedDenoiser:
    """From here on, ``trainer.fit(train_data, ...)`` trains denoised.

    ::

        trainer = Trainer(config, model)
        denoiser = denoise(trainer, train_data)
        trainer.fit(train_data, valid_data)
        print(denoiser.memorization_point, denoiser.noise_rate)

    In Phase I every loss, gradient and parameter is RecBole's own, bit for bit. In Phase II the
    samples' losses are weighted, and the model's regulariser is added as it was.

    Three attributes are set on this one trainer (`_train_epoch`, `_save_checkpoint`,
    `resume_checkpoint`), which call its class's own; :func:`undo` removes them. Nothing is set on
    the model, on RecBole's classes or on the data. Each checkpoint that RecBole saves gets a file
    of the denoiser's beside it, named like it with ``.denoiser`` at the end, which
    ``trainer.resume_checkpoint`` reads again.

    Ids are RecBole's internal ones, ``dataset.id2token`` names them; item 0, its padding, is
    ranked below every item.

    Args:
        trainer: a RecBole Trainer of a general recommender, in one process.
        train_data: the TrainDataLoader that fit will be called with.
        config: every choice of the method; an epoch is one of RecBole's.

    Returns:
        The denoiser: phase, noise rate, history, report. fit makes its calls.

    Raises:
        UnsupportedModelError, LossError: a model whose samples' losses cannot be told apart, named
            with the reason; before anything has changed.
        DenoiserError: a trainer or data of another kind, or a trainer that is denoised already.
    """
    _check(trainer, train_data)
    model, fields = trainer.model, _Fields(trainer.config)
    losses = RecBoleLosses(model)
    with torch.autocast(device_type=trainer.device.type, enabled=trainer.enable_amp):
        example = _example(trainer, train_data)
        losses.check(example)
        denoiser = SelfGuidedDenoiser(
            model,
            trainer.optimizer,
            losses,
            interactions=fields.observed(train_data.dataset.inter_feat),
            n_items=int(train_data.dataset.item_num),
            score_fn=fields.scores,
            pair_fn=fields.pairs,
            config=config,
            # one of RecBole's epochs sees a pair as often as it has negatives
            explicit_epochs=True,
            example_batch=example,
        )
    hooks = _Hooks(trainer, denoiser, losses)
    for name in _HOOKS:
        setattr(trainer, name, getattr(hooks, name.lstrip("_")))
    return denoiser


def undo(trainer: Any) -> None:
    """The trainer is as RecBole built it, and fit trains plainly; the denoiser keeps what it knows.

    Raises:
        OrderError: the trainer is not denoised.
    """
    if not is_denoised(trainer):
        raise OrderError("Expected a denoised trainer, got a plain one. Call denoise first.")
    for name in _HOOKS:
        delattr(trainer, name)


def is_denoised(trainer: Any) -> bool:
    """Whether :func:`denoise` was called on the trainer, and not undone."""
    return isinstance(getattr(vars(trainer).get("_train_epoch"), "__self__", None), _Hooks)


class _Hooks:
    """What a denoised trainer does in the place of three of its methods."""

    def __init__(self, trainer: Any, denoiser: SelfGuidedDenoiser, losses: RecBoleLosses) -> None:
        self._trainer = trainer
        self._denoiser = denoiser
        self._losses = losses

    def train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> Any:
        """RecBole's epoch with the denoiser's loss, and the denoiser's end of it."""
        if loss_func is not None:
            raise DenoiserError(
                "Expected an epoch of the model's own loss, got another loss_func. Call "
                "sgdl_wrap.integrations.recbole.undo(trainer) first."
            )
        total = type(self._trainer)._train_epoch(
            self._trainer, train_data, epoch_idx, loss_func=self._loss, show_progress=show_progress
        )
        self._denoiser.end_epoch()
        return total

    def _loss(self, interaction: Any) -> Tensor:
        batch: Columns = interaction.interaction
        memorizing = self._denoiser.phase is Phase.MEMORIZATION
        self._losses.keep_mean = memorizing
        self._denoiser.before_step(batch)
        weighted = self._denoiser.weighted_loss(batch)
        rest = self._losses.take_rest()
        if weighted.is_leaf:  # the batch is left out, as on_nonfinite="skip" says
            return weighted
        return rest if memorizing else weighted + rest

    def save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """RecBole's file, and the denoiser's beside it."""
        place = kwargs.get("saved_model_file", self._trainer.saved_model_file)
        type(self._trainer)._save_checkpoint(self._trainer, epoch, verbose=verbose, **kwargs)
        save_checkpoint(_beside(place), denoiser=self._denoiser, beside=_digest(place))

    def resume_checkpoint(self, resume_file: Any) -> None:
        """Both files, or on an error neither.

        Raises:
            StateError: the denoiser's file is missing, or of another checkpoint, data set, model
                or configuration.
        """
        place = _beside(resume_file)
        if not place.exists():
            raise StateError(
                f"Expected the denoiser's file {place} beside the checkpoint, got none. Resume a "
                "checkpoint of a denoised run, or call undo(trainer) to go on without."
            )
        parts, before = load_checkpoint(place), self._denoiser.state_dict()
        if parts.get("beside") != _digest(resume_file):
            raise StateError(
                f"Expected {place} to be saved with {resume_file}, got that of another "
                "checkpoint. Keep the two files together, or resume an earlier pair."
            )
        self._denoiser.load_state_dict(parts["denoiser"])
        try:
            type(self._trainer).resume_checkpoint(self._trainer, resume_file)
        except BaseException:  # an interrupt, too
            self._denoiser.load_state_dict(before)
            raise


class _Fields:
    """How RecBole names users, items and labels, and what it does not say by a name.

    Args:
        config: RecBole's.
    """

    def __init__(self, config: Any) -> None:
        self._user, self._item = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
        pointwise = config["MODEL_INPUT_TYPE"] == InputType.POINTWISE
        self._label = config["LABEL_FIELD"] if pointwise else None
        self._samples_negatives = config["train_neg_sample_args"]["distribution"] != "none"

    def pairs(self, columns: Columns) -> tuple[Tensor, ...]:
        """users, items and, of a pointwise batch, which pairs are observed; (B,) each."""
        users, items = columns[self._user], columns[self._item]
        return (users, items) if self._label is None else (users, items, columns[self._label] > 0)

    def observed(self, interactions: Any) -> tuple[Tensor, Tensor]:
        """users and items of a data set's observed pairs; of labelled ones, the positive."""
        users, items = interactions[self._user], interactions[self._item]
        if self._label is None or self._samples_negatives:
            return users, items
        positive = interactions[self._label] > 0
        return users[positive], items[positive]

    def scores(self, model: Any, users: Tensor, items: Tensor) -> Tensor:
        """Scores of pairs by the model's `predict`, (K,); of RecBole's padding item, the lowest."""
        for name in [name for name in vars(model) if name.startswith("restore_")]:
            setattr(model, name, None)  # embeddings kept for evaluation, of earlier parameters
        scores: Tensor = model.predict(Interaction({self._user: users, self._item: items}))
        scores = scores.reshape(len(users))
        return scores.masked_fill(items == 0, -torch.inf)


def _example(trainer: Any, train_data: Any) -> Columns:
    """The columns of a batch, drawn aside: neither loader nor random streams have moved on."""
    rows = range(min(train_data.step, len(train_data.dataset)))
    model = train_data.model  # of dynamic negative sampling; fit sets it
    train_data.model = trainer.model
    try:
        with (
            undisturbed([trainer.model]), evaluating([trainer.model]),
            RandomStreams(0).own(trainer.device), torch.no_grad(),
        ):  # fmt: skip
            columns: Columns = train_data.collate_fn(rows).to(trainer.device).interaction
    finally:
        train_data.model = model
    return columns


def _check(trainer: Any, train_data: Any) -> None:
    """Refuses trainers and data of another kind."""
    if not isinstance(trainer, Trainer):
        raise DenoiserError(
            f"Expected a RecBole Trainer, got {type(trainer).__name__}. "
            "Pass trainer = Trainer(config, model)."
        )
    name, model = type(trainer.model).__name__, trainer.model
    if is_denoised(trainer):
        raise OrderError(
            "Expected a plain trainer, got one that is denoised. Call undo(trainer) first."
        )
    kind = getattr(type(model), "type", None)  # SGL's instances have another attribute of that name
    if kind != ModelType.GENERAL:
        raise UnsupportedModelError(
            "Expected a general recommender, which gradients train and which scores a user and an "
            f"item, got {name} ({getattr(kind, 'name', 'no type').lower()}). Choose another model."
        )
    if type(trainer)._train_epoch is not Trainer._train_epoch:
        raise UnsupportedModelError(
            f"Expected RecBole's own Trainer._train_epoch, got {name} with that of "
            f"{type(trainer).__name__}, which trains it by more than one loss a batch. "
            "Choose a model that Trainer trains."
        )
    if not isinstance(train_data, TrainDataLoader):
        raise UnsupportedModelError(
            f"Expected batches of single interactions (TrainDataLoader), got {name} with a "
            f"{type(train_data).__name__}. Pass train_data of data_preparation, and choose a "
            "model whose samples are no user rows."
        )
    if "calculate_loss" in vars(model):
        raise UnsupportedModelError(
            f"Expected calculate_loss as a method of {name}, got it set on the model. "
            "Define it in the class."
        )
    if not trainer.config["single_spec"]:
        raise UnsupportedModelError(
            f"Expected one process, got {name} on several: RecBole's trainer goes around "
            "DistributedDataParallel. Run it with nproc=1."
        )


def _beside(place: Any) -> Path:
    return Path(os.fspath(place) + SUFFIX)


def _digest(place: Any) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(place, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
