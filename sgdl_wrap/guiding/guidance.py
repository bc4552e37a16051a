"""The guidance samples (Eq. 6): memorized samples of a batch, kept for the next step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.batches.samples import Samples
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.errors import BatchError
from sgdl_wrap.model.trees import detached_copy, has_rows, take_rows

ScoresBelowCut = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (users, items) -> (n,) bool


@dataclass(frozen=True)
class Guidance:
    """Samples that judge the next assumed update.

    Attributes:
        batch: a batch that the loss understands.
        rows: which of its losses count, (n,) int64; None where they all do.
        ids: interaction of each, (n,) int64; -1 for memorized negatives.
        restored: whether the batch comes out of a saved state.
    """

    batch: Any
    rows: Tensor | None
    ids: np.ndarray
    restored: bool = False

    def select(self, losses: Tensor) -> Tensor:
        """The (n,) guidance losses among the losses of :attr:`batch`."""
        return losses if self.rows is None else losses[self.rows.to(losses.device)]

    def pieces(self, most: int | None) -> list[Guidance]:
        """The same samples in order, at most so many at a time, in pieces of nearly one size.

        All of them in one where they are a part of a batch that stays whole.
        """
        if most is None or self.rows is not None or len(self.ids) <= most:
            return [self]
        parts = torch.arange(len(self.ids)).tensor_split(-(-len(self.ids) // most))
        return [
            replace(self, batch=take_rows(self.batch, p), ids=self.ids[p.numpy()]) for p in parts
        ]


@dataclass(frozen=True)
class GuidanceDraw:
    """A uniform draw of memorized samples from a batch.

    A memorized interaction is one of M; a memorized negative is an unobserved pair that is not in
    its user's ranking list (Sec. 2: the D of pointwise losses holds y = 0 too; deviation 12). The
    batch just seen is a part of the data, and so are its memorized samples of M (deviation 11).

    Attributes:
        size: samples at most; None for all.
        with_negatives: whether unobserved samples may guide.
        outside_list: which of some pairs the model ranks outside their user's list.
        sliceable: whether rows of the batch can be taken; else all of it is kept.
        generator: draws the samples.
    """

    size: int | None
    with_negatives: bool
    outside_list: ScoresBelowCut
    sliceable: bool
    generator: torch.Generator

    def of(self, batch: Any, samples: Samples, memorized: np.ndarray) -> Guidance | None:
        """The guidance of a batch; None if it holds none.

        Args:
            batch: what the user's loader gave.
            samples: which pairs its B samples are.
            memorized: is each sample one of M, (B,) bool.
        """
        candidates = memorized | samples.negative if self.with_negatives else memorized
        rows = np.flatnonzero(candidates)
        if self.size is not None and len(rows) > self.size:
            drawn = torch.randperm(len(rows), generator=self.generator)[: self.size]
            rows = rows[drawn.numpy()]
            rows.sort()
        negative = np.flatnonzero(samples.negative[rows])
        if len(negative):
            keep = np.ones(len(rows), dtype=bool)
            unsure = rows[negative]
            keep[negative] = self.outside_list(samples.users[unsure], samples.items[unsure])
            rows = rows[keep]
        if len(rows) == 0:
            return None
        places = torch.from_numpy(rows)
        if self.sliceable and has_rows(batch, len(samples.ids)):  # batches may differ in layout
            return Guidance(take_rows(batch, places), None, samples.ids[rows])
        return Guidance(detached_copy(batch), places, samples.ids[rows])


def check_guidance_fits(size: int, config: DenoiserConfig, *, sliceable: bool | None) -> None:
    """Refuses batches that would be evaluated whole for guidance and are larger than may be.

    Args:
        size: B.
        sliceable: whether rows of the batch can be taken.

    Raises:
        BatchError: such a batch; nothing was changed.
    """
    most = config.max_guidance_batch
    too_large = most is not None and size > most
    if config.variants.denoising_learning and sliceable is False and too_large:
        raise BatchError(
            f"Expected at most max_guidance_batch={most} samples in a batch whose rows have other "
            f"losses alone, got {size} in this batch: guidance evaluates all of it at once. "
            "Make batches smaller, raise max_guidance_batch, or let loss_fn and the layout treat "
            "each row by itself."
        )
