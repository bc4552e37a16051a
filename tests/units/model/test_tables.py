"""Tables moved by rows give what copying them gives, and are copied where they must be."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sgdl_wrap.guiding.learner import MetaStep
from sgdl_wrap.model.gradients import assumed_update, gradient_at
from sgdl_wrap.model.tables import LookupWatch, RowGradient, RowUpdate, known_lookups
from tests.support.models_zoo import (
    N_ITEMS,
    SWITCHING,
    ZOO,
    assert_identical,
    labelled_epoch,
    make,
    relative_gap,
    seeded,
    settled,
    snapshot,
    tiny_batchnorm,
    tiny_data,
    tiny_denoiser,
    tiny_neumf,
)
from tests.support.odd_models import (
    BOTH,
    ITEM,
    NOT_UNROLLED,
    ODD,
    USER,
    CustomFunctionInGuidance,
    Doubling,
    HoldingTheTable,
    Odd,
    Renormalized,
    Repeated,
    Sparse,
    TiedOutput,
    UnseenInGuidance,
    WholeInGuidance,
    WrittenInto,
    odd_case,
    unseen,
)
from tests.units.guiding.test_learner import ETA, Scene, losses_unrolled_by_higher

# torch 2.4 says so of what its own checkpoint() calls
pytestmark = pytest.mark.filterwarnings("ignore:.torch.cpu.amp.autocast:FutureWarning")

KINDS = pytest.mark.parametrize("kind", ODD, ids=lambda kind: kind.__name__)

# ------------------------------------------------------------------ both ways


@dataclass
class Moves:
    """What each assumed update moved by rows: names, and the updates."""

    names: list[set[str]]
    updates: list[dict[str, RowUpdate]]


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moves]:
    """Every table is large, and the moves are noted."""
    noted = Moves([], [])

    def noting(parameters: Any, gradients: Any, lr: float) -> Any:
        virtual = assumed_update(parameters, gradients, lr)
        by_rows = {place: v for place, v in enumerate(virtual) if isinstance(v, RowUpdate)}
        noted.updates.append(by_rows)
        noted.names.append(set(by_rows))
        return virtual

    monkeypatch.setattr("sgdl_wrap.model.twin.LARGE", 0)
    monkeypatch.setattr("sgdl_wrap.guiding.learner.assumed_update", noting)
    return noted


def learn(scene: Scene, *, watched: bool) -> MetaStep:
    """One step of Phase II, with a training forward that draws the same each time."""
    case = scene.case
    scene.lookahead.follow()
    with seeded(4):
        if watched:
            with scene.lookahead.watching() as lookups:
                losses = case.loss_fn(case.model, case.batch)
        else:
            losses, lookups = case.loss_fn(case.model, case.batch), None
    return scene.learner.learn(
        losses, losses.detach()[:, None], scene.guidance, scene.elsewhere,
        assumed_lr=ETA, lookups=lookups,
    )


def names_moved(scene: Scene, moves: Moves) -> set[str]:
    return {scene.lookahead.names[place] for place in moves.names[-1]}


def assert_same_step(found: MetaStep, expected: MetaStep) -> None:
    assert relative_gap(found.weighting_gradients, expected.weighting_gradients) <= 1e-10
    assert relative_gap([found.alignments.rows], [expected.alignments.rows]) <= 1e-10
    assert relative_gap([found.guidance_loss], [expected.guidance_loss]) <= 1e-10
    assert torch.equal(found.shares, expected.shares)


CONFIG = settled(denoising_scheduler="none")  # every guidance sample counts


# nothing tells before the guidance forward of the first step
FOUND_OUT = {CustomFunctionInGuidance: USER, UnseenInGuidance: USER}


@KINDS
def test_an_odd_use_of_a_table_gives_what_moving_a_copy_gives(
    kind: type[Odd], moves: Moves
) -> None:
    cut, dense = Scene(odd_case(kind), CONFIG), Scene(odd_case(kind), CONFIG)
    for first in (True, False, False):  # what one step finds out holds in the next
        expected = learn(dense, watched=False)
        assert_same_step(learn(cut, watched=True), expected)
        assert names_moved(cut, moves) == (ODD[kind] if first else FOUND_OUT.get(kind, ODD[kind]))


@pytest.mark.parametrize(
    "kind", [k for k in ODD if k not in NOT_UNROLLED], ids=lambda kind: kind.__name__
)
def test_an_odd_use_of_a_table_gives_what_a_full_unroll_gives(
    kind: type[Odd], moves: Moves
) -> None:
    scene = Scene(odd_case(kind), CONFIG)
    step = learn(scene, watched=True)
    guidance_loss = (step.shares * losses_unrolled_by_higher(scene)).sum()
    expected = torch.autograd.grad(guidance_loss, scene.psi)
    assert relative_gap(step.weighting_gradients, list(expected)) <= 1e-10
    assert relative_gap([step.guidance_loss], [guidance_loss]) <= 1e-10


# whose tables are looked up alone
BY_ROWS = {
    "mlp": BOTH,
    "neumf": {"gmf_user.weight", "gmf_item.weight", "mlp_user.weight", "mlp_item.weight"},
    "lightgcn": set(),
    "tied": USER,
    "frozen": ITEM,
    "by_hand": BOTH,
    "batchnorm": BOTH,
    "dropout": BOTH,
    "lstm": ITEM,
    "attention": ITEM,
    "parameter_list": set(),
}
UNROLLED_TOO = pytest.mark.parametrize("name", [name for name in ZOO if name != "dropout"])


@pytest.mark.parametrize("name", ZOO)
def test_every_model_of_the_zoo_learns_as_by_a_copy(name: str, moves: Moves) -> None:
    cut, dense = (Scene(make(name, torch.float64), CONFIG) for _ in range(2))
    for _ in range(2):
        expected = learn(dense, watched=False)
        assert_same_step(learn(cut, watched=True), expected)
        assert names_moved(cut, moves) == BY_ROWS[name]


@UNROLLED_TOO
def test_every_model_of_the_zoo_learns_as_by_a_full_unroll(name: str, moves: Moves) -> None:
    scene = Scene(make(name, torch.float64), CONFIG)
    step = learn(scene, watched=True)
    guidance_loss = (step.shares * losses_unrolled_by_higher(scene)).sum()
    expected = torch.autograd.grad(guidance_loss, scene.psi)
    assert relative_gap(step.weighting_gradients, list(expected)) <= 1e-10
    assert relative_gap([step.guidance_loss], [guidance_loss]) <= 1e-10


def test_a_table_of_the_loss_is_moved_by_rows_too(moves: Moves) -> None:
    scenes = []
    for _ in range(2):
        with seeded(7):
            loss = HoldingTheTable().double()
        scenes.append(Scene(odd_case(Odd, loss), CONFIG))
    cut, dense = scenes
    expected = learn(dense, watched=False)
    assert_same_step(learn(cut, watched=True), expected)
    assert names_moved(cut, moves) == BOTH | {"loss_fn.temperature.weight"}


def test_a_mode_of_the_users_around_it_all_counts_once(moves: Moves) -> None:
    cut, dense = Scene(odd_case(Repeated), CONFIG), Scene(odd_case(Repeated), CONFIG)
    plain = learn(Scene(odd_case(Repeated), CONFIG), watched=False)
    with Doubling():
        expected = learn(dense, watched=False)
        assert_same_step(learn(cut, watched=True), expected)
    assert names_moved(cut, moves) == set()  # what it gives are not the rows themselves
    assert relative_gap([expected.guidance_loss], [plain.guidance_loss]) > 0.01


def test_cosines_are_taken_with_all_of_the_parameters(moves: Moves) -> None:
    config = settled(similarity="paper")
    cut, dense = Scene(odd_case(Odd), config), Scene(odd_case(Odd), config)
    expected = learn(dense, watched=False)
    assert_same_step(learn(cut, watched=True), expected)
    assert moves.names == [set(), set()]
    assert_identical(cut.learner.state_dict(), dense.learner.state_dict())


@pytest.mark.parametrize("kind", ["neumf", "batchnorm"])
def test_a_denoiser_trains_alike(kind: str, moves: Moves, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_data()
    config = dataclasses.replace(SWITCHING, guidance_interval=1)
    trained = []
    for large in (0, 1 << 19):
        monkeypatch.setattr("sgdl_wrap.model.twin.LARGE", large)
        model = tiny_neumf(data) if kind == "neumf" else tiny_batchnorm(data)
        denoiser = tiny_denoiser(data, kind, model=model.double(), config=config)
        for epoch in range(3):
            for users, items, labels in labelled_epoch(data, epoch):
                batch = users, items, labels.double()
                denoiser.before_step(batch)
                denoiser.step(batch)
            denoiser.end_epoch()
        trained.append([p.detach() for p in model.parameters()])
    assert relative_gap(*trained) <= 1e-9
    half = len(moves.names) // 2
    assert half > 5
    assert all(moves.names[:half])
    assert not any(moves.names[half:])


# ------------------------------------------------------------------ what it costs, and leaves


class _Allocations(TorchDispatchMode):
    """The largest tensor that any operation inside has made, of those with storage of their own."""

    def __init__(self, existing: list[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in existing}
        self.kept: list[Any] = []  # so that no storage is made twice in one place
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(value, Tensor) and value.layout == torch.strided:
                self.kept.append(value.untyped_storage())
                if self.kept[-1].data_ptr() not in self.known:
                    self.largest = max(self.largest, self.kept[-1].nbytes() // value.itemsize)
        return found


class _Tall(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(30_000, 4)
        self.item = nn.Embedding(40_000, 4, padding_idx=0)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.user(users * 17) * self.item(items) * self.item(items * 19)).sum(-1)


@pytest.mark.parametrize("watched", [True, False], ids=["by rows", "copied"])
def test_a_step_that_learns_makes_no_tensor_of_a_tables_size(watched: bool, moves: Moves) -> None:
    case = odd_case(Odd)
    with seeded(1):
        case.model = _Tall().double()
    scene = Scene(case, CONFIG)
    with _Allocations(case.trainable()) as made:
        learn(scene, watched=watched)
    assert (made.largest < 30_000) is watched
    assert (made.largest >= 160_000) is not watched


@pytest.mark.parametrize(
    "kind", [k for k in ODD if k not in (WrittenInto, Renormalized)], ids=lambda kind: kind.__name__
)  # these two write to the table themselves
def test_a_step_that_learns_leaves_table_and_gradient_as_they_are(
    kind: type[Odd], moves: Moves
) -> None:
    case = odd_case(kind)
    optimizer = torch.optim.SparseAdam if kind is Sparse else torch.optim.Adam
    tables = [p for p in case.trainable() if p.ndim == 2]
    optimizer = optimizer(tables, lr=0.01)
    with seeded(4):
        case.loss_fn(case.model, case.batch).sum().backward()
    optimizer.step()
    scene = Scene(case, CONFIG)
    before = snapshot(case.model, optimizer)
    versions = [p._version for p in case.trainable()]
    learn(scene, watched=True)
    assert_identical(snapshot(case.model, optimizer), before)
    assert [p._version for p in case.trainable()] == versions


def test_values_read_whole_are_those_of_the_rows(moves: Moves) -> None:
    scene = Scene(odd_case(WholeInGuidance), CONFIG)
    learn(scene, watched=True)
    place = scene.lookahead.names.index("item.weight")
    update = moves.updates[0][place]
    whole = update.whole()
    moved = torch.zeros(N_ITEMS, dtype=torch.bool)
    moved[update.ids] = True
    assert set(update.ids.tolist()) == set(scene.case.batch[1].tolist())
    assert torch.equal(whole[moved], update.table[moved] + update.change)
    assert torch.equal(whole[~moved], update.table[~moved])
    assert update.whole() is whole


def notices(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "copy all of it" in r.getMessage()]


@pytest.mark.parametrize("kind", [TiedOutput, UnseenInGuidance], ids=lambda kind: kind.__name__)
def test_a_table_used_whole_is_named_once(
    kind: type[Odd], moves: Moves, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(odd_case(kind), CONFIG)
    with caplog.at_level(logging.INFO, logger="sgdl_wrap"):
        for _ in range(3):
            learn(scene, watched=True)
    assert notices(caplog) == [
        "item.weight is used other than by F.embedding: steps that learn copy all of it"
    ]


def test_small_tables_are_not_watched(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(odd_case(TiedOutput), CONFIG)
    with scene.lookahead.watching() as lookups:
        scene.case.loss_fn(scene.case.model, scene.case.batch)
    assert lookups == {}
    assert notices(caplog) == []


def test_an_error_of_the_users_ends_the_watch_and_decides_nothing(moves: Moves) -> None:
    scene = Scene(odd_case(TiedOutput), CONFIG)
    with pytest.raises(IndexError), scene.lookahead.watching() as lookups:
        scene.case.model.item(torch.tensor([N_ITEMS]))
    assert lookups == {}
    with scene.lookahead.watching() as lookups:
        scene.case.model.user(scene.case.batch[0])
    assert [len(looks) for looks in lookups.values()] == [1, 0]


# ------------------------------------------------------------------ the parts


def test_rows_of_a_look_up_are_noted_with_what_passes_a_gradient() -> None:
    table = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ids = torch.tensor([[5, 1], [1, 0]])
    with LookupWatch({4: table}) as watch:
        rows = F.embedding(ids, table, padding_idx=-5)
        ids.fill_(3)  # the loader's buffer, used again
    (look,) = watch.lookups()[4]
    assert look.rows is rows
    assert look.ids.tolist() == [5, 1, 1, 0]
    assert look.counts is not None
    assert look.counts[:, 0].tolist() == [True, False, False, True]


def test_the_gradient_of_several_look_ups_is_summed_by_row() -> None:
    table = torch.zeros(9, 2, requires_grad=True)
    with LookupWatch({0: table}) as watch:
        one = F.embedding(torch.tensor([7, 2, 7]), table)
        other = F.embedding(torch.tensor([[2], [8]]), table, padding_idx=8)
        F.embedding(torch.tensor([], dtype=torch.int64), table)
    lookups = watch.lookups()[0]
    ones = [torch.ones_like(look.rows) * 10**n for n, look in enumerate(lookups)]
    gradient = RowGradient.of(lookups, ones)
    assert gradient.ids.tolist() == [2, 7, 8]
    assert gradient.total().tolist() == [[11, 11], [2, 2], [0, 0]]
    direction = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    (_, first), (_, second), (_, none) = gradient.along(direction)
    assert first.tolist() == [[3, 4], [1, 2], [3, 4]]
    assert second.tolist() == [[[1, 2]], [[0, 0]]]
    assert none.shape == (0, 2)
    assert one.shape == first.shape
    assert other.shape == second.shape


def test_look_ups_are_left_out_where_the_losses_depend_on_the_table_by_more() -> None:
    tables = [torch.randn(5, 2, requires_grad=True) for _ in range(4)]
    ids = torch.tensor([3, 1])
    with LookupWatch(dict(enumerate(tables))) as watch:
        rows = [F.embedding(ids, table) for table in tables[:3]]
        F.embedding(ids[:0], tables[3])
    more = unseen(tables[1], ids)
    aside = unseen(tables[2], ids).detach()
    losses = sum(rows[:3], more + aside).sum(1)
    known = known_lookups(losses, tables, watch.lookups())
    assert set(known) == {0, 2}
    assert [look.rows for look in known[0]] == [rows[0]]


def test_a_row_that_pads_is_moved_where_another_look_up_moves_it_and_passes_nothing() -> None:
    table = torch.zeros(5, 1)
    update = RowUpdate(table, torch.tensor([1, 3]), torch.tensor([[10.0], [30.0]]))
    stand_in = update.stand_in()
    rows = F.embedding(torch.tensor([3, 0, 1, 3]), stand_in, padding_idx=3)
    assert rows[:, 0].tolist() == [30, 0, 10, 30]
    again = F.embedding(torch.tensor([[3, 4]]), stand_in)
    assert again.tolist() == [[[30], [0]]]
    leaves = update.leaves()
    found = torch.autograd.grad(rows.sum() + 5 * again.sum(), leaves)
    assert update.gradient(found).tolist() == [[1], [5]]
    assert update.gradient([found[0], None]).tolist() == [[1], [0]]
    assert table.tolist() == [[0]] * 5


def test_without_a_gradient_rows_are_given_and_no_more() -> None:
    update = RowUpdate(torch.zeros(5, 1), torch.tensor([1]), torch.tensor([[2.0]]))
    with torch.no_grad():
        assert F.embedding(torch.tensor([1, 2]), update.stand_in()).tolist() == [[2], [0]]
    assert update.leaves() == []
    assert update.gradient([]).tolist() == [[0]]


def test_what_a_table_is_like_is_told_without_making_it() -> None:
    update = RowUpdate(torch.zeros(5, 2), torch.tensor([1]), torch.ones(1, 2))
    stand_in = update.stand_in()
    assert (stand_in.shape, len(stand_in), stand_in.stride()) == ((5, 2), 5, (2, 1))
    assert stand_in.requires_grad
    assert stand_in.dtype == torch.float32
    assert update.leaves() == []


def test_look_ups_after_the_whole_was_asked_for_are_those_of_the_whole() -> None:
    update = RowUpdate(torch.zeros(5, 1), torch.tensor([1, 3]), torch.tensor([[10.0], [30.0]]))
    stand_in = update.stand_in()
    before = F.embedding(torch.tensor([3]), stand_in)
    with torch.inference_mode():
        assert stand_in.sum().item() == 40
    with torch.no_grad():
        stand_in[3] += 1
    after = F.embedding(torch.tensor([3, 1]), stand_in, padding_idx=3)
    assert (before.item(), after.tolist()) == (30, [[31], [10]])
    found = torch.autograd.grad(before.sum() + 5 * after.sum(), update.leaves())
    assert update.gradient(found).tolist() == [[5], [1]]
    assert update.table.tolist() == [[0]] * 5


@pytest.mark.parametrize("join", [torch.cat, torch.stack], ids=["cat", "stack"])
@pytest.mark.parametrize("kind", [list, tuple])
def test_a_table_in_a_list_is_the_whole_of_it(join: Callable[[Any], Tensor], kind: Any) -> None:
    update = RowUpdate(torch.zeros(3, 1), torch.tensor([1]), torch.tensor([[2.0]]))
    found = join(kind([update.stand_in(), torch.ones(3, 1)]))
    assert found.flatten().tolist() == [0, 2, 0, 1, 1, 1]
    (gradient,) = torch.autograd.grad((found.flatten() * torch.arange(6)).sum(), update.leaves())
    assert update.gradient([gradient]).tolist() == [[1]]
    assert type(found) is Tensor


def test_a_gradient_forgets_what_was_looked_up_for_it() -> None:
    """Else the look-ups of every piece of guidance would be held until the last."""
    update = RowUpdate(torch.zeros(5, 1), torch.tensor([1, 3]), torch.tensor([[10.0], [30.0]]))
    for factor in (1.0, 2.0):
        rows = F.embedding(torch.tensor([3, 3, 1]), update.stand_in())
        (found,) = gradient_at(factor * rows.sum(), [update])
        assert found.tolist() == [[factor], [2 * factor]]
        assert update.leaves() == []
