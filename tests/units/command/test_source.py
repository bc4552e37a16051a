"""Files of every kind are read alike, and their columns are guessed by common names."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas
import pytest

from sgdl_wrap.command.clicks import read_clicks
from sgdl_wrap.command.columns import choose
from sgdl_wrap.command.source import Source, open_source
from tests.units.command.files import HEADER, clicks, written

ROWS, _ = clicks(12, 4)


def as_csv(folder: Path) -> Path:
    return written(folder / "clicks.csv", ROWS)


def with_byte_order_mark(folder: Path) -> Path:
    file = folder / "bom.csv"
    file.write_bytes(b"\xef\xbb\xbf" + as_csv(folder).read_bytes())
    return file


def with_windows_line_ends(folder: Path) -> Path:
    file = folder / "windows.csv"
    file.write_bytes(as_csv(folder).read_bytes().replace(b"\n", b"\r\n"))
    return file


def as_tsv(folder: Path) -> Path:
    file = folder / "clicks.txt"
    file.write_text("".join("\t".join(row) + "\n" for row in (HEADER, *ROWS)))
    return file


def with_semicolons(folder: Path) -> Path:
    file = folder / "clicks.csv"
    file.write_text("".join(";".join(row) + "\n" for row in (HEADER, *ROWS)))
    return file


def with_gzip(folder: Path) -> Path:
    file = folder / "clicks"  # no name tells
    file.write_bytes(gzip.compress(as_csv(folder).read_bytes()))
    return file


def with_quotes(folder: Path) -> Path:
    file = folder / "clicks.csv"
    rows = [HEADER, *((*row[:3], "one, two\nthree") for row in ROWS)]
    file.write_text("".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in rows))
    return file


def as_parquet(folder: Path) -> Path:
    file = folder / "clicks.parquet"
    frame = pandas.DataFrame(ROWS, columns=list(HEADER))
    frame["ts"] = pandas.to_datetime(frame["ts"].astype(int), unit="s")
    frame["sku"] = frame["sku"].astype("category")
    frame.to_parquet(file, row_group_size=7)
    return file


@pytest.mark.parametrize(
    "kind",
    [as_csv, with_byte_order_mark, with_windows_line_ends, as_tsv, with_semicolons, with_gzip,
     with_quotes, as_parquet],
)  # fmt: skip
def test_files_of_every_kind_are_read_alike(kind, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = open_source(kind(tmp_path))
    columns = choose(source)
    assert (columns.user, columns.item, columns.time) == ("customer", "sku", "ts")
    found = read_clicks(source, columns)
    assert found.users[found.user].tolist() == [row[0] for row in ROWS]
    assert found.items[found.item].tolist() == [row[1] for row in ROWS]
    assert found.seconds is not None
    np.testing.assert_array_equal(found.seconds, [float(row[2]) for row in ROWS])
    pairs = found.pair_user[found.pair], found.pair_item[found.pair]
    np.testing.assert_array_equal(pairs, [found.user, found.item])


def test_a_file_without_header_has_user_and_item_first(tmp_path: Path) -> None:
    source = open_source(written(tmp_path / "u.data", [("7", "3", "5")] * 3, ()))
    assert not source.header
    columns = choose(source)
    assert (columns.user, columns.item, columns.time) == ("column_1", "column_2", None)
    assert choose(source, user="2", item="1").user == "column_2"


def test_a_first_line_of_words_is_a_row_if_that_is_said(tmp_path: Path) -> None:
    file = written(tmp_path / "clicks.csv", [("ann", "tea"), ("bob", "milk")], ())
    assert open_source(file).names == ["ann", "tea"]
    found = read_clicks(source := open_source(file, no_header=True), choose(source))
    assert found.users.tolist() == ["ann", "bob"]


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["userId", "movieId", "rating", "timestamp"], ("userId", "movieId", "timestamp")),
        (["Product ID", "Customer ID", "Created At"], ("Customer ID", "Product ID", "Created At")),
        (["session_id", "user_id", "item_id", "session"], ("user_id", "item_id", None)),
        (["reviewerID", "asin", "unixTime"], ("reviewerID", "asin", "unixTime")),
    ],
)
def test_columns_of_common_names_are_taken(
    names: list[str], taken: tuple[str, str, str | None]
) -> None:
    columns = choose(Source(Path("clicks.csv"), names))
    assert (columns.user, columns.item, columns.time) == taken


def test_columns_that_are_named_go_before_guesses() -> None:
    source = Source(Path("clicks.csv"), ["user", "item", "time", "Who", "What"])
    columns = choose(source, user="who", item="5", keep=["time"])
    assert (columns.user, columns.item, columns.keep) == ("Who", "What", ("time",))


@pytest.mark.parametrize(
    ("texts", "seconds"),
    [
        (["1700000000", "1700000060.5"], [1_700_000_000, 1_700_000_060.5]),
        (["1700000000000", "1700000060000"], [1_700_000_000, 1_700_000_060]),
        (["1700000000000000", ""], [1_700_000_000, np.nan]),
        (["2023-11-14T22:13:20Z", "2023-11-15"], [1_700_000_000, 1_700_006_400]),
        (["2023-11-14 22:13:20", "2023-11-14T23:13:20+01:00"], [1_700_000_000, 1_700_000_000]),
        (["", ""], [np.nan, np.nan]),
    ],
)
def test_times_are_read_in_every_common_form(
    tmp_path: Path, texts: list[str], seconds: list[float]
) -> None:
    rows = [("a", "1", texts[0]), ("b", "2", texts[1])]
    source = open_source(written(tmp_path / "clicks.csv", rows, ("user", "item", "time")))
    found = read_clicks(source, choose(source))
    assert found.seconds is not None
    np.testing.assert_array_equal(found.seconds, seconds)


def test_a_guessed_time_that_is_none_is_said_and_not_used(tmp_path: Path) -> None:
    rows = [("a", "1", "noon"), ("b", "2", "later")]
    source = open_source(written(tmp_path / "clicks.csv", rows, ("user", "item", "time")))
    found = read_clicks(source, choose(source))
    assert found.seconds is None
    assert found.notes == (
        "The column 'time' is not read as a time: it holds 'noon' in row 1, and 1 more.",
    )


def test_empty_cells_are_no_ids(tmp_path: Path) -> None:
    rows = [("a", "1"), ("", "2"), ("b", " "), ("b", "2")]
    source = open_source(written(tmp_path / "clicks.csv", rows, ("user", "item")))
    found = read_clicks(source, choose(source))
    assert found.user.tolist() == [0, -1, 1, 1]
    assert found.item.tolist() == [0, 1, -1, 1]
    assert found.pair.tolist() == [0, -1, -1, 1]
    assert found.users.tolist() == ["a", "b"]
