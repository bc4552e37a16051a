"""Columns of ids and labels, of whatever library, as tensors of their values in order.

`interactions=` and the pairs of batches are read here alike. What numpy reads is understood:
tensors, arrays, lists, and columns of pandas, pyarrow and polars, none of which is imported. Nobody
looks at an index, so a column of a filtered, sampled or split data frame is as good as any.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.errors import DenoiserError

_NUMBERS = {"i": np.int64, "u": np.uint64, "b": np.bool_, "f": np.float64}  # by kind of dtype
_WIDE = (torch.uint16, torch.uint32, torch.uint64)  # of which torch knows little but the name
_MISSING = ("NAType", "NaTType")  # pandas' own


def is_column(values: object) -> bool:
    """Whether it is a tensor, an array, or one column of a data frame; a list is none."""
    if isinstance(values, (Tensor, np.ndarray)):
        return True
    return hasattr(values, "to_numpy") and not hasattr(values, "columns")


def names_of_columns(table: Any) -> list[Any]:
    """The names of a data frame's columns, or of what has columns by name as one has."""
    return list(getattr(table, "column_names", table.columns))  # pyarrow's own are the columns


def ids_of(values: Any, name: str, error: type[DenoiserError]) -> Tensor:
    """A column of ids, (rows,), integers as they are, where they are.

    Args:
        values: tensor, array, list, or column of a data frame.
        name: names the column in messages.
        error: what is raised.

    Raises:
        error: no column, 2-D, or other values than integers; the message says which.
    """
    column = numbers_of(values, name, error, expected="integers")
    if column.ndim != 1:
        remedy = "Pass one id for each pair."
        if column.ndim == 2 and column.shape[1] == 1:
            remedy = "Take its only column, values[:, 0]."
        raise error(f"Expected {name} to be 1-D, got shape {tuple(column.shape)}. {remedy}")
    if not column.numel():
        return column.long()
    kind = column.dtype
    if not (kind.is_floating_point or kind.is_complex or kind == torch.bool):
        return column
    got, remedy = str(kind).removeprefix("torch."), "Pass the column of ids."
    if kind.is_floating_point:
        missing = int(column.isnan().sum())
        if missing:
            raise error(_missing_said(name, missing, len(column)))
        if _past_int64(values):
            got, remedy = "integers past 2**63 - 1", _NUMBER.format("values")
        elif bool((column.isfinite() & (column == column.round())).all()):
            remedy = "Convert it to int64."
    raise error(f"Expected {name} to hold integers, got {got}. {remedy}")


def numbers_of(
    values: Any, name: str, error: type[DenoiserError], *, expected: str = "numbers"
) -> Tensor:
    """Numbers or bools as a tensor of any shape; it may share memory with `values`.

    Raises:
        error: no column, missing values, strings, dates, other objects, uint64 past 2**63 - 1.
    """
    if isinstance(values, Tensor):
        return _narrowed(values, name, error) if values.dtype in _WIDE else values
    if hasattr(values, "columns") and hasattr(values, "__getitem__"):
        column = next(iter(names_of_columns(values)), "name")
        raise error(
            f"Expected {name} as a column, got a {type(values).__name__} of shape "
            f"{tuple(getattr(values, 'shape', ()))}. Pass one of its columns, such as "
            f"frame[{column!r}]."
        )
    if isinstance(values, (list, tuple)) and values and isinstance(values[0], Tensor):
        return _stacked(values, name, error)
    missing = _missing_in(values)
    if missing:
        raise error(_missing_said(name, missing, len(values)))
    array = _array_of(values, name, error, expected)
    if not array.size:  # of whatever type: an empty column is one of objects, most often
        return torch.empty(array.shape, dtype=torch.int64)
    if array.dtype.kind not in _NUMBERS:
        raise error(_refusal(array, values, name, expected))
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        if int(array.max()) >= 2**63:
            raise error(_past_said(name, int(array.max())))
        array = array.astype(np.int64)
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.carray:  # torch shares memory, and warns of what it may not write
        array = array.copy()
    return torch.from_numpy(array)


def _array_of(
    values: Any, name: str, error: type[DenoiserError], expected: str
) -> np.ndarray:
    """As numpy reads it."""
    try:
        array: np.ndarray = np.asarray(values)
        kind = getattr(getattr(values, "dtype", None), "kind", "")
        if array.dtype == object and kind in _NUMBERS:  # nullable ones, of pandas before 2.2
            array = np.asarray(values, dtype=_NUMBERS[kind])
    except (TypeError, ValueError, RuntimeError) as cause:
        raise error(
            f"Expected {name} as {expected}, got {type(values).__name__} ({cause}). Pass a tensor, "
            "an array or a column of a data frame."
        ) from cause
    return array


def _stacked(values: Any, name: str, error: type[DenoiserError]) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as cause:
        raise error(
            f"Expected {name} as one tensor, got {type(values).__name__} of tensors ({cause}). Use "
            "torch.cat or torch.stack."
        ) from cause


def _narrowed(values: Tensor, name: str, error: type[DenoiserError]) -> Tensor:
    """uint16, uint32 and uint64 as int64."""
    found = values.to(torch.int64)
    if values.dtype == torch.uint64 and found.numel() and int(found.min()) < 0:
        raise error(_past_said(name, int(found.min()) + 2**64))
    return found


# ------------------------------------------------------------------ what is refused, in words

_NUMBER = (
    "Number them with pandas.factorize({0})[0] or numpy.unique({0}, return_inverse=True)[1], and "
    "use the same numbers in `interactions`, in batches and in the model."
)


def _missing_in(values: Any) -> int:
    """How many values are missing, as far as the column itself can say."""
    counted = getattr(values, "null_count", None)  # a number of pyarrow's, a method of polars'
    if counted is not None:
        return int(counted() if callable(counted) else counted)
    if hasattr(values, "isna"):  # pandas
        return int(np.sum(np.asarray(values.isna())))
    return int(np.ma.getmaskarray(values).sum()) if isinstance(values, np.ma.MaskedArray) else 0


def _missing_said(name: str, missing: int, rows: int) -> str:
    return (
        f"Expected {name} without missing values, got {missing} of {rows} missing (NaN, NA or "
        "null). Drop these rows from all columns."
    )


def _past_said(name: str, largest: int) -> str:
    return (
        f"Expected {name} to hold integers below 2**63, got {largest}. "
        f"{_NUMBER.format('values')}"
    )


def _past_int64(values: Any) -> bool:
    """Whether a list of integers became floats, as it does if some are past 2**63 - 1."""
    return isinstance(values, (list, tuple)) and all(isinstance(one, Integral) for one in values)


def _refusal(array: np.ndarray, values: Any, name: str, expected: str) -> str:
    """What an array of no numbers holds, and what to do."""
    numbering = _NUMBER.format("values") if expected == "integers" else "Convert them to numbers."
    if array.ndim == 0:
        return (
            f"Expected {name} as {expected}, got {type(values).__name__}. Pass a tensor, an array "
            "or a column of a data frame."
        )
    if array.dtype.kind in "mM":
        got, remedy = f"dates or times ({array.dtype})", f"Pass the column of {expected}."
    elif array.dtype.kind in "UST":
        got, remedy = f"strings such as {array.flat[0].item()!r}", numbering
    elif array.dtype.kind != "O":
        got, remedy = str(array.dtype), f"Pass the column of {expected}."
    else:
        held = array.ravel().tolist()
        missing = sum(map(_is_missing, held))
        text = next((one for one in held if isinstance(one, (str, bytes))), None)
        if missing:
            return _missing_said(name, missing, len(held))
        if text is not None:
            got, remedy = f"strings such as {text!r}", numbering
        elif all(isinstance(one, Integral) for one in held):
            past = max(held, key=abs)
            if not -(2**63) <= past < 2**63:
                return _past_said(name, past)
            got, remedy = "integers held as objects", "Convert it with .astype('int64')."
        else:
            got, remedy = f"objects of type {type(held[0]).__name__}", numbering
    return f"Expected {name} to hold {expected}, got {got}. {remedy}"


def _is_missing(value: Any) -> bool:
    """None, NaN, pandas.NA or pandas.NaT; the last two by name, as pandas may not be there."""
    if isinstance(value, float):
        return value != value
    return value is None or type(value).__name__ in _MISSING
