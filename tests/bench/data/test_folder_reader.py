from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.data.folder_reader import read_folder


def folder(tmp_path: Path, **changed: str | None) -> Path:
    texts = {"train": "0\t1\t1\n2\t5\t0\n", "valid": "1\t3\n", "test": "0\t7\t1\n", **changed}
    for split, text in texts.items():
        if text is not None:
            (tmp_path / f"{split}.tsv").write_text(text, encoding="utf-8")
    return tmp_path


def test_reads_columns_and_flags_where_they_are(tmp_path: Path) -> None:
    data = read_folder(folder(tmp_path))
    assert data.name == tmp_path.name
    assert (data.train_users.tolist(), data.train_items.tolist()) == ([0, 2], [1, 5])
    assert data.train_clean.tolist() == [True, False]
    assert data.valid_clean is None
    assert (data.test_users.tolist(), data.test_items.tolist()) == ([0], [7])
    assert data.train_users.dtype == np.int64


def test_sizes_come_from_the_largest_ids_of_all_files(tmp_path: Path) -> None:
    data = read_folder(folder(tmp_path))
    assert (data.n_users, data.n_items) == (3, 8)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"^Expected a file .*valid\.tsv, got none\. Name a folder that holds train\.tsv, "
        r"valid\.tsv and test\.tsv\.$",
    ):
        read_folder(folder(tmp_path, valid=None))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\n", r"^Expected interactions in .*train\.tsv, got an empty file\. Add lines to it\.$"),
        (
            "user\titem\n0\t1\n",
            r"^Expected lines of user<TAB>item .*train\.tsv, got: .*user.* Rewrite that line\.$",
        ),
        ("0\t1\n0\t1\t1\n", r"^Expected lines of user<TAB>item .* Rewrite that line\.$"),
        ("0\t1.5\n", r"^Expected lines of user<TAB>item .* Rewrite that line\.$"),
        (
            "3\n4\n",
            r"^Expected lines of .* got 1 column\(s\)\. Keep those columns and separate them with "
            r"tabs\.$",
        ),
        ("0\t-2\n", r"^Expected ids from 0 in .*train\.tsv, got -2\. Number ids from 0\.$"),
        (
            "0\t1\t4\n",
            r"^Expected clean flags 0 or 1 in .*train\.tsv, got 4\. Write 1 for clean and 0 for "
            r"noisy interactions\.$",
        ),
    ],
)
def test_bad_file_is_refused_with_what_to_do(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_folder(folder(tmp_path, train=text))
