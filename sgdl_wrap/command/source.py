"""A file of clicks: CSV, TSV or Parquet, compressed or not, read as it stands."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from sgdl_wrap.command.requirements import FileRefused

DELIMITERS = ",\t;|"
BLOCK = 1 << 23  # bytes of text, and about as many of Parquet, read at once
HEAD = 1 << 16  # bytes looked at to tell the delimiter and the header
PARQUET, GZIP, ZIP, UTF_16 = b"PAR1", b"\x1f\x8b", b"PK\x03\x04", (b"\xff\xfe", b"\xfe\xff")


@dataclass
class Source:
    """A file whose columns can be read, by name, as often as needed.

    Attributes:
        path: of the file.
        names: of its columns, in order; ``column_1`` and so on without a header.
        parquet: whether it is a Parquet file; else it is text.
        delimiter: between two fields of a line.
        header: whether the first line holds the names.
        skip_broken: whether lines with another number of fields are left out, and counted.
        broken: how many of them the last reading met.
    """

    path: Path
    names: list[str]
    parquet: bool = False
    delimiter: str = ","
    header: bool = True
    skip_broken: bool = False
    broken: int = field(default=0, init=False)

    def batches(self, names: Sequence[str] | None = None) -> Iterator[Any]:
        """The rows in order, as ``pyarrow.RecordBatch``; of text, every value is a string.

        Args:
            names: columns wanted; None is all.

        Raises:
            FileRefused: a broken line, or text that is not UTF-8; the message names the line.
        """
        import pyarrow

        self.broken = 0
        try:
            yield from self._parquet(names) if self.parquet else self._text(names)
        except pyarrow.ArrowInvalid as error:
            raise self._refusal(error) from error

    def _parquet(self, names: Sequence[str] | None) -> Iterator[Any]:
        from pyarrow import parquet

        with parquet.ParquetFile(self.path) as file:
            columns = None if names is None else list(names)
            yield from file.iter_batches(batch_size=1 << 16, columns=columns)

    def _text(self, names: Sequence[str] | None) -> Iterator[Any]:
        import pyarrow
        from pyarrow import csv as arrow_csv

        met: list[Any] = []

        def broken(row: Any) -> str:
            self.broken += 1
            met[:] = met[:1] or [row]
            return "skip" if self.skip_broken else "error"

        read = arrow_csv.ReadOptions(
            use_threads=False,  # else rows are met without their number
            block_size=BLOCK,
            column_names=self.names,
            skip_rows=1 if self.header else 0,
        )
        parse = arrow_csv.ParseOptions(
            delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=broken
        )
        convert = arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(self.names, pyarrow.string()),
            strings_can_be_null=False,
            include_columns=None if names is None else list(names),
        )
        with opened(self.path) as file:
            try:
                with arrow_csv.open_csv(file, read, parse, convert) as reader:
                    yield from reader
            except pyarrow.ArrowInvalid as error:
                if met and not self.skip_broken:
                    raise self._broken(met[0]) from error
                raise

    def _broken(self, row: Any) -> FileRefused:
        number, more = 0, 0
        for line, text in self._lines():
            fields = text.rstrip("\r\n")
            if fields == row.text and number == 0:
                number = line
            elif fields and '"' not in fields:
                more += fields.count(self.delimiter) + 1 != row.expected_columns
        also = f", and about {more:,} more such lines" if more else ""
        return FileRefused(
            f"Expected {row.expected_columns} fields in each line of {self.path}, got "
            f"{row.actual_columns} in line {number or row.number:,}: {_short(row.text)}{also}. "
            "Mend the file, or pass --skip-broken to leave such lines out of the answer."
        )

    def _refusal(self, error: Exception) -> FileRefused:
        for line, raw in self._lines(errors="surrogateescape"):
            try:
                raw.encode()
            except UnicodeEncodeError:
                return FileRefused(
                    f"Expected text in UTF-8, got other bytes in line {line:,} of {self.path}. "
                    "Save the file as UTF-8, for example with "
                    f"`iconv -f latin1 -t utf8 {self.path.name}`."
                )
        return FileRefused(
            f"Expected a file of rows and columns, got {self.path}, of which reading says: "
            f"{str(error).rstrip('.')}. Look at the file in an editor, and save it as CSV."
        )

    def _lines(self, errors: str = "replace") -> Iterator[tuple[int, str]]:
        """Lines with their numbers, from 1; none of a Parquet file."""
        if self.parquet:
            return
        with opened(self.path) as file:
            reader = io.TextIOWrapper(file, "utf-8", errors=errors, newline="")
            yield from enumerate(reader, start=1)


def open_source(
    path: Path, *, no_header: bool = False, skip_broken: bool = False, known: Sequence[str] = ()
) -> Source:
    """Looks at the head of a file and tells how to read it.

    Args:
        path: of the file.
        no_header: True: the first line is a row, whatever it looks like.
        skip_broken: as the attribute of :class:`Source`.
        known: names of columns that a header may hold: one of them tells that it is a header.

    Raises:
        FileRefused: no such file, an empty one, or one of another kind.
    """
    if not path.is_file():
        raise FileRefused(f"Expected a file of clicks, got {path}, which is none. Name another.")
    with opened(path) as file:
        head = file.read(HEAD)
    if head.startswith(PARQUET):
        from pyarrow import ArrowInvalid, parquet

        try:
            return Source(path, list(parquet.read_schema(path).names), parquet=True)
        except ArrowInvalid as error:
            raise FileRefused(
                f"Expected a whole Parquet file, got {path}, of which reading says: "
                f"{str(error).rstrip('.')}. Write it once more."
            ) from error
    _refuse_other_kinds(path, head)
    lines = head.decode("utf-8-sig", errors="replace").splitlines()
    if len(head) == HEAD and len(lines) > 1:
        del lines[-1]  # it may be cut
    lines = [line for line in lines if line.strip()][:20]
    delimiter = _delimiter(lines)
    cells = next(csv.reader(lines, delimiter=delimiter))
    header = not no_header and _is_header(cells, known)
    names = cells if header else [f"column_{n}" for n in range(1, len(cells) + 1)]
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise FileRefused(
            f"Expected columns of different names, got {repeated[0]!r} more than once in line 1 "
            f"of {path}. Rename one of them, or pass --no-header if line 1 is a row."
        )
    return Source(path, names, delimiter=delimiter, header=header, skip_broken=skip_broken)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked if it is gzip, whatever its name."""
    with path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
    with gzip.open(path, "rb") if packed else path.open("rb") as stream:
        try:
            yield cast(BinaryIO, stream)
        except (EOFError, gzip.BadGzipFile) as error:
            raise FileRefused(
                f"Expected a whole gzip file, got {path}, of which unpacking says: {error}. "
                "Copy it once more."
            ) from error


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    if not head.strip():
        raise FileRefused(f"Expected rows, got {path}, which is empty. Name another file.")
    if head.startswith(ZIP):
        raise FileRefused(
            f"Expected CSV, TSV or Parquet, got {path}, which is a zip archive or a spreadsheet. "
            "Unpack it, or save the sheet as CSV."
        )
    if head.startswith(UTF_16):
        raise FileRefused(
            f"Expected text in UTF-8, got UTF-16 in {path}. Save it as UTF-8, for example with "
            f"`iconv -f utf-16 -t utf-8 {path.name}`."
        )
    if b"\0" in head:
        raise FileRefused(
            f"Expected CSV, TSV or Parquet, got {path}, which is neither text nor Parquet. "
            "Save it as CSV."
        )


def _delimiter(lines: Sequence[str]) -> str:
    """The one that most lines hold equally often, and often."""
    def agreement(delimiter: str) -> tuple[int, int]:
        times, alike = Counter(line.count(delimiter) for line in lines).most_common(1)[0]
        return (alike, times) if times else (0, 0)

    return max(DELIMITERS, key=agreement)


def _is_header(cells: Sequence[str], known: Sequence[str]) -> bool:
    """Whether a first line holds names: a known one, or else no number."""
    if {cell.lower() for cell in cells} & {name.lower() for name in known}:
        return True
    return not any(_is_number(cell) for cell in cells)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
