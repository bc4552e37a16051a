"""Reads interactions from a folder with train.tsv, valid.tsv and test.tsv.

Each line is ``user <tab> item`` or ``user <tab> item <tab> clean``, integers, no header; clean is
1 or 0 and may be missing in any of the files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.data.interaction_data import Flags, Ids, InteractionData

LINE_FORMAT = "user<TAB>item or user<TAB>item<TAB>clean, integers without a header"


def read_folder(path: str | Path) -> InteractionData:
    """Reads a folder of three files; n_users and n_items are the largest ids plus 1.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a file is empty, or holds something else than ids from 0 and flags 0 or 1.
    """
    folder = Path(path)
    splits = {split: _read_file(folder / f"{split}.tsv") for split in ("train", "valid", "test")}
    n_users = 1 + max(int(users.max()) for users, _, _ in splits.values())
    n_items = 1 + max(int(items.max()) for _, items, _ in splits.values())
    return InteractionData.of(folder.resolve().name, n_users, n_items, splits)


def _read_file(path: Path) -> tuple[Ids, Ids, Flags | None]:
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a file {path}, got none. "
            "Name a folder that holds train.tsv, valid.tsv and test.tsv."
        )
    if not path.read_text(encoding="utf-8").strip():
        raise ValueError(f"Expected interactions in {path}, got an empty file. Add lines to it.")
    try:
        table = np.loadtxt(path, dtype=np.int64, delimiter="\t", ndmin=2)
    except ValueError as error:
        raise ValueError(
            f"Expected lines of {LINE_FORMAT} in {path}, got: {error}. Rewrite that line."
        ) from error
    if table.shape[1] not in (2, 3):
        raise ValueError(
            f"Expected lines of {LINE_FORMAT} in {path}, got {table.shape[1]} column(s). "
            "Keep those columns and separate them with tabs."
        )
    if table[:, :2].min() < 0:
        raise ValueError(
            f"Expected ids from 0 in {path}, got {table[:, :2].min()}. Number ids from 0."
        )
    if table.shape[1] == 2:
        return table[:, 0].copy(), table[:, 1].copy(), None
    flags = table[:, 2]
    if not np.isin(flags, (0, 1)).all():
        strange = flags[~np.isin(flags, (0, 1))][0]
        raise ValueError(
            f"Expected clean flags 0 or 1 in {path}, got {strange}. "
            "Write 1 for clean and 0 for noisy interactions."
        )
    return table[:, 0].copy(), table[:, 1].copy(), flags == 1
