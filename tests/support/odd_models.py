"""Models that use their tables in every way we know of, each odd in one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from tests.support.models_zoo import (
    N_ITEMS,
    N_USERS,
    WIDTH,
    Case,
    seeded,
)

Batch = tuple[Tensor, Tensor]
TRAINED, GUIDING = 12, 9  # samples


class Odd(nn.Module):
    """score = Σ tanh(u)·i, by `look`, which the odd ones change; tables are registered first."""

    options: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(N_USERS, WIDTH, **self.options)
        self.item = nn.Embedding(N_ITEMS, WIDTH, **self.options)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return self.scale * (torch.tanh(self.user(users)) * self.look(items)).sum(-1)

    def look(self, items: Tensor) -> Tensor:
        return self.item(items)


class Padding(Odd):
    options = {"padding_idx": 3}  # noqa: RUF012


class Sparse(Odd):
    options = {"sparse": True}  # noqa: RUF012


class ByFrequency(Odd):
    options = {"scale_grad_by_freq": True}  # noqa: RUF012


class NegativePadding(Odd):
    def look(self, items: Tensor) -> Tensor:
        return F.embedding(items, self.item.weight, padding_idx=4 - N_ITEMS)


class TwoPaddings(Odd):
    """What pads in one look-up is an item in another."""

    def look(self, items: Tensor) -> Tensor:
        weight = self.item.weight
        return F.embedding(items, weight, 4) * F.embedding(items, weight, 5) + self.item(items)


class Repeated(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items) * self.item(items.flip(0)) + self.item(items % 3)


class Histories(Odd):
    def look(self, items: Tensor) -> Tensor:
        history = torch.stack([items, (items * 7 + 1) % N_ITEMS, items.flip(0)], dim=1)
        return torch.tanh(self.item(history)).prod(1) + self.item(history[:, None, :2]).sum((1, 2))


class Strided(Odd):
    """Ids that are a column."""

    def look(self, items: Tensor) -> Tensor:
        return self.item(torch.stack([items, items.flip(0)], dim=1)[:, 1])


class SingleId(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items) * self.item(items[0])


class Int32(Odd):
    def look(self, items: Tensor) -> Tensor:
        return F.embedding(input=items.int(), weight=self.item.weight)


class ChangedInPlace(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items).mul_(2.0)


class ChangedThroughAView(Odd):
    def look(self, items: Tensor) -> Tensor:
        rows = self.item(items)
        rows[:, 0] = torch.sin(rows[:, 1].clone())
        return rows


class ChangedWithoutGradient(Odd):
    def look(self, items: Tensor) -> Tensor:
        rows = self.item(items)
        with torch.no_grad():
            rows.mul_(2.0)
        return rows


class ChangedInGuidance(Odd):
    def look(self, items: Tensor) -> Tensor:
        rows = self.item(items)
        return rows if len(items) == TRAINED else rows.mul_(2.0)


class AlsoWithoutGradient(Odd):
    def look(self, items: Tensor) -> Tensor:
        with torch.no_grad():
            anchor = self.item(items.flip(0))
        return self.item(items) * torch.sigmoid(anchor)


class AlsoInInference(Odd):
    """Which is nearest is asked of the whole table, by its values alone."""

    def look(self, items: Tensor) -> Tensor:
        with torch.inference_mode():
            nearest = (self.item(items) @ self.item.weight.T).topk(2).indices[:, 1].tolist()
        return self.item(items) * self.item(torch.tensor(nearest))


class Detached(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items).detach()


class DetachedInPlace(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items).detach_() * self.item(items.flip(0))


class TiedOutput(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items) + (self.item(items) @ self.item.weight.T) @ self.item.weight


class Penalized(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items) / self.item.weight.norm()


class WholeInTraining(Odd):
    def look(self, items: Tensor) -> Tensor:
        rows = self.item(items)
        return rows * self.item.weight.sum(0) if len(items) == TRAINED else rows


class WholeInGuidance(Odd):
    def look(self, items: Tensor) -> Tensor:
        rows = self.item(items)
        return rows * self.item.weight.sum(0) if len(items) == GUIDING else rows


class WrittenInGuidance(Odd):
    """The table is normalized in place, between its look-ups."""

    def look(self, items: Tensor) -> Tensor:
        if len(items) == GUIDING:
            with torch.no_grad():
                self.item.weight.div_(self.item.weight.norm(dim=1, keepdim=True))
        return self.item(items)


class WrittenInto(Odd):
    def look(self, items: Tensor) -> Tensor:
        with torch.no_grad():
            self.item.weight.div_(self.item.weight.norm(dim=1, keepdim=True))
        return self.item(items)


class Renormalized(Odd):
    def look(self, items: Tensor) -> Tensor:
        return F.embedding(items, self.item.weight, max_norm=0.5)


class RenormalizedInGuidance(Odd):
    def look(self, items: Tensor) -> Tensor:
        most = 0.5 if len(items) == GUIDING else None
        return F.embedding(items, self.item.weight, max_norm=most) * self.item(items.flip(0))


class ByFrequencyInGuidance(Odd):
    def look(self, items: Tensor) -> Tensor:
        return F.embedding(
            items % 4, self.item.weight, scale_grad_by_freq=len(items) == GUIDING
        ) * self.item(items)


class Concatenated(Odd):
    def look(self, items: Tensor) -> Tensor:
        return F.embedding(items + 1, torch.cat([torch.ones(1, WIDTH).double(), self.item.weight]))


class Stacked(Odd):
    def look(self, items: Tensor) -> Tensor:
        weight = self.item.weight
        return torch.stack((weight, weight)).sum(0)[items] + self.item(items)


class Indexed(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item.weight[items] * self.item.weight.index_select(0, items)


class Transposed(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items) + F.embedding(items, self.item.weight.T.T)


class OfItsData(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items) * F.embedding(items, self.item.weight.data)


class LowLevel(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items) * torch.ops.aten.embedding(self.item.weight, items)


class Asking(Odd):
    """What the table is like decides, and is asked without using its values."""

    def look(self, items: Tensor) -> Tensor:
        weight = self.item.weight
        asked = (
            weight.requires_grad, weight.is_leaf, weight.is_contiguous(), weight.stride(),
            len(weight), weight.size(0), weight.dim(), weight.ndim, weight.numel(),
            weight.dtype, weight.device, weight.layout, weight.is_sparse, weight.is_cuda,
        )  # fmt: skip
        assert asked == (
            True, True, True, (WIDTH, 1), N_ITEMS, N_ITEMS, 2, 2, N_ITEMS * WIDTH,
            torch.float64, torch.device("cpu"), torch.strided, False, False,
        )  # fmt: skip
        return self.item(items % len(weight)) * weight.shape[1]


class Checkpointed(Odd):
    def look(self, items: Tensor) -> Tensor:
        return checkpoint(self._inner, items, use_reentrant=False)

    def _inner(self, items: Tensor) -> Tensor:
        return torch.sin(self.item(items)) * torch.tanh(self.item(items.flip(0)))


class _Select(torch.autograd.Function):
    """w[ids], differentiable twice."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shape = weight.shape
        return weight.index_select(0, ids)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (ids,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.shape).index_add(0, ids, gradient), None


class _Embed(_Select):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shape = weight.shape
        return F.embedding(ids, weight)


class CustomFunction(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items) * _Select.apply(self.item.weight, items.flip(0))


class CustomFunctionAlone(Odd):
    def look(self, items: Tensor) -> Tensor:
        return _Select.apply(self.item.weight, items)


class CustomFunctionThatLooksUp(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items) * _Embed.apply(self.item.weight, items.flip(0))


class CustomFunctionInGuidance(Odd):
    def look(self, items: Tensor) -> Tensor:
        if len(items) == TRAINED:
            return self.item(items)
        return self.item(items) * _Select.apply(self.item.weight, items.flip(0))


def unseen(weight: Tensor, ids: Tensor) -> Tensor:
    """As TorchScript and extensions do it: past what Python may overload."""
    with torch._C.DisableTorchFunction():
        return F.embedding(ids, weight)


class Unseen(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items) * unseen(self.item.weight, items.flip(0))


class UnseenInGuidance(Odd):
    def look(self, items: Tensor) -> Tensor:
        if len(items) == TRAINED:
            return self.item(items)
        return self.item(items) * unseen(self.item.weight, items.flip(0))


class InAThread(Odd):
    def look(self, items: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(self.item, items).result() * self.item(items.flip(0))


class Mapped(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items) * torch.vmap(self.item)(items[:, None])[:, 0]


class SharedByTwo(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(self.item, nn.Tanh())
        self.right = nn.ModuleDict({"table": self.item})

    def look(self, items: Tensor) -> Tensor:
        return self.left(items) * self.right["table"](items.flip(0)) + self.item(items)


class FrozenFirst(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.user.requires_grad_(False)


class UnusedInTraining(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items) if len(items) == GUIDING else torch.ones(len(items), WIDTH)


class UnusedInGuidance(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items) if len(items) == TRAINED else torch.ones(len(items), WIDTH)


class PaddingAlone(Padding):
    """The training batch looks up nothing else."""

    def look(self, items: Tensor) -> Tensor:
        return 1 + self.item(torch.full_like(items, 3) if len(items) == TRAINED else items)


class Disjoint(Odd):
    def look(self, items: Tensor) -> Tensor:
        return self.item(items % 5 + (5 if len(items) == TRAINED else 0))


class Caching(Odd):
    def look(self, items: Tensor) -> Tensor:
        if not hasattr(self, "kept"):
            self.kept = self.item(items)
            self.before = 1.0
        rows = self.kept * self.before
        self.before = self.kept.detach().mean()
        del self.kept
        return rows


class Hooked(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.item.register_forward_hook(lambda module, inputs, output: torch.sin(3 * output))


class HookedWithAnother(Odd):
    """What the look-up gave is not used at all."""

    def __init__(self) -> None:
        super().__init__()
        self.item.register_forward_hook(lambda module, inputs, output: module.weight[inputs[0]])


class RowsHooked(Odd):
    def look(self, items: Tensor) -> Tensor:
        rows = self.item(items)
        rows.register_hook(lambda gradient: 3 * gradient)
        return rows


class TableHooked(Odd):
    """The first rows are kept, as pretrained ones sometimes are."""

    def __init__(self) -> None:
        super().__init__()
        self.double()  # a parameter of another type would forget its hook
        self.item.weight.register_hook(
            lambda gradient: gradient * (torch.arange(N_ITEMS) > 6)[:, None]
        )


class Dropped(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def look(self, items: Tensor) -> Tensor:
        return 1 + self.dropout(self.item(items))


class Doubling(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        return 2 * found if func is F.embedding else found


class UnderAMode(Odd):
    def look(self, items: Tensor) -> Tensor:
        with Doubling():
            return self.item(items)


class GradientPenalty(Odd):
    def look(self, items: Tensor) -> Tensor:
        rows = self.item(items)
        (slope,) = torch.autograd.grad(torch.sin(rows).sum(), rows, create_graph=True)
        return rows * slope


def logistic(model: nn.Module, batch: Batch) -> Tensor:
    return F.softplus(model(*batch))


class HoldingTheTable(nn.Module):
    """A loss that is a module, and looks items up in a table of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Embedding(N_ITEMS, 1)

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        return logistic(model, batch) * self.temperature(batch[1]).exp()[:, 0]


# whose tables are moved by rows, of user.weight and item.weight
BOTH, USER, ITEM = {"user.weight", "item.weight"}, {"user.weight"}, {"item.weight"}
ODD: dict[type[Odd], set[str]] = {
    Odd: BOTH,
    Padding: BOTH,
    Sparse: BOTH,
    ByFrequency: set(),
    NegativePadding: BOTH,
    TwoPaddings: BOTH,
    Repeated: BOTH,
    Histories: BOTH,
    Strided: BOTH,
    SingleId: BOTH,
    Int32: BOTH,
    ChangedInPlace: USER,
    ChangedThroughAView: USER,
    ChangedWithoutGradient: BOTH,
    ChangedInGuidance: BOTH,
    AlsoWithoutGradient: BOTH,
    AlsoInInference: USER,
    Detached: BOTH,
    DetachedInPlace: USER,
    TiedOutput: USER,
    Penalized: USER,
    WholeInTraining: USER,
    WholeInGuidance: BOTH,
    WrittenInGuidance: BOTH,
    WrittenInto: USER,
    Renormalized: USER,
    RenormalizedInGuidance: BOTH,
    ByFrequencyInGuidance: BOTH,
    Concatenated: USER,
    Stacked: USER,
    Indexed: USER,
    Transposed: USER,
    OfItsData: USER,
    LowLevel: USER,
    Asking: BOTH,
    Checkpointed: BOTH,
    CustomFunction: USER,
    CustomFunctionAlone: USER,
    CustomFunctionThatLooksUp: USER,
    CustomFunctionInGuidance: BOTH,
    Unseen: USER,
    UnseenInGuidance: BOTH,
    InAThread: USER,
    Mapped: USER,
    SharedByTwo: BOTH,
    FrozenFirst: ITEM,
    UnusedInTraining: USER,
    UnusedInGuidance: BOTH,
    PaddingAlone: BOTH,
    Disjoint: BOTH,
    Caching: BOTH,
    Hooked: BOTH,
    HookedWithAnother: USER,
    RowsHooked: BOTH,
    TableHooked: USER,
    Dropped: BOTH,
    UnderAMode: BOTH,
    GradientPenalty: BOTH,
}
# what `higher` alone does not do: draw the same, write θ or remember as the model does, run hooks,
# look rows up after its call, and call a parameter a leaf
NOT_UNROLLED = {
    Dropped, WrittenInto, WrittenInGuidance, Renormalized, RenormalizedInGuidance, Caching,
    TableHooked, Hooked, HookedWithAnother, Checkpointed, Asking,
}  # fmt: skip


def odd_case(kind: type[Odd], loss_fn: Callable[..., Tensor] = logistic) -> Case:
    generator = torch.Generator().manual_seed(8)

    def draw(size: int) -> Batch:
        return tuple(torch.randint(n, (size,), generator=generator) for n in (N_USERS, N_ITEMS))

    with seeded(6):
        model = kind().double()
    return Case(kind.__name__, model, loss_fn, draw(TRAINED), draw(GUIDING), torch.float64)
