from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.provenance import current_provenance
from bench.study import commands, tables
from bench.study.run_settings import RunSettings
from bench.study.store import ResultStore
from bench.study.study import Cell, next_run
from tests.bench.study.results import made_up


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[RunSettings]:
    """The runs that the command asked for; none of them trains anything."""
    runs: list[RunSettings] = []

    def run_missing(
        source: str, cells: list[Cell], store: ResultStore, **options: Any
    ) -> dict[str, str]:
        while (run := next_run(cells, store, set())) is not None:
            runs.append(run)
            result = asdict(made_up(valid=run.l2, test=0.3 + run.seed / 100, memorization_point=7))
            store.put(run, result, current_provenance())
        return {}

    monkeypatch.setattr(commands, "run_missing", run_missing)
    return runs


def arguments(tmp_path: Path, table: int) -> list[str]:
    return ["--table", str(table), "--data", "generated", "--results", str(tmp_path / "runs"),
            "--report", str(tmp_path / f"table{table}"), "--seeds", "0", "1"]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (3, ["sgdl", "w/o DLS", "w/o ADS"]),
        (4, ["sgdl", "σ̂ +10 %, early", "σ̂ +5 %, early", "σ̂ -5 %, late", "σ̂ -10 %, late"]),
        (5, ["sgdl", "top_f", "mlp"]),
    ],
)
def test_a_table_of_variants_has_its_rows_for_both_models(
    executed: list[RunSettings], tmp_path: Path, table: int, rows: list[str]
) -> None:
    assert tables.main(arguments(tmp_path, table)) == 0
    record = json.loads((tmp_path / f"table{table}.json").read_text())
    assert [(row["model"], row["method"]) for row in record["rows"]] == [
        (model, row) for model in ("neumf", "lightgcn") for row in rows
    ]
    assert len(executed) == 2 * (6 + 2 * len(rows))
    text = (tmp_path / f"table{table}.md").read_text()
    assert f"tables --data FOLDER --results RUNS --table {table} --models neumf lightgcn" in text
    assert "not tuned anew" in text
    assert str(tmp_path) not in text


def test_tables_share_their_runs(executed: list[RunSettings], tmp_path: Path) -> None:
    for table in (3, 4, 5):
        tables.main(arguments(tmp_path, table))
    n_variants = 2 + 4 + 2
    assert len(executed) == 2 * (6 + 2 * (1 + n_variants))
    again = len(executed)
    tables.main(arguments(tmp_path, 3))
    assert len(executed) == again


def test_table_2_has_every_method_that_is_defined(
    executed: list[RunSettings], tmp_path: Path
) -> None:
    wanted = [*arguments(tmp_path, 2), "--models", "cdae", "ngcf"]
    assert tables.main(wanted) == 0
    record = json.loads((tmp_path / "table2.json").read_text())
    methods = {
        model: [row["method"] for row in record["rows"] if row["model"] == model]
        for model in ("cdae", "ngcf")
    }
    common = ["plain", "clean_only", "sgdl"]
    assert methods["cdae"] == [*common, "t_ce", "r_ce", "wbpr", "ir", "deca"]
    assert methods["ngcf"] == [*common, "wbpr", "ir", "sgcn", "sgl"]
    assert "--methods plain clean_only" in record["command"]


def test_methods_are_for_table_2_alone(
    executed: list[RunSettings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tables.main([*arguments(tmp_path, 3), "--methods", "plain"])
    assert "expected --methods with Table 2 alone" in capsys.readouterr().err


def test_a_report_alone_is_printed_and_not_written(
    executed: list[RunSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = ["--table", "3", "--data", "generated", "--results", "runs", "--seeds", "0", "1"]
    assert tables.main([*wanted, "--only-report"]) == 0
    assert not list(tmp_path.iterdir())
    assert not executed
    assert tables.main(wanted) == 0
    assert (tmp_path / "bench" / "results" / "table3.md").is_file()
