"""Lightning: a callback that denoises a LightningModule as it is.

    Trainer(callbacks=[SelfGuidedCallback(loss_fn, interactions=(users, items))])

`training_step` returns a loss that is reduced already, F(θ) = (1/B) Σ_k L_k(θ) + R(θ). Before its
backward the callback adds (1/B) Σ_k (w_k - 1) L_k(θ), taken from `loss_fn` in a second forward with
the same draws. What Lightning differentiates is then (1/B) Σ_k w_k L_k(θ) + R(θ), the actual update
of Eq. 9; whatever else `training_step` adds stays as it is, and so does what it logs.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sgdl_wrap.batches.pairs import PairFn
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.denoiser import SelfGuidedDenoiser
from sgdl_wrap.errors import (
    DenoiserError,
    LossError,
    OrderError,
    UnsupportedModelError,
    batch_named,
)
from sgdl_wrap.integrations.replay import Replay
from sgdl_wrap.model.calls import ScoreFn
from sgdl_wrap.model.compiled import what_was_compiled
from sgdl_wrap.model.numbers import check_gradients
from sgdl_wrap.model.twin import LossFn
from sgdl_wrap.notices import warn
from sgdl_wrap.records import Phase

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import SingleDeviceStrategy
except ImportError as error:
    raise ImportError(
        "Expected Lightning, got none installed. Run `pip install \"sgdl-wrap[lightning]\"`."
    ) from error

_PRECISIONS = ("32-true", "64-true", "bf16-true", "bf16-mixed")
_GRADIENT_REMEDY = (
    "Lower the learning rate, or look for sqrt(0), log(0) and 0/0 in training_step and loss_fn."
)


class SelfGuidedCallback(Callback):
    """Denoises the training of a LightningModule under automatic optimisation.

    In Phase I the training is bit for bit what it is without the callback. Epochs are Lightning's;
    each ends with its last training batch, before a validation that follows. The state is part of
    every checkpoint, and a run resumed from one that was saved amid training, also amid an epoch,
    goes on bit for bit if its batches do. Logged at the end of each epoch: `sgdl_phase` (1 or 2),
    `sgdl_memorized_ratio`, `sgdl_noise_rate`.

    Args:
        loss_fn: ``loss_fn(model, batch)`` returns the per-sample losses, (B,), whose mean
            `training_step` returns; it logs nothing.
        interactions: as in SelfGuidedDenoiser, and so are the next five.
        n_items: size of the catalogue.
        score_fn: scores of pairs, higher for better items.
        pair_fn: the pairs of a batch.
        config: every choice of the method.
        enabled: False is plain training.
        model: which part of the LightningModule `loss_fn` and `score_fn` are given, by its name
            ("net", "towers.item"); the default is the LightningModule itself.
        penalty: whether `training_step` adds to that mean something that is to stay unweighted, a
            regulariser say. If not, a loss that differs from the mean is refused.

    Attributes:
        denoiser: the SelfGuidedDenoiser, from the start of training on; None before.

    Raises, when training starts or at its first batch:
        DenoiserError: manual optimisation, a precision with float16, `on_nonfinite="skip"`.
        UnsupportedModelError: a strategy of several devices; torch.compile around the
            LightningModule, and no part of it named.
        LossError: `training_step` returns another loss.
        And what SelfGuidedDenoiser raises.

    Raises, before the optimizer steps:
        NonFiniteError: NaN or Inf in the gradients, which are dropped; no parameter has changed.

    Warns:
        DenoiserWarning: resumed from a checkpoint without the callback's state.
    """

    def __init__(
        self,
        loss_fn: LossFn,
        *,
        interactions: tuple[Any, Any],
        n_items: int | None = None,
        score_fn: ScoreFn | None = None,
        pair_fn: PairFn | None = None,
        config: DenoiserConfig | None = None,
        enabled: bool = True,
        model: str = "",
        penalty: bool = False,
    ) -> None:
        self.denoiser: SelfGuidedDenoiser | None = None
        self._loss_fn = loss_fn
        self._arguments: dict[str, Any] = {
            "interactions": interactions, "n_items": n_items, "score_fn": score_fn,
            "pair_fn": pair_fn, "config": config, "enabled": enabled,
        }  # fmt: skip
        self._model_name = model
        self._penalty = penalty
        self._saved: dict[str, Any] | None = None  # a state that waits for the denoiser
        self._compared = False  # training_step's loss with ours
        self._batch: Any = None  # between its start and its backward
        self._replay: Replay | None = None
        self._weighted = False  # by training_step itself
        self._where = ""  # names the batch of the last backward in messages

    # a compiled training_step must not trace into the denoiser
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def weighted_loss(self, batch: Any) -> Tensor:
        """(1/B) Σ_k w_k L_k(θ) with its graph, for a `training_step` that may be changed.

        Returned in the place of the mean, it spares the second forward.

        Args:
            batch: the one that `training_step` was given.

        Raises:
            OrderError: outside training, or not with that batch.
            BatchError, InteractionsError, LossError, NonFiniteError: as
                `SelfGuidedDenoiser.before_step` and its `weighted_loss`.
        """
        if self.denoiser is None or self._replay is None or batch is not self._batch:
            raise OrderError(
                "Expected weighted_loss once in training_step with its batch, got it elsewhere. "
                "Return loss_fn(model, batch).mean() where nothing is trained."
            )
        self._batch = self._replay = None
        self._weighted = True
        self._where = self.denoiser._epochs.where()
        self.denoiser.before_step(batch)
        return self.denoiser.weighted_loss(batch)

    # ------------------------------------------------------------------ Lightning's hooks

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Builds the denoiser around the optimizer, and gives it its state back."""
        part = self._part(pl_module)
        _check_trainer(trainer, pl_module, part, self._arguments["config"])
        saved, self._saved = self._saved, None
        going_on = trainer.global_step > 0
        if saved is None and going_on:
            if self.denoiser is not None:  # fit was called again
                saved = self.denoiser.state_dict()
            else:
                warn(
                    f"Expected the denoiser's state in the checkpoint, got none. Phase I begins "
                    f"at step {trainer.global_step}."
                )
        self.denoiser = SelfGuidedDenoiser(
            part, list(trainer.optimizers), self._loss_fn,
            explicit_epochs=True,  # Lightning says where an epoch ends
            **self._arguments,
        )
        if saved is not None:
            self.denoiser.load_state_dict(saved)
        self._compared = False
        self._batch = self._replay = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remembers what `training_step` starts from."""
        self._batch, self._replay = batch, Replay(pl_module, pl_module.device)
        self._weighted = False

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Watches the batch, and in Phase II adds (1/B) Σ_k (w_k - 1) L_k(θ) to the loss."""
        denoiser, batch, replay = self.denoiser, self._batch, self._replay
        if denoiser is None or not denoiser.enabled or self._weighted:
            return
        if replay is None:
            raise OrderError(
                "Expected one backward for each batch, got another. Use an optimizer that calls "
                "its closure once."
            )
        self._batch = self._replay = None
        self._where = denoiser._epochs.where()
        learning = denoiser.phase is Phase.SELF_GUIDED
        with replay.again(), _autocast(trainer):
            denoiser.before_step(batch)
            with torch.set_grad_enabled(learning):
                plain, weighted = denoiser.plain_and_weighted_loss(batch)
        share = trainer.accumulate_grad_batches  # Lightning has divided by it
        if not self._compared and not self._penalty:
            _compare(loss.item() * share, plain.item())
            self._compared = True
        if learning:  # the tensor is Lightning's own, made from what training_step returned
            loss.add_((weighted - plain).to(loss.dtype) / share)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Looks at the gradients before a parameter changes; Lightning clips them after this."""
        if self.denoiser is None or not self.denoiser.enabled:
            return
        with batch_named(self._where):
            check_gradients([optimizer], _GRADIENT_REMEDY)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends the epoch with its last batch, so that checkpoints of a validation hold its end."""
        self._batch = self._replay = None
        if trainer.is_last_batch:
            self._end_epoch(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends an epoch that was cut short, and logs where the denoiser stands."""
        if self.denoiser is None or not self.denoiser.enabled:
            return
        self._end_epoch(trainer)
        pl_module.log("sgdl_phase", 1.0 if self.denoiser.phase is Phase.MEMORIZATION else 2.0)
        if self.denoiser.history:
            pl_module.log("sgdl_memorized_ratio", self.denoiser.history[-1].memorized_ratio)
        if self.denoiser.noise_rate is not None:
            pl_module.log("sgdl_noise_rate", self.denoiser.noise_rate)

    def state_dict(self) -> dict[str, Any]:
        """The denoiser's state, or the one that waits for training to start."""
        if self.denoiser is None:
            return self._saved or {}
        return self.denoiser.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state until there is a denoiser to take it."""
        self._saved = state_dict or None

    # ------------------------------------------------------------------ steps

    def _part(self, pl_module: LightningModule) -> nn.Module:
        try:
            part: nn.Module = pl_module.get_submodule(self._model_name)
        except AttributeError as error:
            raise DenoiserError(
                f"Expected the name of a submodule, got model={self._model_name!r}. "
                "Name the attribute of the LightningModule that holds the recommender."
            ) from error
        return part

    def _end_epoch(self, trainer: Trainer) -> None:
        # where training_step passed by every batch, there is nothing to end
        if self.denoiser is not None and self.denoiser._epochs.batches > 0:
            with _autocast(trainer):
                self.denoiser.end_epoch()


def _check_trainer(
    trainer: Trainer, pl_module: LightningModule, part: nn.Module, config: DenoiserConfig | None
) -> None:
    """Refuses what the callback cannot denoise; the message names the way round."""
    if not pl_module.automatic_optimization:
        raise DenoiserError(
            "Expected automatic optimisation, got automatic_optimization=False. Use a "
            "SelfGuidedDenoiser in training_step (before_step and weighted_loss, "
            "docs/training.md), or let Lightning step."
        )
    if not isinstance(trainer.strategy, SingleDeviceStrategy):
        raise UnsupportedModelError(
            f"Expected one device, got {type(trainer.strategy).__name__}: it sends training_step "
            "through its wrapper, where the denoiser cannot take a second forward. Pass devices=1 "
            "and strategy='auto', or write the loop of docs/distributed.md."
        )
    forward = vars(pl_module).get("forward")  # Lightning puts the compiled one on the instance
    if part is pl_module and what_was_compiled(forward) is not forward:
        raise UnsupportedModelError(
            "Expected an eager LightningModule where it is the model, got torch.compile around it, "
            "whose graphs have no second derivative. Compile in place what holds the parameters "
            "(module.net.compile(), say), or name that part: model='net'."
        )
    if trainer.precision not in _PRECISIONS:
        raise DenoiserError(
            f"Expected a precision out of {', '.join(_PRECISIONS)}, got {trainer.precision}: small "
            "gradients vanish in float16. Pass precision='bf16-mixed'."
        )
    if config is not None and config.on_nonfinite == "skip":
        raise DenoiserError(
            "Expected on_nonfinite='raise', got 'skip': Lightning steps on the loss of "
            "training_step all the same. Return None from training_step to leave out a batch."
        )


def _autocast(trainer: Trainer) -> AbstractContextManager[Any]:
    # the other precisions' contexts change torch's default type, which is not the denoiser's
    if not trainer.precision.endswith("mixed"):
        return nullcontext()
    context: AbstractContextManager[Any] = trainer.precision_plugin.forward_context()
    return context


def _compare(found: float, expected: float) -> None:
    if not math.isclose(found, expected, rel_tol=0.02, abs_tol=1e-6):
        raise LossError(
            f"Expected training_step to return the mean of loss_fn(model, batch), {expected:.6g}, "
            f"got {found:.6g}. Pass the per-sample losses that training_step averages, or "
            "penalty=True if it adds something that is to stay unweighted. If something "
            "draws at random before training_step (in on_train_batch_start, say), the second "
            "forward draws otherwise: return guided.weighted_loss(batch)."
        )
