"""Hugging Face: a callback and one method denoise the training of a `transformers.Trainer`.

    guided = SelfGuidedCallback(next_item_losses, interactions=(users, items), ...)

    class Denoised(Trainer):
        def compute_loss(self, *args, **kwargs):
            return guided.compute_loss(super().compute_loss, *args, **kwargs)

    Denoised(..., callbacks=[guided]).train()

`super().compute_loss` returns a loss that is reduced already, F(θ) = (1/N) Σ_k L_k(θ) + R(θ). N is
the number of the batch's samples or, where gradients accumulate, of all samples before the
optimizer's step. `losses` gives the L_k(θ) of the same forward. The method returns
F(θ) + (1/N) Σ_k (w_k - 1) L_k(θ), the actual update of Eq. 9; in Phase I that is F(θ) itself.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

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
from sgdl_wrap.integrations.huggingface_checkpoint import restore, save
from sgdl_wrap.integrations.huggingface_losses import (
    Batch,
    masked_item_losses,
    masked_item_pairs,
    next_item_losses,
    next_item_pairs,
)
from sgdl_wrap.model.calls import ScoreFn
from sgdl_wrap.model.numbers import check_gradients
from sgdl_wrap.records import Phase

try:
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    raise ImportError(
        'Expected Transformers, got none installed. Run `pip install "sgdl-wrap[huggingface]"`.'
    ) from error

__all__ = [
    "SelfGuidedCallback",
    "masked_item_losses",
    "masked_item_pairs",
    "next_item_losses",
    "next_item_pairs",
]

LossesOf = Callable[[Any, Batch], Tensor]  # (outputs, batch) -> (B,)

_GRADIENT_REMEDY = (
    "Lower the learning rate, or look for sqrt(0), log(0) and 0/0 in the model and its loss."
)


class SelfGuidedCallback(TrainerCallback):
    """Denoises the training of a Trainer whose `compute_loss` asks :meth:`compute_loss`.

    In Phase I the training is bit for bit what it is without. Epochs are the Trainer's; each ends
    with its last batch, before an evaluation or a checkpoint that follows. Every checkpoint gets
    the denoiser's state as ``denoiser.pt``, and a run resumed from one goes on bit for bit if its
    batches do. Logged at the end of each epoch: `sgdl_phase` (1 or 2), `sgdl_memorized_ratio`,
    `sgdl_noise_rate`.

    Args:
        losses: ``losses(outputs, batch)`` returns the per-sample losses, (B,), whose mean the
            Trainer's own loss is: :func:`next_item_losses`, :func:`masked_item_losses`, or one of
            yours. `outputs` are those of the model, `batch` is all that the loader gave.
        interactions: as in SelfGuidedDenoiser, and so are the next five. For
            :func:`next_item_pairs` and :func:`masked_item_pairs`, number items as tokens.
        n_items: size of the catalogue, here the number of tokens.
        score_fn: scores of pairs, higher for better items.
        pair_fn: the pairs of a batch, in the order of the losses.
        config: every choice of the method.
        enabled: False is plain training.
        penalty: whether the Trainer's own loss has more than that mean (label smoothing, a
            regulariser), which is to stay unweighted. If not, a loss that differs is refused.

    Attributes:
        denoiser: the SelfGuidedDenoiser, from the start of training on; None before.

    Raises, when training starts or at its first batch:
        DenoiserError: `remove_unused_columns`, float16, `on_nonfinite="skip"`.
        UnsupportedModelError: several processes or devices, or `torch_compile`.
        LossError: the Trainer's own loss is another.
        OrderError: `compute_loss` of the Trainer does not ask the callback.
        And what SelfGuidedDenoiser raises.

    Raises, before the optimizer steps:
        NonFiniteError: NaN or Inf in the gradients, which are dropped; no parameter has changed.

    Raises, where a run is resumed:
        StateError: the denoiser's file is missing, damaged, or of another checkpoint.

    Warns:
        DenoiserWarning: resumed from a checkpoint that was saved without the callback.
    """

    def __init__(
        self,
        losses: LossesOf,
        *,
        interactions: tuple[Any, Any],
        n_items: int | None = None,
        score_fn: ScoreFn | None = None,
        pair_fn: PairFn | None = None,
        config: DenoiserConfig | None = None,
        enabled: bool = True,
        penalty: bool = False,
    ) -> None:
        self.denoiser: SelfGuidedDenoiser | None = None
        # a partial, so that what the user's function keeps is put back after calls of ours
        self._loss_fn = partial(self._losses_of, losses)
        self._arguments: dict[str, Any] = {
            "interactions": interactions, "n_items": n_items, "score_fn": score_fn,
            "pair_fn": pair_fn, "config": config, "enabled": enabled,
        }  # fmt: skip
        self._penalty = penalty
        self._compared = False  # the Trainer's loss with ours
        self._trainer: Any = None  # known from its first batch on
        self._step: _Step | None = None
        self._watched = 0  # batches since the epoch began

    def compute_loss(
        self,
        own: Callable[..., Any],
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The Trainer's own loss, in Phase II with its samples weighted.

        Evaluation gets the Trainer's own loss in both phases. The model is given what its forward
        names, as with the Trainer's `remove_unused_columns`.

        Args:
            own: ``super().compute_loss`` of the Trainer.
            model: what its `compute_loss` was given, and so are the next three.
            inputs: the batch.
            return_outputs: whether the model's outputs are to be returned, too.
            num_items_in_batch: samples of all batches that are accumulated.

        Returns:
            What `compute_loss` is to return: the loss, (), or the loss and the model's outputs.

        Raises:
            OrderError: the callback is not the Trainer's.
            BatchError, InteractionsError, LossError, NonFiniteError: as
                `SelfGuidedDenoiser.before_step` and its `weighted_loss`.
        """
        self._trainer = _trainer_of(own)
        own = partial(own, num_items_in_batch=num_items_in_batch)
        if not model.training or not self._arguments["enabled"]:
            return own(model, self._named(inputs), return_outputs=return_outputs)
        denoiser = self._checked_denoiser(model)
        weighs = denoiser.phase is Phase.SELF_GUIDED
        self._step = step = _Step(own, inputs)
        try:
            with self._autocast():
                denoiser.before_step(inputs)
                # in Phase I the graph of the Trainer's own loss is all that is needed
                with torch.set_grad_enabled(weighs):
                    plain, weighted = denoiser.plain_and_weighted_loss(inputs)
        finally:
            self._step = None
        self._watched += 1
        loss = step.loss
        if weighs or not self._compared:
            share = _share(step, float(plain.detach()), num_items_in_batch)
            if not self._compared and not self._penalty:
                _compare(float(loss.detach()), share * float(plain.detach()))
            self._compared = True
            if weighs:
                loss = loss + share * (weighted - plain).to(loss.dtype)
        return (loss, step.outputs) if return_outputs else loss

    # ------------------------------------------------------------------ the Trainer's events

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Builds the denoiser around the optimizer, which is there by now, and its state back."""
        _check_arguments(args, self._arguments["config"])
        model = kwargs["model"]
        denoiser = SelfGuidedDenoiser(
            model, kwargs["optimizer"], self._loss_fn,
            explicit_epochs=True,  # the Trainer says where an epoch ends
            **self._arguments,
        )
        if state.global_step > 0 and denoiser.enabled:
            restore(denoiser, model, args, state)
        self.denoiser, self._compared, self._watched = denoiser, False, 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Looks at the gradients before a parameter changes."""
        if self.denoiser is None or not self.denoiser.enabled:
            return
        if self._watched == 0:
            raise OrderError(
                "Expected compute_loss of the Trainer to ask the callback, got a step without. "
                "Define in a subclass: def compute_loss(self, *args, **kwargs): "
                "return guided.compute_loss(super().compute_loss, *args, **kwargs)"
            )
        with batch_named(f"step {state.global_step + 1}"):
            check_gradients([kwargs["optimizer"]], _GRADIENT_REMEDY)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends the epoch with its last batch, so that a checkpoint there holds its end."""
        if float(state.epoch).is_integer():
            self._end_epoch(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends an epoch that was cut short, or whose length the Trainer does not know."""
        self._end_epoch(control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The denoiser's file, beside the Trainer's."""
        if self.denoiser is not None and self.denoiser.enabled:
            save(self.denoiser, kwargs["model"], args, state)

    # ------------------------------------------------------------------ steps

    def _losses_of(self, losses: LossesOf, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """L(θ) of a batch, (B,). The Trainer's own forward gives that of the step itself."""
        step = self._step
        if step is None or batch is not step.batch:  # one more call, at other parameters say
            return losses(model(**self._named(batch)), batch)
        with torch.enable_grad():
            loss, step.outputs = step.own(model, self._named(batch), return_outputs=True)
        found = losses(step.outputs, batch)
        step.loss, step.samples = loss, len(found)
        return found

    def _named(self, inputs: Batch) -> dict[str, Any]:
        """What the model's forward names of a batch; all of it, if it names nothing."""
        kinds = inspect.signature(self._trainer.model.forward).parameters.values()
        names = {p.name for p in kinds if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        taken = names | {"labels", *self._trainer.label_names}
        return {name: part for name, part in inputs.items() if not names or name in taken}

    def _checked_denoiser(self, model: nn.Module) -> SelfGuidedDenoiser:
        if self.denoiser is None or self not in self._trainer.callback_handler.callbacks:
            raise OrderError(
                "Expected the callback among those of the Trainer, got another Trainer. Pass "
                "callbacks=[guided]."
            )
        if self.denoiser.model is not model:
            raise UnsupportedModelError(
                f"Expected the model itself, got {type(model).__name__} around it. Leave "
                "torch_compile out, and call model.compile() before."
            )
        return self.denoiser

    def _end_epoch(self, control: Any) -> None:
        if self.denoiser is None or self._watched == 0:
            return
        with self._autocast():
            record = self.denoiser.end_epoch()
        self._watched = 0
        found = {"sgdl_phase": 1.0 if self.denoiser.phase is Phase.MEMORIZATION else 2.0}
        if record is not None:
            found["sgdl_memorized_ratio"] = record.memorized_ratio
        if self.denoiser.noise_rate is not None:
            found["sgdl_noise_rate"] = self.denoiser.noise_rate
        due = control.should_log  # of the Trainer's own, which a log takes for done
        self._trainer.log(found)
        control.should_log = due

    def _autocast(self) -> AbstractContextManager[Any]:
        # prepare has put it into the model's forward alone, and not into that of its twin
        args = self._trainer.args
        return torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16)


class _Step:
    """A batch in training, and what the Trainer's own loss gave for it."""

    def __init__(self, own: Callable[..., Any], batch: dict[str, Any]) -> None:
        self.own = own
        self.batch = batch
        self.loss: Tensor
        self.outputs: Any = None
        self.samples = 0


def _trainer_of(own: Any) -> Any:
    trainer = getattr(own, "__self__", None)
    if not isinstance(trainer, Trainer):
        raise DenoiserError(
            f"Expected super().compute_loss of a Trainer first, got {type(own).__name__}. Write "
            "return guided.compute_loss(super().compute_loss, *args, **kwargs)."
        )
    return trainer


def _share(step: _Step, mean: float, accumulated: Tensor | int | None) -> float:
    """How the Trainer's own loss is made of the mean over its batch: 1, or the batch's share.

    Of batches that are accumulated the Trainer has the model divide by all their samples, if its
    forward takes ``num_items_in_batch``. Some models take it and average all the same, BERT's
    among them, so only the loss can tell.
    """
    if accumulated is None:
        return 1.0
    found = float(step.loss.detach())
    shares = (1.0, step.samples / float(accumulated))
    return min(shares, key=lambda share: abs(found - share * mean))


def _check_arguments(args: Any, config: DenoiserConfig | None) -> None:
    """Refuses what the callback cannot denoise; the message names the way round."""
    if args.remove_unused_columns:
        raise DenoiserError(
            "Expected remove_unused_columns=False, got True: the Trainer would take the users out "
            "of each batch. Pass False; the model is given no more than its forward names all the "
            "same."
        )
    if args.world_size > 1 or args.n_gpu > 1:
        raise UnsupportedModelError(
            f"Expected one process and one device, got {max(args.world_size, args.n_gpu)}. Set "
            "CUDA_VISIBLE_DEVICES to one of them, or write the loop of docs/accelerate.md."
        )
    if args.fp16:
        raise DenoiserError(
            "Expected bf16 or full precision, got fp16: small gradients vanish in float16. Pass "
            "bf16=True."
        )
    if config is not None and config.on_nonfinite == "skip":
        raise DenoiserError(
            "Expected on_nonfinite='raise', got 'skip': the Trainer steps on its own loss all the "
            "same. Leave on_nonfinite as it is."
        )


def _compare(found: float, expected: float) -> None:
    if not math.isclose(found, expected, rel_tol=0.02, abs_tol=1e-6):
        raise LossError(
            f"Expected the Trainer's own loss to be the mean of losses(outputs, batch), "
            f"{expected:.6g}, got {found:.6g}. Pass the per-sample losses that it averages, or "
            "penalty=True if it has more that is to stay unweighted (label smoothing, say)."
        )
