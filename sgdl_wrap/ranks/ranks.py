"""The processes that train together, and what they tell each other.

Alone, every method hands back what it was given, and nothing of torch.distributed is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sgdl_wrap.errors import DenoiserError, OrderError
from sgdl_wrap.notices import warn

G = TypeVar("G")  # a tensor, or the gradient in some rows of a table
CHUNK = 1 << 22  # elements that are on their way at once


@dataclass(frozen=True)
class Gathered:
    """Rows of all ranks, one after the other, and where this rank's are: first <= row < last."""

    rows: Tensor
    first: int
    last: int

    def own(self, rows: Tensor) -> Tensor:
        """This rank's part of what was made of :attr:`rows`, one for one."""
        return rows[self.first : self.last]


class Ranks:
    """This process among those that train one model.

    Every method but :meth:`generator` and those that only read talks to the other ranks: all of
    them must call it, in the same order.

    Args:
        group: the process group; None for a process alone.
        device: where the group's backend can take tensors from: the model's.

    Attributes:
        rank, size: this process's number, and how many there are.
        replicated: whether every rank knows all interactions; else each knows those of its own
            users. Decided by :func:`~sgdl_wrap.ranks.layout.settle`.
    """

    def __init__(self, group: Any = None, device: torch.device | None = None) -> None:
        self._group = group
        self._device = device
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)
        self.replicated = False

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    # ------------------------------------------------------------------ numbers

    def sums(self, *numbers: float) -> list[float]:
        """Each number summed over the ranks."""
        if not self.several:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        dist.all_reduce(values, group=self._group)
        found: list[float] = values.tolist()
        return found

    def sums_of(self, counts: Tensor) -> Tensor:
        """Numbers of the CPU summed over the ranks, one by one."""
        if not self.several:
            return counts
        sent = counts.to(self._device, copy=True)
        dist.all_reduce(sent, group=self._group)
        return sent.to(counts.device)

    def any(self, flag: bool) -> bool:
        """Whether it holds on any rank."""
        return self.sums(float(flag))[0] > 0 if self.several else flag

    def total(self, count: int) -> int:
        """A count over this rank's interactions, as one over all of them."""
        return count if self.replicated else int(self.sums(count)[0])

    def share(self, size: int | None) -> int | None:
        """This rank's part of a number of samples, rounded up; None, for all, stays."""
        return None if size is None else -(-size // self.size)

    def extent(self, values: np.ndarray) -> tuple[int, float, float]:
        """How many values the ranks have, the least and the largest; NaN where there are none."""
        low, high = (float(values.min()), float(values.max())) if len(values) else (np.inf, -np.inf)
        if not self.several:
            return len(values), low, high
        ends = torch.tensor([-low, high], dtype=torch.float64, device=self._device)
        dist.all_reduce(ends, op=dist.ReduceOp.MAX, group=self._group)
        return int(self.sums(len(values))[0]), -ends[0].item(), ends[1].item()

    # ------------------------------------------------------------------ rows

    def gather(self, mine: Tensor) -> Gathered:
        """The rows of all ranks, rank 0's first; ranks may have different numbers of them."""
        if not self.several:
            return Gathered(mine, 0, len(mine))
        mine = mine.detach()
        sent = mine.to(self._device)
        lengths = [torch.zeros(1, dtype=torch.int64, device=self._device) for _ in range(self.size)]
        dist.all_gather(lengths, torch.full_like(lengths[0], len(sent)), group=self._group)
        counts = [int(length) for length in lengths]
        padded = sent.new_zeros(max(counts), *sent.shape[1:])
        padded[: len(sent)] = sent
        parts = [torch.zeros_like(padded) for _ in counts]
        if max(counts):
            dist.all_gather(parts, padded, group=self._group)
        rows = torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])
        first = sum(counts[: self.rank])
        return Gathered(rows.to(mine.device), first, first + len(mine))

    def noted(self, ids: np.ndarray, values: Tensor) -> tuple[np.ndarray, Tensor]:
        """What this rank is to remember of interactions that were seen, (m,) and (m, F).

        Where every rank knows all interactions, what all ranks have seen: any of them may meet the
        interaction next.
        """
        if not self.replicated:
            return ids, values
        columns = torch.from_numpy(ids).to(values.device)[:, None]
        found = self.gather(torch.cat([columns.double(), values.double()], dim=1)).rows
        return found[:, 0].long().cpu().numpy(), found[:, 1:].to(values.dtype)

    # ------------------------------------------------------------------ gradients

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor summed over the ranks, in place."""
        if self.several:
            works = [dist.all_reduce(t, group=self._group, async_op=True) for t in tensors]
            for work in works:
                work.wait()

    def summed(
        self, gradients: Sequence[G], scale: float
    ) -> tuple[Sequence[G | Tensor], float]:
        """Gradients g and a factor λ with λ g = Σ_ranks scale g, dense and without graph.

        Ranks may have different factors, as where their batches are of different sizes.
        """
        if not self.several:
            return gradients, scale
        scaled: list[Tensor] = []
        for g in gradients:
            if not isinstance(g, Tensor):
                raise TypeError("the rows of a table differ from rank to rank: take all of it")
            scaled.append((g.to_dense() if g.is_sparse else g).detach() * scale)
        self.sum_(scaled)
        return scaled, 1.0

    # ------------------------------------------------------------------ parts

    def known(self, values: np.ndarray) -> np.ndarray:
        """What any rank knows of each interaction or user, NaN where none does, float32.

        Where several do, the largest counts.
        """
        found = np.empty_like(values, dtype=np.float32)
        for first in range(0, len(values), CHUNK):
            part = torch.from_numpy(values[first : first + CHUNK]).to(self._device)
            part = torch.nan_to_num(part, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
            dist.all_reduce(part, op=dist.ReduceOp.MAX, group=self._group)
            part = torch.where(part == -torch.inf, torch.nan, part)
            found[first : first + CHUNK] = part.cpu().numpy()
        return found

    def joined_bits(self, packed: np.ndarray) -> np.ndarray:
        """Packed bits, of which each rank has found some that no other has."""
        found = np.empty_like(packed)
        for first in range(0, len(packed), CHUNK):  # no rank's bit is another's: a sum joins them
            part = self.sums_of(torch.from_numpy(packed[first : first + CHUNK]))
            found[first : first + CHUNK] = part.numpy()
        return found

    def objects(self, mine: object) -> list[Any]:
        """A small plain value of each rank."""
        if not self.several:
            return [mine]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine, group=self._group)
        return found

    # ------------------------------------------------------------------ order

    def generator(self, shared: torch.Generator, time: int) -> torch.Generator:
        """For draws whose number differs by rank: `shared` is left as it is, the same on all.

        Args:
            time: counts the uses, so that each draws otherwise.
        """
        if not self.several:
            return shared
        copy = torch.Generator().set_state(shared.get_state())
        drawn = int(torch.randint(2**62, (1,), generator=copy))
        return torch.Generator().manual_seed(drawn + time * self.size + self.rank)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What fails on one rank inside fails on all, so that none waits for another.

        Raises:
            DenoiserError: of the type, and with the message, of the first rank that failed.
        """
        if not self.several:
            yield
            return
        failure: DenoiserError | None = None
        try:
            yield
        except DenoiserError as error:
            failure = error
        failures = self.objects(failure)
        if failure is not None:
            raise failure
        for rank, other in enumerate(failures):
            if other is not None:
                raise type(other)(f"{other} It came up on rank {rank} of {self.size}.")

    def refuse_own_epoch_end(self) -> None:
        """One rank cannot tell when all have passed their pairs.

        Raises:
            OrderError: there are others.
        """
        if self.several:
            raise OrderError(
                f"Expected end_epoch() after each pass over the loader, as {self.size} ranks "
                "train together, got none in two passes. Call it on every rank, after the loop."
            )


ALONE = Ranks()


def ranks_of(model: nn.Module) -> Ranks:
    """The ranks that a model is trained by; alone where DistributedDataParallel does not hold it.

    Warns:
        DenoiserWarning: a bare model although there is a group of processes.
    """
    if isinstance(model, DistributedDataParallel):
        return Ranks(model.process_group, next(model.parameters()).device)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        warn(
            f"Expected the model in DistributedDataParallel, as {dist.get_world_size()} processes "
            "run together, got it bare. Each process denoises by itself; pass the wrapped model "
            "if they train one."
        )
    return ALONE
