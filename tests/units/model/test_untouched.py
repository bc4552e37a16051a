"""Whatever the user's code does to its modules in between, they are as before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sgdl_wrap.model.plain_state import SMALL
from sgdl_wrap.model.untouched import evaluating, swapped, undisturbed


class Leaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("absent", None)
        self.register_buffer("mix", torch.eye(2).to_sparse())
        self.count = 1
        self.last: Any = None


def tree() -> nn.Module:
    root = Leaf()
    root.child = Leaf()
    root.again = root.child
    root.inner = nn.Sequential(Leaf(), nn.BatchNorm1d(2))
    return root


def state(module: nn.Module) -> list[Any]:
    """Every attribute by identity, in no order, and every dense buffer by value."""
    found: list[Any] = []
    for part in module.modules():
        found.append({name: id(value) for name, value in vars(part).items()})
        found.append({name: id(value) for name, value in part._buffers.items()})
        dense = (b for b in part._buffers.values() if b is not None and not b.is_sparse)
        found += [b.tolist() for b in dense]
    return found


def add(part: nn.Module) -> None:
    part.more = torch.ones(1)


def replace(part: nn.Module) -> None:
    part.count = 2
    part.last = object()


def remove(part: nn.Module) -> None:
    del part.count


def remove_and_add(part: nn.Module) -> None:
    del part.count  # as many attributes as before
    part.other = 3


def remove_and_add_more(part: nn.Module) -> None:
    del part.count, part.last
    part.other, part.third, part.fourth = 1, 2, 3


def write_buffer(part: nn.Module) -> None:
    part.seen += 1


def replace_buffer(part: nn.Module) -> None:
    part.seen += 1
    part.seen = torch.full((5,), 7.0)
    part.absent = torch.ones(1)
    part.mix = None


def add_and_remove_buffer(part: nn.Module) -> None:
    part.register_buffer("later", torch.ones(1))
    del part.seen


def replace_all_buffers(part: nn.Module) -> None:
    part._buffers = {"other": torch.ones(1)}


def turn(part: nn.Module) -> None:
    part.eval()


CHANGES = [
    add, replace, remove, remove_and_add, remove_and_add_more, write_buffer, replace_buffer,
    add_and_remove_buffer, replace_all_buffers, turn,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_attributes_and_buffers_are_as_before(change: Any, fails: bool) -> None:
    root, other = tree(), Leaf()
    parts = [root, root.child, root.inner[0], other]
    before = [state(root), state(other)]
    try:
        with undisturbed([root, other]):
            for part in parts:
                change(part)
            assert [state(root), state(other)] != before
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert [state(root), state(other)] == before


def test_running_statistics_are_as_before() -> None:
    norm = nn.BatchNorm1d(2)
    before = state(norm)
    with undisturbed([norm]):
        norm(torch.arange(6.0).reshape(3, 2))
    assert state(norm) == before


def test_a_late_write_to_a_large_buffer_is_told_and_a_small_one_is_put_back() -> None:
    leaf = Leaf()
    leaf.register_buffer("large", torch.zeros(SMALL + 1))
    kept = leaf.seen
    with undisturbed([leaf], large=False) as state:
        leaf.seen += 1
        leaf.seen = torch.ones(1)
        leaf.large += 1
        leaf.more = 1
    assert leaf.seen is kept
    assert leaf.seen.tolist() == [0, 0, 0]
    assert not hasattr(leaf, "more")
    assert state.lost == {"large"}
    with undisturbed([leaf], large=True) as state:
        leaf.large += 1
    assert state.lost == set()
    assert state.changed_large == {"large"}
    assert leaf.large.eq(1).all()


def test_evaluation_sets_flags_alone_and_puts_each_back() -> None:
    class Counting(Leaf):
        calls = 0

        def train(self, mode: bool = True) -> nn.Module:
            Counting.calls += 1
            return super().train(mode)

    root = nn.Sequential(Counting(), nn.Sequential(Leaf()), nn.Dropout())
    root[1].eval()
    root[1][0].train()
    flags = [part.training for part in root.modules()]
    Counting.calls = 0
    with evaluating([root]):
        assert not any(part.training for part in root.modules())
    assert [part.training for part in root.modules()] == flags
    assert len(set(flags)) == 2
    assert Counting.calls == 0


def test_swapped_parameters_come_back_with_their_storage() -> None:
    parameters: list[Tensor] = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(3))]
    places = [p.data_ptr() for p in parameters]
    with swapped(parameters, [torch.full((2,), 5.0), torch.ones(3)]):
        assert [p.tolist() for p in parameters] == [[5, 5], [1, 1, 1]]
    assert [p.tolist() for p in parameters] == [[1, 1], [0, 0, 0]]
    assert [p.data_ptr() for p in parameters] == places


def test_an_autocast_around_keeps_no_cast_from_inside() -> None:
    """Else other values, or a cast without a graph, would serve the user's own forward."""
    model = nn.Linear(2, 1)
    parameters = list(model.parameters())
    ones = torch.ones(3, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(ones)
        with undisturbed([model]), swapped(parameters, [p + 1 for p in parameters]):
            assert not torch.equal(model(ones), expected)
        with undisturbed([model]), torch.no_grad():
            model(ones)
        found = model(ones)
    assert torch.equal(found, expected)
    found.sum().backward()
    assert all(p.grad is not None for p in parameters)
