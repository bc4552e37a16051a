"""The comparisons that decide whether a loss is refused, in pieces as at once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import UnsupportedModelError
from sgdl_wrap.model import trial
from sgdl_wrap.model.streams import RandomStreams
from sgdl_wrap.model.trial import Trial, _close, _extent, _gap, _pieces
from sgdl_wrap.model.twin import Lookahead
from tests.support.models_zoo import UNROLLED, Case, make, seeded

SIZES = pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 1 << 20])


@pytest.fixture
def piece(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_PIECE", size)


@SIZES
@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3), (7, 1), (0,), (3, 0)], ids=str)
@pytest.mark.usefixtures("piece")
def test_pieces_joined_are_the_whole_in_double(shape: tuple[int, ...], size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(shape, generator=generator).to(kind) for kind in
               (torch.float32, torch.float64, torch.bfloat16)]  # fmt: skip
    pieces = list(_pieces(*tensors))
    assert all(len(part) <= size for group in pieces for part in group)
    for place, tensor in enumerate(tensors):
        joined = torch.cat([torch.zeros(0).double(), *(group[place] for group in pieces)])
        assert torch.equal(joined, tensor.flatten().double())


@SIZES
@pytest.mark.usefixtures("piece")
def test_extent_is_the_largest_gap_and_the_largest_value_wherever_they_are(size: int) -> None:
    expected = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -9.0]]).T  # not contiguous
    for place in range(6):
        found = expected.clone()
        found[place % 3, place // 3] += 0.25
        assert _extent(found, expected) == (0.25, 9.0)
        assert _gap(found, expected) == 0.25 / 9
    assert _extent(expected, expected) == (0.0, 9.0)
    assert _extent(torch.zeros(0), torch.zeros(0)) == (0.0, 0.0)


@SIZES
@pytest.mark.usefixtures("piece")
def test_sparse_gradients_are_compared_as_dense_ones(size: int) -> None:
    dense = torch.tensor([[0.0, 0], [3, 4], [0, 0]])
    assert _extent(dense.to_sparse(), dense) == (0.0, 4.0)
    assert _extent(dense, 2 * dense.to_sparse()) == (4.0, 8.0)


@SIZES
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", range(6))
@pytest.mark.usefixtures("piece")
def test_values_that_are_not_finite_are_never_close(size: int, bad: float, place: int) -> None:
    expected = torch.ones(6)
    found = expected.clone()
    found[place] = bad
    assert not _close(found, expected, 1e-4)
    if math.isnan(bad):
        assert not _close(expected, found, 1e-4)
        assert not _close(found, found, 1e-4)


@settings(deadline=None)
@given(
    values=st.lists(st.tuples(*[st.floats(-8, 8, width=32)] * 2), min_size=1, max_size=9),
    tolerance=st.sampled_from([1e-4, 0.1, 1.0]),
    size=st.integers(1, 10),
)
def test_closeness_is_that_of_the_whole(
    values: list[tuple[float, float]], tolerance: float, size: int
) -> None:
    found, expected = (torch.tensor(column) for column in zip(*values, strict=True))
    gap = float((found.double() - expected.double()).abs().max())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "_PIECE", size)
        assert _close(found, expected, tolerance) is (
            gap <= tolerance * float(expected.double().abs().max()) + 1e-12
        )
        assert _close(found, expected, tolerance, scale=torch.tensor(2.0)) is (
            gap <= tolerance * 2.0 + 1e-12
        )


# ------------------------------------------------------------------ the whole check


def check(case: Case) -> bool:
    lookahead = Lookahead(case.model, case.loss_fn)
    size = len(next(iter(case.batch.values())) if isinstance(case.batch, dict) else case.batch[0])
    tried = Trial([case.model], [case.model], case.model, case.loss_fn, RandomStreams(0))
    return tried.check(lookahead, case.batch, size)


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("name", UNROLLED)
@pytest.mark.usefixtures("piece")
def test_good_models_pass_in_pieces(name: str, size: int) -> None:
    assert check(make(name)) is False


class _Squared(torch.autograd.Function):
    """x², whose second derivative is missing."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return 2 * x.detach() * gradient.detach()


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(12, 4), nn.Embedding(15, 4)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.user(users) * self.item(items)).sum(1)


def of_its_closure() -> Case:
    case = _case()
    original = case.model
    case.loss_fn = lambda model, batch: F.softplus(original(*batch[:2]))
    return case


def of_its_gradient_alone() -> Case:
    """The last entry of one table: the values are right, one gradient is not."""
    case = _case()
    weight = case.model.item.weight

    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        aside = weight[-1, -1]
        return F.softplus(model(*batch[:2])) + aside - aside.detach()

    case.loss_fn = loss
    return case


def of_no_second_derivative() -> Case:
    case = _case()
    case.loss_fn = lambda model, batch: _Squared.apply(model(*batch[:2]))
    return case


def _case() -> Case:
    case = make("mlp")
    with seeded(2):
        case.model = Odd()
    return case


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (of_its_closure, r"to give the model's losses, got a difference of"),
        (of_its_gradient_alone, r"to give the model's gradients, got .* in 'item\.weight'\. "),
        (of_no_second_derivative, r"Expected a loss that can be differentiated twice, got a secon"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.usefixtures("piece")
def test_wrong_models_are_refused_in_pieces(build, message: str, size: int) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UnsupportedModelError, match=message):
        check(build())
