"""Files that cannot be audited: a message with the line, exit code 2, nothing written."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas
import pytest

from tests.units.command.files import HEADER, audited, clicks, refusal, written

ROWS, _ = clicks()


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (b"", (), "Expected rows, got {file}, which is empty. Name another file."),
        (b"\n \n", (), "Expected rows, got {file}, which is empty. Name another file."),
        (b"user,item\n", (), "Expected rows, got a header alone in {file}. Name a file with "
         "clicks."),
        (b"user,item\na,1\na,2\n", (), "Expected two or more users to compare, got one, 'a', in "
         "the column 'user' of {file}. Name another column with --user, or another file."),
        (b"user,item\na,1\nb,1\n", (), "Expected two or more items to compare, got one, '1', in "
         "the column 'item' of {file}. Name another column with --item, or another file."),
        (b"user,item\n" + 9 * b"a,1\n", (), "Expected two or more users to compare, got one, 'a', "
         "in the column 'user' of {file}. Name another column with --user, or another file."),
        (b"user,item\n,1\n,2\n", (), "Expected two or more users to compare, got none in the "
         "column 'user' of {file}. Name another column with --user, or another file."),
        (b"user,item\na,1\nb,2\n", (), "Expected users with two or more items, got one each. Name "
         "a column that several rows share with --user: an id of a person, not of a visit."),
        (b"user,item\na,1\na,2\nb,3\nb,4\n", (), "Expected items that two or more users have, got "
         "none. Name a coarser column with --item: a product, not an offer or a search."),
        (b"who,item\na,1\n", (), "Expected a column that holds the user, got the columns 'who', "
         "'item' in {file}. Name it with --user, or pass --no-header if line 1 is a row."),
        (b"user,item\na,1\n", ("--item", "sku"), "Expected --item to name a column, got 'sku', but "
         "{file} has the columns 'user', 'item'. Name one of them."),
        (b"user,item\na,1\n", ("--keep", "item,price"), "Expected --keep to name a column, got "
         "'price', but {file} has the columns 'user', 'item'. Name one of them."),
        (b"user,item\na,1\n", ("--item", "user"), "Expected two columns for user and item, got "
         "'user' for both. Name them with --user and --item."),
        (b"user,item,user\na,1,2\n", (), "Expected columns of different names, got 'user' more "
         "than once in line 1 of {file}. Rename one of them, or pass --no-header if line 1 is a "
         "row."),
        (b"user,item\na,1\nb\xff,2\n", (), "Expected text in UTF-8, got other bytes in line 3 of "
         "{file}. Save the file as UTF-8, for example with `iconv -f latin1 -t utf8 clicks.csv`."),
        ("user,item\na,1\n".encode("utf-16"), (), "Expected text in UTF-8, got UTF-16 in {file}. "
         "Save it as UTF-8, for example with `iconv -f utf-16 -t utf-8 clicks.csv`."),
        (b"PK\x03\x04 and so on", (), "Expected CSV, TSV or Parquet, got {file}, which is a zip "
         "archive or a spreadsheet. Unpack it, or save the sheet as CSV."),
        (b"\x89PNG\0\0", (), "Expected CSV, TSV or Parquet, got {file}, which is neither text nor "
         "Parquet. Save it as CSV."),
        (b"user,item,ts\na,1,5\na,2,soon\nb,1,6\n", ("--time", "ts"), "Expected a time in each "
         "cell of 'ts', got 'soon' in row 2 in {file}. Write seconds since 1970, or moments as "
         "2026-01-31 12:00:00."),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_in_words(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    options: tuple[str, ...],
    says: str,
) -> None:
    file = tmp_path / "clicks.csv"
    file.write_bytes(content)
    said = refusal(capsys, file, *options).splitlines()[-1]
    assert said == f"sgdl-wrap: {says.format(file=file)}"


def test_broken_lines_are_named_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = with_broken_lines(tmp_path / "clicks.csv")
    assert refusal(capsys, file).splitlines()[-1] == (
        f"sgdl-wrap: Expected 4 fields in each line of {file}, got 2 in line 12: 'broken,line', "
        "and about 33 more such lines. Mend the file, or pass --skip-broken to leave such lines "
        "out of the answer."
    )


def test_broken_lines_are_left_out_and_counted_if_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = audited(
        with_broken_lines(tmp_path / "clicks.csv"), "--skip-broken", "--passes", "2", "--folds", "2"
    )
    assert answer["sku"].tolist() == [row[1] for row in ROWS]
    assert "34 broken lines are left out" in capsys.readouterr().err
    assert "34 broken lines are left out" in (tmp_path / "audit" / "audit.html").read_text()


def test_a_file_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, tmp_path / "none.csv")
    assert said.endswith("none.csv, which is none. Name another.\n")


def test_a_gzip_file_that_is_cut_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = gzip.compress(written(tmp_path / "clicks.csv", ROWS).read_bytes())
    file = tmp_path / "clicks.csv.gz"
    file.write_bytes(packed[: len(packed) // 2])
    assert "Expected a whole gzip file" in refusal(capsys, file)


def test_a_parquet_file_that_is_cut_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "clicks.parquet"
    pandas.DataFrame(ROWS, columns=list(HEADER)).to_parquet(file)
    file.write_bytes(file.read_bytes()[:-100])
    assert "Expected a whole Parquet file" in refusal(capsys, file)


def test_lists_are_no_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "clicks.parquet"
    pandas.DataFrame({"user": ["a", "b"], "item": [[1, 2], [3]]}).to_parquet(file)
    said = refusal(capsys, file).splitlines()[-1]
    assert said.startswith("sgdl-wrap: Expected one id in each cell of 'item', got list<")


def with_broken_lines(file: Path) -> Path:
    """Clicks of which every 50th line has two fields only."""
    lines = written(file, ROWS).read_text().splitlines()
    whole = [lines[:1]] + [lines[1:][n : n + 50] for n in range(0, len(ROWS), 50)]
    broken = [whole[0]] + [[*some[:10], "broken,line", *some[10:]] for some in whole[1:]]
    file.write_text("".join(f"{line}\n" for some in broken for line in some))
    return file
