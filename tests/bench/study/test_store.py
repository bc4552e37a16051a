from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench.provenance import current_provenance
from bench.study.grids import Trial
from bench.study.run_settings import REVISIONS, settings_of
from bench.study.store import ResultFileError, ResultStore
from tests.bench.study.results import PROVENANCE, made_up, put

RUN = settings_of("d", "neumf", "natural", "plain", Trial(0.1, 0.2), 4)


def test_what_is_put_is_got_also_by_another_store(tmp_path: Path) -> None:
    put(ResultStore(tmp_path / "new"), RUN, valid=0.25)
    store = ResultStore(tmp_path / "new")
    assert store.get(RUN) == made_up(valid=0.25)
    assert store.provenance(RUN) == PROVENANCE


def test_other_settings_have_no_result(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    put(store, RUN)
    assert store.get(replace(RUN, seed=5)) is None


def test_a_run_appears_after_it_was_missed(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    assert store.get(RUN) is None
    put(store, RUN)
    assert store.get(RUN) is not None


def test_what_another_command_puts_is_got(tmp_path: Path) -> None:
    mine, others = ResultStore(tmp_path), ResultStore(tmp_path)
    put(mine, replace(RUN, seed=5))
    put(others, RUN, valid=0.25)
    assert mine.get(RUN) == made_up(valid=0.25)
    assert others.get(replace(RUN, seed=5)) is not None


def test_a_line_that_is_not_whole_is_no_run_yet(tmp_path: Path) -> None:
    put(ResultStore(tmp_path), RUN)
    (path,) = tmp_path.iterdir()
    whole = path.read_text()
    path.write_text(whole[:-20])
    store = ResultStore(tmp_path)
    assert store.get(RUN) is None
    path.write_text(whole)
    assert store.get(RUN) is not None


def test_each_data_set_has_a_file(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    put(store, RUN)
    put(store, replace(RUN, seed=5))
    put(store, replace(RUN, data="small/ratings.csv-1", condition="injected-20"))
    lines = {path.name: path.read_text().count("\n") for path in tmp_path.iterdir()}
    assert lines == {"d.jsonl": 2, "small-ratings.csv-1.jsonl": 1}
    assert ResultStore(tmp_path).data_sets() == {"d": False, "small/ratings.csv-1": True}


@pytest.mark.parametrize("method", ["plain", "sgdl"])
def test_a_line_is_short_and_names_no_place(tmp_path: Path, method: str) -> None:
    run = settings_of("d", "lightgcn", "injected-20", method, Trial(0.1, 0.2), 4)
    ResultStore(tmp_path).put(run, asdict(made_up()), current_provenance())
    (path,) = tmp_path.iterdir()
    text = path.read_text()
    assert len(text) < 2_000
    assert "/" not in text


def test_a_line_that_is_older_than_some_of_the_fields_is_read(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    put(store, RUN, valid=0.25)
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    for name in ("epoch_cpu_seconds", "memorization_point", "noise_rate", "final_auc"):
        del record["result"][name]
    path.write_text(json.dumps(record) + "\n")
    assert ResultStore(tmp_path).get(RUN) == made_up(valid=0.25)


@pytest.mark.parametrize("name", ["neumf", "plain"])
def test_runs_of_an_earlier_revision_of_the_code_are_made_again(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(ResultStore(tmp_path), RUN, valid=0.25)
    monkeypatch.setitem(REVISIONS, name, 2)
    store = ResultStore(tmp_path)
    assert store.get(RUN) is None
    put(store, RUN, valid=0.5)
    assert store.get(RUN) == made_up(valid=0.5)


def test_the_revision_of_another_method_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(ResultStore(tmp_path), RUN)
    monkeypatch.setitem(REVISIONS, "deca", 2)
    assert ResultStore(tmp_path).get(RUN) is not None


def test_a_line_without_revisions_is_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(ResultStore(tmp_path), RUN, valid=0.25)
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    del record["revisions"]
    path.write_text(json.dumps(record) + "\n")
    assert ResultStore(tmp_path).get(RUN) == made_up(valid=0.25)
    monkeypatch.setitem(REVISIONS, "plain", 2)
    assert ResultStore(tmp_path).get(RUN) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "\n",
        lambda text: text[: len(text) // 2] + "\n",
        lambda text: text.replace("0.25", "NaN"),
        lambda text: text.replace('"best_epoch"', '"best"'),
        lambda text: text.replace('"revisions": {', '"revisions": 1, "others": {'),
        lambda text: text.replace('"method"', '"way"'),
        lambda text: text.replace('"provenance"', '"origin"'),
        lambda text: "{}\n",
        lambda text: "[]\n",
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, damage: Callable[[str], str]) -> None:
    put(ResultStore(tmp_path), replace(RUN, seed=5))
    (path,) = tmp_path.iterdir()
    good = path.read_text()
    put(ResultStore(tmp_path), RUN, valid=0.25)
    path.write_text(good + damage(path.read_text()[len(good) :]))
    told = rf"{path.name}, line 2, got .*\. Delete that line, and the run is made again\.$"
    with pytest.raises(ResultFileError, match=told):
        ResultStore(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(NotADirectoryError, match="Expected a folder of results"):
        ResultStore(tmp_path / "runs")
