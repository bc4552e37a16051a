from __future__ import annotations

from pathlib import Path

import pytest

from bench.study.report import markdown, provenances, summary
from bench.study.store import ResultStore
from bench.study.study import Cell
from tests.bench.study.results import PROVENANCE, put

METHODS = ("plain", "clean_only", "sgdl", "t_ce")
CELLS = [Cell("d", "neumf", "injected-20", method, (100,), (0, 1)) for method in METHODS]
TESTS = {"plain": (0.30, 0.32), "clean_only": (0.35, 0.37), "sgdl": (0.34, 0.35)}


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    store = ResultStore(tmp_path)
    for cell in CELLS[:3]:
        for run in cell.tuning_runs():
            put(store, run, valid=run.l2)
        for run, test in zip(cell.final_runs(store) or [], TESTS[cell.method], strict=True):
            put(store, run, test=test, best_epoch=7 + run.seed, epoch_cpu_seconds=1.25)
    for run in CELLS[3].tuning_runs():  # tuned, and its final runs are to come
        put(store, run)
    return store


def test_summary_has_what_is_done_with_its_comparisons(store: ResultStore) -> None:
    rows = {row["method"]: row for row in summary(CELLS, store)}
    assert list(rows) == ["plain", "clean_only", "sgdl"]
    assert rows["plain"]["ndcg@20"] == pytest.approx((0.31, 0.02 / 2**0.5))
    assert "over_plain" not in rows["plain"]
    assert rows["sgdl"]["over_plain"] == pytest.approx(0.345 / 0.31 - 1)
    assert rows["sgdl"]["recovered_ndcg@20"] == pytest.approx((0.345 - 0.31) / (0.36 - 0.31))
    assert rows["sgdl"]["recovered_recall@20"] is None  # the same for all
    assert "recovered_ndcg@20" not in rows["clean_only"]
    assert rows["clean_only"]["p_value"] is None  # the same difference under both seeds
    assert 0 < rows["sgdl"]["p_value"] < 1
    assert rows["sgdl"]["chosen"]["l2"] == 0.03
    assert rows["sgdl"]["best_epochs"] == [7, 8]
    assert rows["sgdl"]["epoch_cpu_seconds"] == 1.25


def test_tables_of_two_models_are_not_compared_with_each_other(store: ResultStore) -> None:
    other = Cell("d", "lightgcn", "injected-20", "sgdl", (100,), (0, 1))
    for run in other.tuning_runs():
        put(store, run)
    for run in other.final_runs(store) or []:
        put(store, run, test=0.9)
    row = summary([*CELLS, other], store)[-1]
    assert row["model"] == "lightgcn"
    assert row["epoch_cpu_seconds"] is None  # its runs tell wall-clock time alone
    assert markdown([row]).splitlines()[-1].endswith("|  |")
    assert "over_plain" not in row


def test_markdown_has_a_table_for_each_condition_and_model(store: ResultStore) -> None:
    text = markdown(summary(CELLS, store))
    assert text.count("###") == 1
    assert "### neumf, injected-20" in text
    line = next(line for line in text.splitlines() if line.startswith("| sgdl"))
    for expected in ("0.3450 ± 0.0071", "+11.3%", "70%", "lr 0.001, L2 0.03", "7, 8", "1.25"):
        assert expected in line
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_every_origin_is_named_once(store: ResultStore) -> None:
    assert provenances(CELLS, store) == [PROVENANCE]


def test_rows_can_be_compared_with_another_than_plain(store: ResultStore) -> None:
    for row in CELLS[2].final_runs(store) or []:
        put(store, row, test=0.3, memorization_point=9)
    rows = summary([CELLS[2]], ResultStore(store.folder), reference="sgdl")
    assert "over_sgdl" not in rows[0]
    text = markdown(rows, reference="sgdl")
    assert "N@20 over sgdl" in text
    assert "| 9, 9 |" in text
    assert "recovered" not in text


def test_tables_of_two_data_sets_are_apart_and_named(store: ResultStore) -> None:
    other = Cell("e", "neumf", "injected-20", "plain", (100,), (0, 1))
    for run in other.tuning_runs():
        put(store, run)
    for run in other.final_runs(store) or []:
        put(store, run, test=0.9)
    text = markdown(summary([*CELLS, other], store))
    assert "### d, neumf, injected-20" in text
    assert "### e, neumf, injected-20" in text
