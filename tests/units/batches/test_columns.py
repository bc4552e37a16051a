"""Columns of every library as ids: by their values in order, or refused with what they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
import sklearn.mixture  # noqa: F401  (its import may draw from the streams: test_plain_equality)
import torch

from sgdl_wrap import (
    BatchError,
    DenoiserError,
    DenoiserWarning,
    InteractionsError,
    SelfGuidedDenoiser,
)
from tests.support.models_zoo import (
    SWITCHING,
    assert_identical,
    tiny_data,
    tiny_denoiser,
    triple_epoch,
)

DATA = tiny_data()
N = len(DATA)


class PolarsLike:
    """What is asked of a column of polars: `to_numpy`, `__array__` and the method `null_count`."""

    def __init__(self, values: Any, nulls: int = 0) -> None:
        self.values, self.nulls = np.asarray(values), nulls

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        found = self.values.astype(float) if self.nulls else self.values
        return found if dtype is None else found.astype(dtype)

    def to_numpy(self) -> np.ndarray:
        return self.__array__()

    def __len__(self) -> int:
        return len(self.values)

    def null_count(self) -> int:
        return self.nulls


def filtered(values: np.ndarray) -> pandas.Series:
    """A column after rows between were dropped: its index has gaps and does not begin at 0."""
    frame = pandas.DataFrame({"id": np.repeat(values, 2), "keep": [False, True] * len(values)})
    return frame[frame["keep"]]["id"]


def shuffled(values: np.ndarray) -> pandas.Series:
    """A column of a shuffled frame: its index says where each row was before."""
    order = np.random.default_rng(2).permutation(len(values))
    column = pandas.Series(values[np.argsort(order)]).iloc[order]
    assert column.tolist() == values.tolist()
    return column


def masked(values: np.ndarray) -> np.ndarray:
    return np.ma.masked_array(values, np.zeros(len(values), dtype=bool))


def reversed_twice(values: np.ndarray) -> np.ndarray:
    return values[::-1].copy()[::-1]


def read_only(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values.setflags(write=False)
    return values


def of_a_row(values: np.ndarray) -> np.ndarray:
    """A field of packed records, which is not even aligned."""
    records = np.zeros(len(values), dtype=[("flag", "i1"), ("id", "i8")])
    records["id"] = values
    return records["id"]


COLUMNS: dict[str, Callable[[np.ndarray], Any]] = {
    "list": lambda values: values.tolist(),
    "tuple of numpy's numbers": tuple,
    "list of tensors": lambda values: list(torch.from_numpy(values)),
    "tensor": torch.from_numpy,
    "tensor int32": lambda values: torch.from_numpy(values).int(),
    "tensor uint16": lambda values: torch.from_numpy(values.astype(np.uint16)),
    "tensor uint64": lambda values: torch.from_numpy(values.astype(np.uint64)),
    "uint8": lambda values: values.astype(np.uint8),
    "uint16": lambda values: values.astype(np.uint16),
    "uint64": lambda values: values.astype(np.uint64),
    "big-endian": lambda values: values.astype(">i4"),
    "big-endian unsigned": lambda values: values.astype(">u8"),
    "negative stride": reversed_twice,
    "every other": lambda values: np.repeat(values, 2)[::2],
    "unaligned": of_a_row,
    "read-only": read_only,
    "masked array": masked,
    "Series": pandas.Series,
    "Series, filtered": filtered,
    "Series, shuffled": shuffled,
    "Series, all of one label": lambda values: pandas.Series(values, index=[7] * len(values)),
    "Series, labelled by text": lambda values: pandas.Series(values, index=map(str, values * 3)),
    "Series int16": lambda values: pandas.Series(values, dtype="int16"),
    "Series Int64": lambda values: pandas.Series(values, dtype="Int64"),
    "Series UInt64": lambda values: pandas.Series(values, dtype="UInt64"),
    "Series of pyarrow's": lambda values: pandas.Series(values, dtype="int64[pyarrow]"),
    "Series of categories": lambda values: pandas.Series(values).astype("category"),
    "Categorical": pandas.Categorical,
    "Index": pandas.Index,
    "extension array": lambda values: pandas.array(values, dtype="Int32"),
    "pyarrow": pyarrow.array,
    "pyarrow uint32": lambda values: pyarrow.array(values, type=pyarrow.uint32()),
    "pyarrow chunked": lambda values: pyarrow.chunked_array([values[:7], values[7:]]),
    "pyarrow dictionary": lambda values: pyarrow.array(values).dictionary_encode(),
    "as polars has them": PolarsLike,
}
EACH = pytest.mark.parametrize("kind", COLUMNS)


@EACH
def test_interactions_are_the_values_in_their_order(kind: str) -> None:
    users, items = COLUMNS[kind](DATA.users), COLUMNS[kind](DATA.items)
    found = tiny_denoiser(DATA, interactions=(users, items))
    assert_identical(found.state_dict(), tiny_denoiser(DATA).state_dict())


def trained(pair_fn: Any = None, layout: Any = None) -> SelfGuidedDenoiser:
    """Through both phases; `layout` makes the batch that is handed over, of three arrays."""
    denoiser = tiny_denoiser(
        DATA, pair_fn=pair_fn, config=SWITCHING,
        loss_fn=lambda model, batch: loss_of(model, batch[:3] if layout is None else batch),
    )  # fmt: skip
    for epoch in range(2):
        for batch in triple_epoch(DATA, epoch):
            denoiser.before_step(batch)
            denoiser.step(batch)
    return denoiser


def loss_of(model: Any, batch: Any) -> torch.Tensor:
    users, positives, negatives = batch
    return torch.nn.functional.softplus(model(users, negatives) - model(users, positives))


@EACH
def test_pair_fn_may_return_any_column(kind: str) -> None:
    def pairs(batch: Any) -> Any:
        return tuple(COLUMNS[kind](column.numpy()) for column in batch[:2])

    found, expected = trained(pairs), trained()
    for name in ("user", "item", "loss", "weight", "suspicion"):
        assert found.report()[name].tobytes() == expected.report()[name].tobytes()


def watched(batch: Any, users: torch.Tensor, items: torch.Tensor) -> set[tuple[int, int]]:
    """The pairs that the denoiser has seen in a batch with the losses of these users and items."""
    denoiser = tiny_denoiser(
        DATA, config=SWITCHING.but(audit_only=True),
        loss_fn=lambda model, _: torch.nn.functional.softplus(-model(users, items)),
    )  # fmt: skip
    denoiser.before_step(batch)
    denoiser.step(batch)
    report = denoiser.report()
    return {(int(row["user"]), int(row["item"])) for row in report[~np.isnan(report["loss"])]}


@EACH
def test_batches_may_hold_any_column_by_name(kind: str) -> None:
    users, items, _ = triple_epoch(DATA, 0)[0]
    users, items = users.repeat(2), torch.cat([items, torch.full_like(items, DATA.n_items - 1)])
    labels = np.repeat([1, 0], len(users) // 2)
    columns = [COLUMNS[kind](values) for values in (users.numpy(), items.numpy(), labels)]
    batch = dict(zip(("user", "item", "label"), columns, strict=True))
    pairs = list(zip(users.tolist(), items.tolist(), strict=True))
    assert watched(batch, users, items) == set(pairs[: len(pairs) // 2])


# a tuple of lists may be anything
@pytest.mark.parametrize("kind", [k for k in COLUMNS if "list" not in k and "tuple" not in k])
def test_batches_may_hold_any_column_in_order(kind: str) -> None:
    users, items, _ = triple_epoch(DATA, 0)[0]
    batch = COLUMNS[kind](users.numpy()), COLUMNS[kind](items.numpy())
    assert watched(batch, users, items) == set(zip(users.tolist(), items.tolist(), strict=True))


@pytest.mark.parametrize("make", [
    lambda columns: pandas.DataFrame(columns).sample(frac=1, random_state=1),
    pyarrow.table,
], ids=["pandas", "pyarrow"])  # fmt: skip
def test_a_batch_may_be_a_data_frame(make: Any) -> None:
    users, items, _ = triple_epoch(DATA, 0)[0]
    frame = make({"user": users.numpy(), "item": items.numpy()})
    order = [torch.tensor(np.array(frame[name])) for name in ("user", "item")]
    expected = set(zip(users.tolist(), items.tolist(), strict=True))
    assert watched(frame, *order) == expected


def test_a_batch_of_columns_is_said_at_once_to_fit_in_no_state() -> None:
    def loss(model: Any, batch: Any) -> torch.Tensor:
        users, items = (torch.tensor(batch[name].to_numpy()) for name in ("user", "item"))
        return torch.nn.functional.softplus(-model(users, items))

    users, items, _ = triple_epoch(DATA, 0)[0]
    frame = pandas.DataFrame({"user": users.numpy(), "item": items.numpy()})
    for batch in (frame, {"user": frame["user"], "item": frame["item"]}):
        kind = type(batch["user"] if isinstance(batch, dict) else batch).__name__
        with pytest.warns(
            DenoiserWarning, match=rf"^Expected tensors or arrays in a batch, got a {kind}\. Make "
            r"them of it with to_numpy\(\)\. This one trains, but state_dict\(\) will fail once"
        ):  # fmt: skip
            tiny_denoiser(DATA, loss_fn=loss).before_step(batch)


# ------------------------------------------------------------------ refusals

NUMBER = (
    "Number them with pandas.factorize(values)[0] or numpy.unique(values, return_inverse=True)[1], "
    "and use the same numbers in `interactions`, in batches and in the model."
)
MISSING = "missing (NaN, NA or null). Drop these rows from all columns."
WHAT = "Pass a tensor, an array or a column of a data frame."
NAN = float("nan")
REFUSED: dict[str, tuple[Any, str]] = {
    "list of strings": (["u1", "u2"], f"to hold integers, got strings such as 'u1'. {NUMBER}"),
    "strings and numbers": ([1, "u2"], f"to hold integers, got strings such as '1'. {NUMBER}"),
    "array of strings": (np.array(["u1"]), f"to hold integers, got strings such as 'u1'. {NUMBER}"),
    "bytes": ([b"u1"], f"to hold integers, got strings such as b'u1'. {NUMBER}"),
    "Series of strings": (
        pandas.Series(["u1", "u2"]), f"to hold integers, got strings such as 'u1'. {NUMBER}"
    ),
    "pyarrow strings": (
        pyarrow.array(["u1"]), f"to hold integers, got strings such as 'u1'. {NUMBER}"
    ),
    "categories of strings": (
        pandas.Categorical(["u1"]), f"to hold integers, got strings such as 'u1'. {NUMBER}"
    ),
    "objects": (
        np.array([(1, 2), None], dtype=object)[:1],
        f"to hold integers, got objects of type tuple. {NUMBER}",
    ),
    "integers as objects": (
        pandas.Series([3, 4], dtype=object),
        "to hold integers, got integers held as objects. Convert it with .astype('int64').",
    ),
    "Int64 with NA": (
        pandas.Series([1, None, 3], dtype="Int64"), f"without missing values, got 1 of 3 {MISSING}"
    ),
    "NaN in a Series": (
        pandas.Series([1, None, None]), f"without missing values, got 2 of 3 {MISSING}"
    ),
    "NaN in an array": (np.array([1.0, NAN]), f"without missing values, got 1 of 2 {MISSING}"),
    "NaN in a tensor": (torch.tensor([1.0, NAN]), f"without missing values, got 1 of 2 {MISSING}"),
    "None in a list": ([1, None], f"without missing values, got 1 of 2 {MISSING}"),
    "NA in a list": ([1, pandas.NA], f"without missing values, got 1 of 2 {MISSING}"),
    "strings with None": (
        np.array(["u1", None], dtype=object), f"without missing values, got 1 of 2 {MISSING}"
    ),
    "null of pyarrow": (pyarrow.array([1, None]), f"without missing values, got 1 of 2 {MISSING}"),
    "null of polars": (
        PolarsLike([1, 2], nulls=1), f"without missing values, got 1 of 2 {MISSING}"
    ),
    "a masked value": (
        np.ma.masked_array([1, 2], [True, False]), f"without missing values, got 1 of 2 {MISSING}"
    ),
    "category with NA": (
        pandas.Categorical([1, None]), f"without missing values, got 1 of 2 {MISSING}"
    ),
    "whole floats": (np.array([1.0, 2.0]), "to hold integers, got float64. Convert it to int64."),
    "long double": (
        np.array([1.0], dtype=np.longdouble), "to hold integers, got float64. Convert it to int64."
    ),
    "fractions": ([0.5, 1], "to hold integers, got float64. Pass the column of ids."),
    "infinity": ([1.0, np.inf], "to hold integers, got float64. Pass the column of ids."),
    "half precision": (
        torch.ones(2).half(), "to hold integers, got float16. Convert it to int64."
    ),
    "bools": ([True, False], "to hold integers, got bool. Pass the column of ids."),
    "nullable bools": (
        pandas.Series([True], dtype="boolean"),
        "to hold integers, got bool. Pass the column of ids.",
    ),
    "complex": (torch.tensor([1j]), "to hold integers, got complex64. Pass the column of ids."),
    "complex array": (
        np.array([1j]), "to hold integers, got complex128. Pass the column of integers."
    ),
    "records": (
        np.zeros(1, dtype=[("a", "i8")]),
        "to hold integers, got [('a', '<i8')]. Pass the column of integers.",
    ),
    "dates": (
        pandas.Series(pandas.to_datetime(["2020-01-01"])).astype("datetime64[s]"),
        "to hold integers, got dates or times (datetime64[s]). Pass the column of integers.",
    ),
    "durations": (
        np.array([3], dtype="timedelta64[s]"),
        "to hold integers, got dates or times (timedelta64[s]). Pass the column of integers.",
    ),
    "one number": (7, "to be 1-D, got shape (). Pass one id for each pair."),
    "text": ("abcd", f"as integers, got str. {WHAT}"),
    "a set": ({1, 2}, f"as integers, got set. {WHAT}"),
    "an iterator": (iter([1]), f"as integers, got list_iterator. {WHAT}"),
    "nothing": (None, f"as integers, got NoneType. {WHAT}"),
    "one column of two dimensions": (
        np.ones((3, 1), dtype=int), "to be 1-D, got shape (3, 1). Take its only column, "
        "values[:, 0].",
    ),
    "a data frame of one column": (
        pandas.DataFrame({"who": [1, 2]}),
        "as a column, got a DataFrame of shape (2, 1). Pass one of its columns, such as "
        "frame['who'].",
    ),
    "a table": (
        pyarrow.table({"who": [1], "what": [2]}),
        "as a column, got a Table of shape (1, 2). Pass one of its columns, such as frame['who'].",
    ),
    "uint64 too large": (
        np.array([1, 2**63], dtype=np.uint64),
        f"to hold integers below 2**63, got {2**63}. {NUMBER}",
    ),
    "uint64 of torch too large": (
        torch.tensor([1, 2**63 + 2], dtype=torch.uint64),
        f"to hold integers below 2**63, got {2**63 + 2}. {NUMBER}",
    ),
    "UInt64 too large": (
        pandas.Series([2**64 - 1], dtype="UInt64"),
        f"to hold integers below 2**63, got {2**64 - 1}. {NUMBER}",
    ),
    "Python's integers too large": (
        [1, 2**70], f"to hold integers below 2**63, got {2**70}. {NUMBER}"
    ),
    "Python's integers too large for a float": (
        [2**63, -1], f"to hold integers, got integers past 2**63 - 1. {NUMBER}"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("place", [0, 1])
def test_what_holds_no_ids_is_refused_by_what_it_holds(kind: str, place: int) -> None:
    values, words = REFUSED[kind]
    columns = (values, [1]) if place == 0 else ([1], values)
    with pytest.raises(InteractionsError) as caught:
        tiny_denoiser(DATA, interactions=columns)
    assert str(caught.value) == f"Expected {('users', 'items')[place]} {words}"
    with pytest.raises(BatchError) as caught_too:
        tiny_denoiser(DATA, pair_fn=lambda _: columns, example_batch=triple_epoch(DATA, 0)[0])
    assert str(caught_too.value) == f"Expected the {('users', 'items')[place]} of a batch {words}"


def test_a_list_of_rows_of_several_lengths_is_refused() -> None:
    with pytest.raises(InteractionsError, match=r"^Expected items as integers, got list \(.*\)\. "):
        tiny_denoiser(DATA, interactions=([1, 2], [[1], [2, 3]]))
    with pytest.raises(
        InteractionsError, match=r"^Expected users as one tensor, got list of tensors \(.*\)\. Use "
        r"torch\.cat or torch\.stack\.$"
    ):  # fmt: skip
        tiny_denoiser(DATA, interactions=([torch.ones(2), torch.ones(3)], [1]))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["yes", "no"], "to hold numbers, got strings such as 'yes'. Convert them to numbers."),
        (pandas.Series([1.0, None]), f"without missing values, got 1 of 2 {MISSING}"),
        (pandas.Series([True, None], dtype="boolean"), f"without missing values, got 1 of 2 "
         f"{MISSING}"),
    ],
    ids=["strings", "NaN", "NA"],
)  # fmt: skip
def test_labels_that_say_nothing_are_refused(labels: Any, words: str) -> None:
    batch = {"user": [0, 1], "item": [0, 1], "label": labels}
    with pytest.raises(BatchError) as caught:
        tiny_denoiser(DATA, example_batch=batch)
    assert str(caught.value) == f"Expected the labels of a batch {words}"


@pytest.mark.parametrize(
    "columns", [([], []), (pandas.Series([]), np.array([], dtype="U3"))], ids=["lists", "columns"]
)
def test_empty_columns_are_no_pairs_whatever_their_type(columns: Any) -> None:
    with pytest.raises(InteractionsError, match=r"^Expected at least one observed pair, got none"):
        tiny_denoiser(DATA, interactions=columns)


def test_a_data_frame_as_interactions_is_told_which_columns_to_pass() -> None:
    frame = pandas.DataFrame({"user": [0], "item": [1]})
    with pytest.raises(DenoiserError, match=r"of a data frame, \(frame\['user'\], frame\['item'\]"):
        tiny_denoiser(DATA, interactions=frame)


def test_the_users_arrays_are_not_written_to() -> None:
    users, items = DATA.users.astype(np.uint64), DATA.items.astype(">i8")
    before = users.copy(), items.copy()
    tiny_denoiser(DATA, interactions=(users, items))
    assert (users == before[0]).all()
    assert (items == before[1]).all()
