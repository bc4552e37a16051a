"""g reads losses of the order of one, whatever the loss function's own scale is."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from torch import Tensor

from sgdl_wrap.memorization.transition import Phase
from sgdl_wrap.records import EpochRecord

_LOSSES = ("loss", "smoothed_loss")


def loss_scale(history: Sequence[EpochRecord]) -> float:
    """max(1, |mean loss of the last epoch of Phase I|): what g's losses are divided by.

    g is drawn for losses of the order of one: a negative log-likelihood of 7, or 700 where it is
    summed over a row, lies where its sigmoid is flat, and all weights are alike or zero. Losses
    below one, as BPR's and BCE's soon are, are left as they are.

    Args:
        history: records of the epochs that have ended, oldest first.
    """
    lived = bisect_left(history, True, key=lambda record: record.phase is Phase.SELF_GUIDED)
    return max(1.0, abs(history[lived - 1].loss)) if lived else 1.0


def scaled_features(features: Tensor, names: Sequence[str], scale: float) -> Tensor:
    """The features with the losses among them divided by `scale`, (B, F).

    Args:
        features: what is known of each sample, (B, F).
        names: of the columns, (F,).
        scale: as of :func:`loss_scale`.
    """
    if scale == 1.0:
        return features
    scaled = features.clone()
    for column, name in enumerate(names):
        if name in _LOSSES:
            scaled[:, column] /= scale
    return scaled
