"""The command on a file: every row is answered, as it stood, or nothing is written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from sklearn.metrics import roc_auc_score
from torch import nn

from sgdl_wrap.command.cli import main
from sgdl_wrap.command.instrument import MatrixFactorization
from tests.units.command.files import audited, clicks, refusal, written

ROWS, NOISY = clicks()
QUICK = ("--passes", "2", "--folds", "2")


def own_model(n_users: int, n_items: int) -> nn.Module:
    """As `--model` takes it."""
    return MatrixFactorization(n_users, n_items, width=4)


def test_every_row_of_the_file_is_in_the_answer_as_it_stood(tmp_path: Path) -> None:
    odd = [("007", "SKU001", "1700000000", 'say "x", \ntwice'), ("", "SKU002", "1700000000", "")]
    answer = audited(written(tmp_path / "clicks.csv", [*ROWS, *odd]), *QUICK)
    as_read = answer[["customer", "sku", "ts", "title"]].fillna("")
    assert [tuple(row) for row in as_read.to_numpy()] == [*ROWS, *odd]
    assert answer["evidence"].tolist()[-2:] == ["user has one item", "no id"]
    assert answer["suspicion"].isna().tolist()[-2:] == [True, True]
    assert answer["is_suspect"].tolist()[-2:] == [False, False]
    assert answer["suspicion"][: len(ROWS)].notna().all()


def test_noise_that_was_put_in_is_found(tmp_path: Path) -> None:
    answer = audited(written(tmp_path / "clicks.csv", ROWS))
    assert roc_auc_score(NOISY, answer["suspicion"]) > 0.85
    suspects = answer["is_suspect"]
    assert 0.01 < suspects.mean() < 0.3
    assert NOISY[suspects].mean() > 2 * NOISY.mean()


def test_suspects_are_as_many_as_the_mean_probability_says(tmp_path: Path) -> None:
    pairs = list({row[:2]: row for row in ROWS}.values())
    answer = audited(written(tmp_path / "clicks.csv", pairs))
    # the mean probability is the middle of the noise share, to the digits that the file has
    assert abs(answer["is_suspect"].sum() - answer["noise_probability"].sum()) < 1
    least = answer["noise_probability"][answer["is_suspect"]].min()
    assert least >= answer["noise_probability"][~answer["is_suspect"]].max() - 1e-4


def test_a_row_that_repeats_a_pair_has_the_answer_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = audited(written(tmp_path / "clicks.csv", [*ROWS, *ROWS[:50]]), *QUICK)
    columns = ["suspicion", "noise_probability", "is_suspect", "evidence"]
    first, again = answer[columns][:50], answer[columns][len(ROWS) :].reset_index(drop=True)
    pandas.testing.assert_frame_equal(first, again)
    pairs = len({row[:2] for row in ROWS})
    assert f"{len(ROWS) + 50 - pairs:,} repeat a pair of an earlier row" in capsys.readouterr().err


def test_users_and_items_are_summed_up(tmp_path: Path) -> None:
    answer = audited(written(tmp_path / "clicks.csv", ROWS), *QUICK)
    for name, column in ("users", "customer"), ("items", "sku"):
        groups = pandas.read_csv(tmp_path / "audit" / f"{name}.csv").set_index(name[:-1])
        of_rows = answer.groupby(column)["is_suspect"]
        assert groups["suspects"].to_dict() == of_rows.sum().to_dict()
        assert groups["clicks"].to_dict() == of_rows.size().to_dict()
        assert (groups["low"] <= groups["share"]).all()
        assert (groups["share"] <= groups["high"]).all()
        assert groups["low"].is_monotonic_decreasing


def test_a_parquet_file_has_a_parquet_answer_of_the_same_types(tmp_path: Path) -> None:
    frame = pandas.DataFrame(ROWS, columns=["customer", "sku", "ts", "title"])
    frame["customer"] = frame["customer"].str[2:].astype(int) + 10**15
    frame["ts"] = pandas.to_datetime(frame["ts"].astype(int), unit="s", utc=True)
    frame.to_parquet(tmp_path / "clicks.parquet")
    answer = audited(tmp_path / "clicks.parquet", *QUICK, "--keep", "title")
    pandas.testing.assert_frame_equal(answer[frame.columns], frame)


def test_two_runs_give_the_same_answer(tmp_path: Path) -> None:
    file = written(tmp_path / "clicks.csv", ROWS)
    pandas.testing.assert_frame_equal(audited(file, *QUICK), audited(file, *QUICK))


def test_columns_of_the_answer_leave_the_files_own_alone(tmp_path: Path) -> None:
    file = written(
        tmp_path / "clicks.csv", [(*row[:2], "mine") for row in ROWS], ("user", "item", "evidence")
    )
    answer = audited(file, *QUICK)
    assert (answer["evidence"] == "mine").all()
    assert (answer["sgdl_evidence"] == "yes").all()


def test_a_model_of_ones_own_takes_the_instruments_place(tmp_path: Path) -> None:
    file = written(tmp_path / "clicks.csv", ROWS)
    own = audited(file, *QUICK, "--model", "tests.units.command.test_cli:own_model")
    assert not np.array_equal(own["suspicion"], audited(file, *QUICK)["suspicion"])


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("nowhere.module:factory", "Expected --model as package.module:factory"),
        ("tests.units.command.test_cli:nothing", "Expected --model as package.module:factory"),
        ("tests.units.command.test_cli:ROWS", "Expected --model to name a callable, got list"),
        ("builtins:max", "Expected the factory to return a torch.nn.Module, got int"),
    ],
)
def test_what_is_no_factory_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, says: str
) -> None:
    said = refusal(capsys, written(tmp_path / "clicks.csv", ROWS), "--model", model)
    assert said.splitlines()[-1].startswith(f"sgdl-wrap: {says}")


def test_a_folder_that_holds_something_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = written(tmp_path / "clicks.csv", ROWS), tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    command = ["audit", str(file), "--out", str(out)]
    assert main(command) == 2
    assert "which holds notes.txt. Name another, or pass --overwrite." in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 2
    assert "which also holds notes.txt. Name another folder." in capsys.readouterr().err
    assert (out / "notes.txt").read_text() == "mine"


def test_an_audit_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = written(tmp_path / "clicks.csv", ROWS)
    audited(file, *QUICK)
    (tmp_path / "audit" / "audit.parquet").write_text("of before")
    audited(written(file, ROWS[:900]), *QUICK)
    names = {path.name for path in (tmp_path / "audit").iterdir()}
    assert names == {"audit.csv", "users.csv", "items.csv", "audit.html"}
    assert {path.name for path in tmp_path.iterdir()} == {"clicks.csv", "audit"}


def test_the_page_holds_the_most_suspicious_rows_with_the_columns_kept(tmp_path: Path) -> None:
    answer = audited(written(tmp_path / "clicks.csv", ROWS), *QUICK, "--keep", "title")
    page = (tmp_path / "audit" / "audit.html").read_text(encoding="utf-8")
    found = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    rows = json.loads(found[1])[-1]
    names = [column["name"] for column in rows["columns"]]
    assert names[:5] == ["row", "user", "item", "time", "title"]
    for row in rows["rows"][:20]:
        there = answer.iloc[row[0] - 1]
        assert row[1:3] == [there["customer"], there["sku"]]
        assert row[4] == there["title"]
        assert abs(row[5] - there["suspicion"]) < 1e-3


def test_the_package_is_the_command_too(tmp_path: Path) -> None:
    file = written(tmp_path / "clicks.csv", ROWS)
    command = [sys.executable, "-m", "sgdl_wrap", "audit", str(file), "--out", "audit", *QUICK]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stderr.splitlines()[0] == "user: 'customer', item: 'sku', time: 'ts'"
    assert told.stderr.splitlines()[-1].startswith("audit: audit.csv, users.csv, items.csv, audit")


def test_a_missing_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgdl_wrap.command.requirements.find_spec", lambda name: None)
    said = refusal(capsys, written(tmp_path / "clicks.csv", ROWS))
    assert said == (
        "sgdl-wrap: Expected pyarrow and pandas, got no pyarrow and no pandas. "
        'Run `pip install "sgdl-wrap[report]"`.\n'
    )


def test_an_interrupt_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sgdl_wrap.command.answer.write_groups", interrupted)
    file = written(tmp_path / "clicks.csv", ROWS)
    assert main(["audit", str(file), "--out", str(tmp_path / "audit"), *QUICK]) == 130
    assert list(tmp_path.iterdir()) == [file]
    assert capsys.readouterr().err.endswith("interrupted, nothing was written.\n")
