"""What can go wrong, as a tree. Every message reads "Expected X, got Y. Do Z.".

DenoiserError
├── InteractionsError   the observed pairs handed over at construction
├── BatchError          a batch whose pairs cannot be found: give `pair_fn`
├── LossError           `loss_fn` must return finite, unreduced losses of shape (B,)
│   └── NonFiniteError  NaN or Inf in losses, gradients, ψ or φ: see `on_nonfinite`
├── ScoreError          `score_fn` must return one score per pair, finite or -inf
├── OptimizerError      the optimizer must hold the model's trainable parameters
├── UnsupportedModelError   the model cannot be evaluated at virtual parameters: see the remedy
├── OrderError          before_step and step called out of turn or with different batches
├── NoiseRateError      the noise rate cannot be estimated
├── SwitchError         Phase II cannot begin
└── StateError          a state dict that does not fit this denoiser
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

THIS_BATCH = "this batch"  # in messages, until the loop gives it its name


class DenoiserError(ValueError):
    """Base class of every error this library raises on purpose."""


class InteractionsError(DenoiserError):
    """The observed pairs are empty, mismatched, negative or past `n_items`."""


class BatchError(DenoiserError):
    """The observed pairs of a batch cannot be read, or none of them is known."""


class LossError(DenoiserError):
    """`loss_fn` returned something else than finite per-sample losses of shape (B,)."""


class NonFiniteError(LossError):
    """NaN or Inf in losses, a penalty, weights or gradients; no parameter has changed."""


class ScoreError(DenoiserError):
    """`score_fn` returned something else than one score per pair, finite or -inf."""


class OptimizerError(DenoiserError):
    """The optimizer does not fit the model, or cannot be stepped by the denoiser."""


class UnsupportedModelError(DenoiserError):
    """The model or loss would be silently wrong at virtual parameters."""


class OrderError(DenoiserError, RuntimeError):
    """`before_step` and `step` were called out of turn."""


class NoiseRateError(DenoiserError):
    """The noise rate cannot be estimated from these losses."""


class SwitchError(DenoiserError, RuntimeError):
    """Phase II cannot begin: there is nothing memorized to learn from."""


class StateError(DenoiserError):
    """A state dict belongs to other data, another configuration or another version."""


class DenoiserWarning(UserWarning):
    """Said once: something works, but not as the user may expect."""


def named(message: str, batch: str) -> str:
    """A message about "this batch" with the batch's name."""
    return message.replace(THIS_BATCH, batch)


@contextmanager
def batch_named(batch: str) -> Iterator[None]:
    """Errors that come up inside name the batch, by what they call "this batch".

    Raises:
        DenoiserError: what came up, the same object.
    """
    try:
        yield
    except DenoiserError as error:
        error.args = (named(str(error), batch),)
        raise
