"""g reads losses of the order of one, whatever the loss function's own scale is."""

from __future__ import annotations

from collections.abc import Sequence

from sgdl_wrap.equations.weighting import input_scale
from sgdl_wrap.records import EpochRecord, Phase

_LOSSES = ("loss", "smoothed_loss")


def loss_scale(history: Sequence[EpochRecord]) -> float:
    """What g's losses are divided by, of the mean loss of the last epoch of Phase I (deviation 21).

    Args:
        history: records of the epochs that have ended, oldest first.
    """
    losses = [record.loss for record in history if record.phase is Phase.MEMORIZATION]
    return input_scale(losses[-1]) if losses else 1.0


def input_units(names: Sequence[str], scale: float) -> list[float] | None:
    """What each of g's inputs is divided by: `scale` for losses, else 1; None where all are 1.

    Args:
        names: of the inputs, as `weight_inputs` names them.
        scale: as of :func:`loss_scale`.
    """
    units = [scale if name in _LOSSES else 1.0 for name in names]
    return units if max(units) > 1.0 else None
