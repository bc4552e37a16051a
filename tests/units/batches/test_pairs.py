"""The pairs of every common batch layout, and the refusal of the rest."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from sgdl_wrap.batches.pairs import PairReader, Pairs
from sgdl_wrap.errors import BatchError

USERS, ITEMS = [3, 1, 4, 1], [5, 9, 2, 6]
ALL = [True] * 4

long = torch.tensor


def floats(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


class Interaction:
    """Columns by name as RecBole's batches have them: neither a mapping nor a sequence."""

    def __init__(self, columns: dict[str, torch.Tensor]) -> None:
        self.interaction = columns

    @property
    def columns(self) -> list[str]:
        return list(self.interaction)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.interaction[name]

    def __len__(self) -> int:
        return len(next(iter(self.interaction.values())))


@dataclass
class Opaque:
    who: torch.Tensor
    what: torch.Tensor


Triple = namedtuple("Triple", "users positives negatives")


def assert_pairs(found: Pairs, observed: list[bool]) -> None:
    assert len(found) == len(USERS)
    users, items, flags = found.arrays()
    assert users.dtype == items.dtype == np.int64
    assert flags.dtype == np.bool_
    assert users.tolist() == USERS
    assert items.tolist() == ITEMS
    assert flags.tolist() == observed


# ------------------------------------------------------------------ the common layouts

U, I = long(USERS), long(ITEMS)  # noqa: E741
NEGATIVES = torch.arange(12).reshape(4, 3)
LAYOUTS = {
    "tuple of two": ((U, I), ALL),
    "list of two": ([U, I], ALL),
    "int32": ((U.int(), I.int()), ALL),
    "uint8": ((U.byte(), I.byte()), ALL),
    "numpy": ((np.array(USERS), np.array(ITEMS)), ALL),
    "numpy int32": ((np.array(USERS, dtype=np.int32), np.array(ITEMS, dtype=np.int32)), ALL),
    "array and tensor": ((np.array(USERS), I), ALL),
    "negatives": ((U, I, long([7, 8, 0, 1])), ALL),
    "negatives (B, K)": ((U, I, NEGATIVES), ALL),
    "negatives (B, 1)": ((U, I, NEGATIVES[:, :1]), ALL),
    "negatives (B, K) of 0 and 1": ((U, I, NEGATIVES % 2), ALL),
    "negatives in numpy": ((np.array(USERS), np.array(ITEMS), NEGATIVES.numpy()), ALL),
    "named tuple": (Triple(U, I, long([7, 8, 0, 1])), ALL),
    "float labels": ((U, I, floats([1, 0, 0, 1])), [True, False, False, True]),
    "double labels": ((U, I, floats([0, 0, 1, 1]).double()), [False, False, True, True]),
    "signed labels": ((U, I, floats([-1, 1, -1, 1])), [False, True, False, True]),
    "soft labels": ((U, I, floats([0.5, 0, 5, 0])), [True, False, True, False]),
    "bool labels": ((U, I, long([True, False, True, False])), [True, False, True, False]),
    "bool labels in numpy": (
        [np.array(USERS), np.array(ITEMS), np.array([True, False, True, False])],
        [True, False, True, False],
    ),
    "dict": ({"user": U, "item": I}, ALL),
    "dict of user_id": ({"item_id": I, "user_id": U}, ALL),
    "dict of users": ({"users": U, "items": I, "context": NEGATIVES}, ALL),
    "dict of positives": ({"user": U, "positive": I, "negative": NEGATIVES}, ALL),
    "dict with float labels": (
        {"user": U, "item": I, "label": floats([1, 0, 0, 1])}, [True, False, False, True]
    ),
    "dict with integer labels": (
        {"user": U, "item": I, "label": long([1, 0, 0, 1])}, [True, False, False, True]
    ),
    "dict with bool labels": (
        {"user_ids": U, "item_ids": I, "labels": long([False, True, True, True])},
        [False, True, True, True],
    ),
    "dict of arrays and lists": (
        {"user": np.array(USERS), "item": ITEMS, "label": [1, 0, 0, 1]},
        [True, False, False, True],
    ),
    "dict of signs": (
        {"user": U, "item": I, "label": torch.tensor([1, -1, -1, 1])},
        [True, False, False, True],
    ),
    "ordered dict": (OrderedDict(user=U, item=I), ALL),
    "columns": (Interaction({"user_id": U, "item_id": I, "neg_item_id": I + 1}), ALL),
    "columns with labels": (
        Interaction({"user_id": U, "item_id": I, "label": floats([0, 1, 0, 1])}),
        [False, True, False, True],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("batch", "observed"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_reads_the_common_layouts(batch, observed):
    assert_pairs(PairReader()(batch), observed)


def test_one_reader_reads_batches_of_changing_size():
    read = PairReader()
    assert_pairs(read((U, I, long([7, 8, 0, 1]))), ALL)
    assert read((U[:1], I[:1], long([1]))).users.tolist() == [3]
    assert read((U[:2], I[:2], long([1, 0]))).items.tolist() == [5, 9]  # item ids by now


def test_pairs_come_without_graph():
    found = PairReader()((U, I, floats([1, 0, 1, 0]).requires_grad_()))
    assert found.observed is not None
    assert not found.observed.requires_grad
    assert_pairs(found, [True, False, True, False])


def test_where_all_are_observed_no_flags_are_kept():
    assert PairReader()((U, I)).observed is None
    assert PairReader()((U, I, NEGATIVES)).observed is None
    assert PairReader(lambda batch: batch)((U, I)).observed is None
    assert PairReader()((U, I, floats([1, 1, 1, 1]))).observed is not None


def test_pairs_are_the_batchs_own_columns_until_they_are_kept():
    users, items, labels = U.clone(), I.clone(), long([True, False, True, False])
    found = PairReader(lambda batch: batch)((users, items, labels))
    assert found.users.data_ptr() == users.data_ptr()  # no copy
    kept = found.kept()
    without_flags = PairReader()((users, items)).kept()
    for column in (users, items, labels):
        column.zero_()
    assert_pairs(kept, [True, False, True, False])
    assert without_flags.observed is None
    assert_pairs(without_flags, ALL)


def test_kept_pairs_of_arrays_are_copies_too():
    users, items = np.array(USERS), np.array(ITEMS)
    kept = PairReader()((users, items)).kept()
    users[:], items[:] = 0, 0
    assert_pairs(kept, ALL)


@pytest.mark.parametrize(
    "batch",
    [(U[:0], I[:0]), (U[:0], I[:0], floats([])), {"user": U[:0], "item": I[:0]},
     [np.array([], dtype=np.int64)] * 2],
    ids=["tuple", "labels", "dict", "numpy"],
)  # fmt: skip
def test_an_empty_batch_is_refused(batch):
    sentence = r"^Expected samples in a batch, got none\. Leave empty batches out\.$"
    with pytest.raises(BatchError, match=sentence):
        PairReader()(batch)


# ------------------------------------------------------------------ pair_fn


def test_pair_fn_of_two_marks_every_sample_observed():
    read = PairReader(lambda batch: (batch.who, batch.what))
    assert_pairs(read(Opaque(U, I)), ALL)


def test_pair_fn_of_three_says_which_are_observed():
    read = PairReader(lambda batch: [batch.who, batch.what, batch.who == 1])
    assert_pairs(read(Opaque(U, I)), [False, True, False, True])


def test_integer_flags_of_pair_fn_are_flags():
    read = PairReader(lambda batch: (batch.who, batch.what, long([1, 0, 0, 2])))
    assert_pairs(read(Opaque(U, I)), [True, False, False, True])


def test_flags_of_pair_fn_are_observed_where_they_are_positive():
    pairs = PairReader(lambda batch: (U, I, floats([1, -1, 0, 2])))(None)
    assert pairs.observed.tolist() == [True, False, False, True]


def test_pair_fn_goes_before_the_common_layouts():
    read = PairReader(lambda batch: (batch[1], batch[0]))
    found = read((I, U))
    assert_pairs(found, ALL)


def test_pair_fn_may_return_lists_and_arrays():
    assert_pairs(PairReader(lambda _: (USERS, np.array(ITEMS)))(None), ALL)


@pytest.mark.parametrize(
    ("returned", "described"),
    [(U, r"int64 \(4,\)"), (None, "NoneType"), ((U,), r"tuple of \(int64 \(4,\)\)"),
     ((U, I, U, I), r"tuple of \(int64 \(4,\), int64 \(4,\), int64 \(4,\), int64 \(4,\)\)"),
     ({"user": U, "item": I}, r"dict with keys \['item', 'user'\]")],
    ids=["tensor", "nothing", "one", "four", "dict"],
)  # fmt: skip
def test_pair_fn_that_returns_anything_else_is_refused(returned, described):
    with pytest.raises(
        BatchError,
        match=r"Expected pair_fn to return \(users, items\) or \(users, items, observed\), got "
        + described + r"\. Return tensors of shape \(B,\)\.",
    ):  # fmt: skip
        PairReader(lambda _: returned)(None)


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ((U.float(), I), r"Expected the users of a batch to hold integers, got float32\. Convert "
         r"it to int64\."),
        ((U, I > 3), r"Expected the items of a batch to hold integers, got bool\. Pass the column "
         r"of ids\."),
        ((U[:, None], I), r"Expected the users of a batch to be 1-D, got shape \(4, 1\)\. Take its "
         r"only column, values\[:, 0\]\."),
        ((U[:, None].expand(4, 3), I), r"Expected the users of a batch to be 1-D, got shape "
         r"\(4, 3\)\. Return one pair for each loss, and neither of them for padding: with "
         r"real = items > 0, losses\[real\] and items\[real\]\."),
        ((U, I[:3]), r"Expected users, items and labels of one length, got 4, 3 and \(4,\)\. "
         r"Mend pair_fn or the batch\."),
        ((U, I, ALL[:2]), r"Expected users, items and labels of one length, got 4, 4 and \(2,\)\."
         r" Mend pair_fn or the batch\."),
        (("abcd", I), r"Expected the users of a batch as integers, got str\. Pass a tensor, an "
         r"array or a column of a data frame\."),
        ((object(), I), r"Expected the users of a batch as integers, got object\. Pass a tensor, "
         r"an array or a column of a data frame\."),
    ],
    ids=["float users", "bool items", "2-D users", "rows of users",
         "short items", "short flags", "text", "object"],
)  # fmt: skip
def test_pair_fn_columns_are_checked(returned, sentence):
    with pytest.raises(BatchError, match=sentence):
        PairReader(lambda _: returned)(None)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("batch", "described"),
    [
        (Opaque(U, I), "Opaque"),
        (U, r"int64 \(4,\)"),
        (None, "NoneType"),
        ((U,), r"tuple of \(int64 \(4,\)\)"),
        ((U, I, I, I), r"tuple of \(int64 \(4,\), int64 \(4,\), int64 \(4,\), int64 \(4,\)\)"),
        ((U, [1, 2, 3, 4]), r"tuple of \(int64 \(4,\), list of \(int, int, int, int\)\)"),
        ((U.float(), I), r"tuple of \(float32 \(4,\), int64 \(4,\)\)"),
        ((U, I.double()), r"tuple of \(int64 \(4,\), float64 \(4,\)\)"),
        ((U, I[:3]), r"tuple of \(int64 \(4,\), int64 \(3,\)\)"),
        ((U[:, None], I[:, None]), r"tuple of \(int64 \(4, 1\), int64 \(4, 1\)\)"),
        ((U, I, I[:3]), r"tuple of \(int64 \(4,\), int64 \(4,\), int64 \(3,\)\)"),
        ((U, I, floats([1.0])), r"tuple of \(int64 \(4,\), int64 \(4,\), float32 \(1,\)\)"),
        ({"user": U, "thing": I}, r"dict with keys \['thing', 'user'\]"),
        ({"item": I}, r"dict with keys \['item'\]"),
        (Interaction({"user_id": U}), "Interaction"),
        ({}, r"dict with keys \[\]"),
    ],
    ids=["dataclass", "one tensor", "nothing", "one", "four", "a list inside", "float users",
         "float items", "short items", "2-D", "short negatives", "short labels", "no item key",
         "no user key", "no item column", "empty dict"],
)  # fmt: skip
def test_other_layouts_are_described_and_pair_fn_named(batch, described):
    with pytest.raises(
        BatchError,
        match=rf"Expected a batch like \(users, items\), .*, got {described}\. Pass pair_fn=\.\.\.,"
        r" which returns \(users, items\[, observed\]\) of a batch\.",
    ):
        PairReader()(batch)


REFUSED_LABELS = (
    r"Expected a third column of item ids \(negatives\) or of float or bool labels, got integers "
    r"that are all 0 or 1\. Convert labels to float, or pass pair_fn=\.\.\., which returns "
    r"\(users, items\[, observed\]\) of a batch\."
)


@pytest.mark.parametrize(
    "third", [[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], ids=["both", "zeros", "ones"]
)
@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8])
def test_integer_labels_are_refused_rather_than_taken_for_negatives(third, kind):
    with pytest.raises(BatchError, match=REFUSED_LABELS):
        PairReader()((U, I, torch.tensor(third, dtype=kind)))


def test_integer_labels_are_refused_again_at_the_next_batch():
    read = PairReader()
    for _ in range(2):
        with pytest.raises(BatchError, match=REFUSED_LABELS):
            read((U, I, long([0, 1, 1, 0])))


def test_a_batch_of_one_does_not_settle_what_the_third_column_is():
    read = PairReader()
    read((U[:1], I[:1], long([1])))
    with pytest.raises(BatchError, match=REFUSED_LABELS):
        read((U, I, long([0, 1, 1, 0])))


@pytest.mark.parametrize("labels", [floats([1, 0, 1]), floats([[1], [0], [1], [0]])],
                         ids=["short", "2-D"])  # fmt: skip
def test_labels_of_another_shape_under_a_key_are_refused(labels):
    shape = str(tuple(labels.shape)).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(
        BatchError,
        match=rf"Expected users, items and labels of one length, got 4, 4 and {shape}\. "
        r"Mend pair_fn or the batch\.",
    ):
        PairReader()({"user": U, "item": I, "label": labels})


def test_columns_of_another_length_under_keys_are_refused():
    with pytest.raises(
        BatchError, match=r"Expected users, items and labels of one length, got 4, 2 and \(4,\)\. "
    ):
        PairReader()({"user": U, "item": I[:2]})


def test_pair_fn_own_error_comes_through():
    def broken(batch):
        raise KeyError("user")

    with pytest.raises(KeyError, match="user"):
        PairReader(broken)((U, I))
