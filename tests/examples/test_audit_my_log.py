"""The audit as a command: what it prints is what the ranking deserves."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bench.data.planted_preferences import generate
from examples.audit_my_log import main, quality
from sgdl_wrap.report.audit import FIELDS, Audit


def test_a_log_is_audited_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "audit.csv"
    main(["--epochs", "3", "--audit-only", "--top", "4", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "noise share (low, high) (0." in printed
    assert "| suspicion | 0." in printed
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(generate(seed=0).train_users)
    values = [float(row["suspicion"]) for row in rows]
    assert values == sorted(values, reverse=True)
    listed = printed.split("memorization rate\n")[1].splitlines()[:4]
    assert [line.split()[:2] for line in listed] == [[r["user"], r["item"]] for r in rows[:4]]


def test_quality_is_that_of_each_column() -> None:
    data = generate(seed=0)
    order = np.random.default_rng(0).permutation(len(data.train_users))
    rows = np.zeros(len(order), dtype=FIELDS)
    rows["user"], rows["item"] = data.train_users[order], data.train_items[order]
    assert data.train_clean is not None
    noisy = ~data.train_clean[order]
    rows["suspicion"] = noisy  # as good as can be
    rows["loss"] = np.random.default_rng(1).random(len(order))
    rows["smoothed_loss"] = np.nan
    lines = quality(Audit(rows), data).splitlines()
    assert lines[2] == "| suspicion | 1.000 | 1.000 |"
    auc = roc_auc_score(noisy, rows["loss"])
    first = np.argsort(-rows["loss"])[: noisy.sum() // 2]
    assert lines[3] == f"| loss of the moment | {auc:.3f} | {noisy[first].mean():.3f} |"
    assert len(lines) == 4  # what is not kept is not ranked by
