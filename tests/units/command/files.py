"""Files of clicks whose noise is known, and the command run on them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas
import pytest

from sgdl_wrap.command.cli import main

HEADER = ("customer", "sku", "ts", "title")
Row = tuple[str, ...]


def clicks(n_users: int = 120, each: int = 14, noise: float = 0.2) -> tuple[list[Row], np.ndarray]:
    """Rows of users with one of three tastes, and which of them are outside of the user's."""
    rng = np.random.default_rng(7)
    rows, noisy = [], []
    for n in range(n_users * each):
        user = n % n_users
        taste = user % 3 + rng.integers(1, 3) * (rng.random() < noise)
        item = 30 * (taste % 3) + rng.integers(30)
        rows.append((f"c-{user:04d}", f"SKU{item:03d}", f"{1_700_000_000 + 60 * n}", f"no. {item}"))
        noisy.append(taste != user % 3)
    return rows, np.array(noisy)


def written(path: Path, rows: Iterable[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
    """A CSV file of rows; without a header if there is none."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if header:
            writer.writerow(header)
        writer.writerows(rows)
    return path


def audited(file: Path, *options: str) -> pandas.DataFrame:
    """The rows of the answer to a file."""
    out = file.parent / "audit"
    assert main(["audit", str(file), "--out", str(out), "--overwrite", *options]) == 0
    if (out / "audit.parquet").exists():
        return pandas.read_parquet(out / "audit.parquet")
    return pandas.read_csv(out / "audit.csv", dtype=dict.fromkeys(HEADER, str))


def refusal(capsys: pytest.CaptureFixture[str], file: Path, *options: str) -> str:
    """What the command says of a file that it refuses, which leaves nothing behind."""
    out = file.parent / "refused"
    before = sorted(file.parent.iterdir())
    assert main(["audit", str(file), "--out", str(out), *options]) == 2
    assert sorted(file.parent.iterdir()) == before
    return capsys.readouterr().err
