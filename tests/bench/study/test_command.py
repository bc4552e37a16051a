from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.provenance import current_provenance
from bench.study import __main__ as command
from bench.study import commands
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
            result = asdict(made_up(valid=run.l2, test=0.3 + run.seed / 100))
            store.put(run, result, current_provenance())
        return {}

    monkeypatch.setattr(commands, "run_missing", run_missing)
    return runs


def test_command_runs_prints_writes_and_does_nothing_twice(
    executed: list[RunSettings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "docs" / "table"
    arguments = [
        "--data", "generated", "--results", str(tmp_path / "runs"), "--models", "neumf",
        "--conditions", "natural", "--methods", "plain", "sgdl", "--seeds", "0", "1",
        "--training", "batch_size=512", "--set", "weighting_entropy=0.5", "--report", str(report),
    ]  # fmt: skip
    assert command.main(arguments) == 0
    assert len(executed) == 2 * (6 + 2)
    assert "### neumf, natural" in capsys.readouterr().out
    text = report.with_suffix(".md").read_text()
    record = json.loads(report.with_suffix(".json").read_text())
    assert "--conditions natural --methods plain sgdl" in text
    assert "--training batch_size=512" in text
    assert {run.batch_size for run in executed} == {512}
    assert "--set weighting_entropy=0.5" in text
    assert all(run.method == "sgdl" or not run.options for run in executed)
    configs = [run.options["config"] for run in executed if run.method == "sgdl"]
    assert {config["weighting_entropy"] for config in configs} == {0.5}
    assert str(tmp_path) not in text
    assert record["provenance"] == [current_provenance()]
    assert current_provenance()["commit"] in text
    assert [row["method"] for row in record["rows"]] == ["plain", "sgdl"]
    assert command.main(arguments) == 0
    assert len(executed) == 2 * (6 + 2)


def test_methods_are_compared_with_the_one_that_is_named(
    executed: list[RunSettings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", "generated", "--results", str(tmp_path), "--models", "neumf"]
    arguments += ["--conditions", "natural", "--seeds", "0", "1", "--against", "sgdl"]
    report = tmp_path / "report"
    wanted = ["--methods", "plain", "clean_only", "sgdl", "--report", str(report)]
    assert command.main([*arguments, *wanted]) == 0
    header = "| N@20 over sgdl | p | recovered, N@20 | recovered, R@20 |"
    assert header in capsys.readouterr().out
    assert "--against sgdl" in report.with_suffix(".md").read_text()


def test_a_failed_run_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "run_missing", lambda *_, **__: {"a-run": "ValueError: bad"})
    assert command.main(["--data", "generated", "--results", str(tmp_path)]) == 1
    assert "failed: a-run: ValueError: bad" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--conditions", "windy"], "Expected natural, clean, injected-PERCENT"),
        (["--seeds", "0", "100"], "expected tuning seeds apart from the final seeds"),
        (["--training", "rate=3"], "Expected one of batch_size, epochs, evaluate_every, patience"),
        (["--training", "epochs=0"], "and a number from 1, got 'epochs=0'"),
        (["--training", "epochs=1.5"], "and a number from 1, got 'epochs=1.5'"),
        (["--training", "epochs"], "and a number from 1, got 'epochs'"),
        (["--training", "epochs=1", "epochs=2"], "expected each name of --training once"),
        (["--set", "speed"], "expected FIELD=VALUE, got 'speed'"),
        (["--set", "speed=3"], "expected FIELD=VALUE with a field of DenoiserConfig"),
        (["--set", "meta_lr=-1"], "Expected meta_lr in [0,"),
        (["--set", "meta_lr=1", "meta_lr=2"], "expected each field of --set once"),
        (["--seeds", "0", "0", "1"], "expected each of --seeds once, got some twice"),
        (["--tuning-seeds", "5", "5"], "expected each of --tuning-seeds once, got some twice"),
        (["--methods", "plain", "plain"], "expected each of --methods once, got some twice"),
        (["--models", "cdae", "cdae"], "expected each of --models once, got some twice"),
        (["--conditions", "clean", "clean"], "expected each of --conditions once"),
        (["--processes", "0"], "expected one process or more, got 0"),
    ],
)
def test_senseless_wishes_are_refused(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(["--data", "generated", *arguments])
    assert sentence in capsys.readouterr().err


def test_a_comparison_of_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", "generated", "--results", str(tmp_path), "--models", "lightgcn"]
    assert command.main([*arguments, "--methods", "t_ce"]) == 2
    assert "got no pair of method and model that goes together" in capsys.readouterr().err


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="nowhere: "):
        command.main(["--data", str(tmp_path / "nowhere"), "--results", str(tmp_path)])


def test_results_that_cannot_be_read_are_named(
    executed: list[RunSettings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    arguments = ["--data", "generated", "--models", "neumf", "--conditions", "natural"]
    arguments += ["--methods", "plain", "--seeds", "0", "--results"]
    assert command.main([*arguments, str(runs)]) == 0
    assert "0.3000 |" in capsys.readouterr().out  # of one seed, without a spread
    damaged = next(runs.glob("*.jsonl"))
    damaged.write_text("{}\n")
    assert command.main([*arguments, str(runs), "--only-report"]) == 2
    assert f"Expected a finished run in {damaged}, line 1" in capsys.readouterr().err
    assert command.main([*arguments, str(damaged)]) == 2
    assert "Expected a folder of results" in capsys.readouterr().err


def test_a_report_is_named_as_it_is_asked_for(
    executed: list[RunSettings], tmp_path: Path
) -> None:
    report = tmp_path / "report.v1"
    arguments = ["--data", "generated", "--models", "neumf", "--conditions", "natural"]
    arguments += ["--methods", "plain", "--seeds", "0", "--results", str(tmp_path / "runs")]
    assert command.main([*arguments, "--report", str(report)]) == 0
    assert (tmp_path / "report.v1.md").is_file()
    row = json.loads((tmp_path / "report.v1.json").read_text())["rows"][0]
    assert row["ndcg@20"] == [pytest.approx(0.3), None]


# ------------------------------------------------------------------ runs of other defaults


@pytest.fixture
def recorded(executed: list[RunSettings], tmp_path: Path) -> list[str]:
    """Arguments for finished runs whose denoiser had other defaults than today's."""
    arguments = ["--data", "generated", "--results", str(tmp_path), "--models", "neumf"]
    arguments += ["--conditions", "natural", "--methods", "plain", "sgdl", "--seeds", "0"]
    assert command.main(arguments) == 0
    (file,) = tmp_path.glob("*.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    config = {"meta_lr": 0.5, "gone": "x", "memorized_data": "steady"}
    for record in records:
        if record["settings"]["method"] == "sgdl":
            record["settings"]["options"]["config"] = config
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "defaults.json").write_text(json.dumps({"pointwise": config, "ranking": {}}))
    executed.clear()
    return ["--data", records[0]["settings"]["data"], *arguments[2:]]


def test_runs_are_found_as_recorded_without_data_and_not_otherwise(
    recorded: list[str], executed: list[RunSettings], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    report = tmp_path / "report"
    assert command.main([*recorded, "--as-recorded", "--report", str(report)]) == 0
    page = report.with_suffix(".md").read_text()
    assert "2 of 2 cells" in page
    assert f"--data {recorded[1]} --results {tmp_path} --as-recorded" in page
    assert not executed
    capsys.readouterr()
    assert command.main(["--data", "generated", *recorded[2:], "--only-report"]) == 0
    assert "| sgdl |" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        (["--data", "ml-1"], r"Expected data that .* has runs on, got 'ml-1'\. Name one of gen"),
        (["--set", "a=1"], r"Expected fields of defaults\.json in --set, got a\. Leave them out\."),
        (["--results", "."], r"Expected defaults\.json in \., got no such file\. Leave out"),
    ],
)
def test_what_was_not_recorded_is_refused(
    recorded: list[str], others: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit, match=sentence):
        command.main([*recorded, "--as-recorded", *others])
