"""The guidance samples: memorized samples of the batch just seen, kept for the next step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sgdl_wrap.batches.trees import detached_copy, take_rows

ScoresBelowCut = Callable[[Tensor, Tensor], Tensor]  # (users, items) -> (n,) bool


@dataclass(frozen=True)
class Guidance:
    """Samples that judge the next assumed update.

    Attributes:
        batch: a batch that the loss understands.
        rows: which of its losses count, (n,) int64; None where they all do.
        ids: interaction of each, (n,) int64 on the CPU; -1 for memorized negatives.
    """

    batch: Any
    rows: Tensor | None
    ids: Tensor

    def select(self, losses: Tensor) -> Tensor:
        """The (n,) guidance losses among the losses of :attr:`batch`."""
        return losses if self.rows is None else losses[self.rows.to(losses.device)]


def choose_guidance(
    batch: Any,
    ids: Tensor,
    memorized: Tensor,
    users: Tensor,
    items: Tensor,
    *,
    size: int | None,
    with_negatives: bool,
    outside_list: ScoresBelowCut,
    sliceable: bool,
    generator: torch.Generator,
) -> Guidance | None:
    """A uniform draw of memorized samples from a batch, or None where it holds none.

    A memorized interaction is one of M; a memorized negative is an unobserved pair that is not in
    its user's ranking list (Sec. 2: the D of pointwise losses holds y = 0 too).

    Args:
        batch: what the user's loader gave.
        ids: of its samples, (B,) int64; -1 where unobserved.
        memorized: is each sample one of M, (B,) bool.
        users, items: of its samples, (B,) int64.
        size: samples at most; None for all.
        with_negatives: whether unobserved samples may guide.
        outside_list: which of some pairs the model ranks outside their user's list.
        sliceable: whether rows of the batch can be taken; else all of it is kept.
        generator: draws the samples.
    """
    candidates = memorized | (ids < 0) if with_negatives else memorized
    rows = candidates.nonzero().squeeze(1)
    if size is not None and len(rows) > size:
        rows = rows[torch.randperm(len(rows), generator=generator)[:size]].sort().values
    negative = ids[rows] < 0
    if bool(negative.any()):
        keep = ~negative
        places = negative.nonzero().squeeze(1)
        keep[places] = outside_list(users[rows[places]], items[rows[places]])
        rows = rows[keep]
    if len(rows) == 0:
        return None
    if sliceable:
        return Guidance(take_rows(batch, rows), None, ids[rows])
    return Guidance(detached_copy(batch), rows, ids[rows])
