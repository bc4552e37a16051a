"""The clicks of a file: ids as numbers, and every row's pair of user and item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdl_wrap.command.columns import Columns
from sgdl_wrap.command.requirements import FileRefused
from sgdl_wrap.command.source import Source

SECONDS = (1e11, 1e14, 1e17)  # above each, a number counts thousandths of what it did before


@dataclass(frozen=True)
class Clicks:
    """The rows of a file, in order.

    Attributes:
        user, item: number of each row's user and item, (rows,) int32; -1 if the cell is empty.
        users, items: their ids, as text, by number.
        pair: number of each row's pair, (rows,) int64; -1 if one of its cells is empty.
        pair_user, pair_item: of each pair, (pairs,) int64, in the order of (user, item).
        seconds: when each row was, in seconds since 1970, (rows,) float64, NaN if the cell is
            empty; None without a time.
        broken: lines that were left out, as was asked.
        notes: what is to be said of the reading.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    users: NDArray[Any]
    items: NDArray[Any]
    pair: NDArray[np.int64]
    pair_user: NDArray[np.int64]
    pair_item: NDArray[np.int64]
    seconds: NDArray[np.float64] | None
    broken: int
    notes: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return len(self.pair)

    @property
    def repeats(self) -> int:
        """Rows whose pair was in an earlier row."""
        return int((self.pair >= 0).sum()) - len(self.pair_user)


def read_clicks(source: Source, columns: Columns) -> Clicks:
    """Reads ids and times.

    Raises:
        FileRefused: no row, one user, one item, ids that are no ids, or times asked for that
            cannot be read.
    """
    import pyarrow

    wanted = [columns.user, columns.item]
    if columns.time is not None and columns.time not in wanted:
        wanted.append(columns.time)
    parts: dict[str, list[Any]] = {name: [] for name in wanted}
    for batch in source.batches(wanted):
        for name in wanted:
            column = batch.column(name)
            if name != columns.time:
                _check_ids(column.type, name, source)
                column = column.cast(pyarrow.string()).dictionary_encode()
            parts[name].append(column)
    user, users = _numbered(parts.pop(columns.user))
    if len(user) == 0:
        raise FileRefused(
            f"Expected rows, got a header alone in {source.path}. Name a file with clicks."
        )
    item, items = _numbered(parts.pop(columns.item))
    for what, ids, name in ("user", users, columns.user), ("item", items, columns.item):
        if len(ids) < 2:
            got = f"one, {str(ids[0])!r}," if len(ids) else "none"
            raise FileRefused(
                f"Expected two or more {what}s to compare, got {got} in the column {name!r} of "
                f"{source.path}. Name another column with --{what}, or another file."
            )
    known = (user >= 0) & (item >= 0)
    keys = user.astype(np.int64) * len(items) + item
    distinct, inverse = np.unique(keys[known], return_inverse=True)
    pair = np.full(len(keys), -1, dtype=np.int64)
    pair[known] = inverse
    seconds, notes = None, []
    if columns.time is not None:
        seconds, note = _seconds(parts.pop(columns.time), columns, source)
        notes += [note] if note else []
    return Clicks(
        user, item, users, items, pair, distinct // len(items), distinct % len(items),
        seconds, source.broken, tuple(notes),
    )  # fmt: skip


def _check_ids(kind: Any, name: str, source: Source) -> None:
    from pyarrow import types

    inside = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_nested(inside) or types.is_binary(inside) or types.is_large_binary(inside):
        raise FileRefused(
            f"Expected one id in each cell of {name!r}, got {kind} in {source.path}. "
            "Name another column, or write one row for each click."
        )


def _numbered(parts: list[Any]) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Numbers in the order of first appearance, -1 if empty, and the ids by number."""
    import pyarrow
    from pyarrow import compute

    if not parts:
        return np.empty(0, dtype=np.int32), np.empty(0, dtype=object)
    whole = pyarrow.chunked_array(parts).unify_dictionaries()
    ids = whole.chunk(0).dictionary
    numbers = pyarrow.chunked_array([part.indices for part in whole.chunks])
    codes = compute.fill_null(numbers, -1).to_numpy().astype(np.int32)
    texts = ids.to_numpy(zero_copy_only=False)
    blank = [number for number, text in enumerate(texts) if not text.strip()]
    if blank:  # numbers close up over what is empty
        stays = np.ones(len(texts) + 1, dtype=bool)
        stays[blank] = stays[-1] = False
        renumbered = np.where(stays, np.cumsum(stays) - 1, -1).astype(np.int32)
        codes, texts = renumbered[codes], texts[stays[:-1]]
    return codes, texts


def _seconds(
    parts: list[Any], columns: Columns, source: Source
) -> tuple[NDArray[np.float64] | None, str]:
    """Times in seconds, and what is to be said if a column that was guessed holds none."""
    import pandas
    import pyarrow
    from pyarrow import compute

    column = pyarrow.chunked_array(parts)
    kind = column.type
    if pyarrow.types.is_temporal(kind) and not pyarrow.types.is_time(kind):
        nanoseconds = compute.cast(column, pyarrow.timestamp("ns", getattr(kind, "tz", None)))
        return _with_nan(nanoseconds.cast(pyarrow.int64())) / 1e9, ""
    texts = pandas.Series(column.cast(pyarrow.string()).to_numpy(), dtype=object).str.strip()
    empty = texts.isna() | (texts == "")
    numbers = pandas.to_numeric(texts, errors="coerce")
    if (numbers.notna() | empty).all():
        found = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
        largest = np.nanmax(np.abs(found)) if not empty.all() else 0.0
        return found / 1000.0 ** sum(largest > limit for limit in SECONDS), ""
    if numbers.notna().sum() > (~empty).sum() / 2:
        bad = np.flatnonzero(numbers.isna() & ~empty)
        return _no_times(texts, bad, columns, source)
    moments = pandas.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
    bad = np.flatnonzero(moments.isna() & ~empty)
    if len(bad) == 0:
        found = moments.astype("datetime64[ns, UTC]").astype("int64").to_numpy() / 1e9
        return np.where(moments.isna(), np.nan, found), ""
    return _no_times(texts, bad, columns, source)


def _no_times(
    texts: Any, bad: NDArray[np.int64], columns: Columns, source: Source
) -> tuple[None, str]:
    """Refuses times that were asked for, or says why those guessed are not used."""
    more = f", and {len(bad) - 1:,} more," if len(bad) > 1 else ""
    said = f"{texts.iloc[bad[0]]!r} in row {int(bad[0]) + 1:,}{more}"
    if columns.time_was_asked:
        raise FileRefused(
            f"Expected a time in each cell of {columns.time!r}, got {said} in {source.path}. "
            "Write seconds since 1970, or moments as 2026-01-31 12:00:00."
        )
    return None, f"The column {columns.time!r} is not read as a time: it holds {said.rstrip(',')}."


def _with_nan(column: Any) -> NDArray[np.float64]:
    found: NDArray[np.float64] = column.to_pandas().to_numpy(dtype=np.float64, na_value=np.nan)
    return found
