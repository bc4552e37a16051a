"""The files of the answer: rows as they were with what was found, users, items, the page."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdl_wrap.command.clicks import Clicks
from sgdl_wrap.command.requirements import FileRefused
from sgdl_wrap.command.source import Source
from sgdl_wrap.command.verdict import WORDS, Verdict, share_and_interval

ADDED = "suspicion", "noise_probability", "is_suspect", "evidence"
FILES = {"audit.csv", "audit.parquet", "users.csv", "items.csv", "audit.html"}
DECIMALS = 4


def check_folder(out: Path, *, overwrite: bool) -> None:
    """Refuses a folder in which something may be lost.

    Raises:
        FileRefused: it exists and holds something, other than an audit that may be overwritten.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise FileRefused(f"Expected a folder for --out, got the file {out}. Name another.")
    held = {entry.name for entry in out.iterdir()}
    if held and not overwrite:
        raise FileRefused(
            f"Expected a new folder for --out, got {out}, which holds {min(held)}. "
            "Name another, or pass --overwrite."
        )
    if not held <= FILES:
        raise FileRefused(
            f"Expected a folder with an audit alone to overwrite, got {out}, which also holds "
            f"{min(held - FILES)}. Name another folder."
        )


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to write to, which takes the place of `out` at the end, or leaves no trace."""
    out.parent.mkdir(parents=True, exist_ok=True)
    written = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield written
        written.chmod(0o755)  # as any folder; a temporary one is the user's alone
        if out.exists():
            before = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
            out.rename(before / out.name)
            written.rename(out)
            shutil.rmtree(before)
        else:
            written.rename(out)
    finally:
        shutil.rmtree(written, ignore_errors=True)


def write_rows(source: Source, verdict: Verdict, folder: Path) -> Path:
    """Every row of the file in order, its columns as they were and four more.

    Returns:
        ``audit.parquet`` of a Parquet file, else ``audit.csv``.
    """
    import pyarrow
    from pyarrow import csv, parquet

    path = folder / ("audit.parquet" if source.parquet else "audit.csv")
    clash = [name for name in ADDED if name in source.names]
    names = [f"sgdl_{name}" if clash else name for name in ADDED]
    writer: Any = None
    done = 0
    try:
        for batch in source.batches():
            some = slice(done, done + len(batch))
            done += len(batch)
            columns = [*batch.columns, *_answers(verdict, some)]
            rows = pyarrow.Table.from_arrays(columns, names=[*batch.schema.names, *names])
            if writer is None and source.parquet:
                writer = parquet.ParquetWriter(path, rows.schema)
            elif writer is None:
                options = csv.WriteOptions(quoting_style="needed")
                writer = csv.CSVWriter(path, rows.schema, write_options=options)
            writer.write_table(rows)
    finally:
        if writer is not None:
            writer.close()
    if done != len(verdict.suspect):
        raise FileRefused(
            f"Expected {len(verdict.suspect):,} rows as before, got {done:,}: {source.path} has "
            "changed meanwhile. Run the command again."
        )
    return path


def write_groups(groups: dict[str, Any], path: Path) -> None:
    """Users or items, as :func:`grouped` gives them, as CSV."""
    import pyarrow
    from pyarrow import csv

    columns = {
        name: _rounded(values) if values.dtype.kind == "f" else pyarrow.array(values)
        for name, values in groups.items()
    }
    options = csv.WriteOptions(quoting_style="needed")
    csv.write_csv(pyarrow.table(columns), path, options)


def grouped(clicks: Clicks, verdict: Verdict, what: str) -> dict[str, NDArray[Any]]:
    """Each user or item: how many of its clicks are suspects, and how sure that is.

    Those whose share is surely high come first.

    Args:
        what: "user" or "item".

    Returns:
        Columns: the id; `clicks`, its rows; `with_evidence` among them; `suspects` among those;
        `share`, suspects over those with evidence; `low` and `high`, Wilson's interval at 95 %;
        NaN without evidence.
    """
    numbers, ids = (
        (clicks.user, clicks.users) if what == "user" else (clicks.item, clicks.items)
    )
    has = numbers >= 0
    count = len(ids)
    rows = np.bincount(numbers[has], minlength=count)
    known = np.bincount(numbers[has & verdict.known], minlength=count)
    found = np.bincount(numbers[has & verdict.suspect], minlength=count)
    share, low, high = share_and_interval(found.astype(np.float64), known.astype(np.float64))
    order = np.lexsort((-known, -np.nan_to_num(low, nan=-1.0)))
    columns = {
        what: ids, "clicks": rows, "with_evidence": known, "suspects": found, "share": share,
        "low": low, "high": high,
    }  # fmt: skip
    return {name: values[order] for name, values in columns.items()}


def _answers(verdict: Verdict, some: slice) -> list[Any]:
    import pyarrow

    words = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array(verdict.evidence[some]), pyarrow.array(WORDS)
    )
    return [
        _rounded(verdict.suspicion[some]),
        _rounded(verdict.probability[some]),
        pyarrow.array(verdict.suspect[some]),
        words.cast(pyarrow.string()),
    ]


def _rounded(values: NDArray[Any]) -> Any:
    """Floats of four decimals, empty where NaN."""
    import pyarrow

    return pyarrow.array(np.round(values.astype(np.float64), DECIMALS), from_pandas=True)
