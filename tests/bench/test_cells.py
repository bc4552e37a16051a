"""The cells of the bench: what is there is not run again, tuning ends inside, sums are right."""

from __future__ import annotations

import json
import os
from concurrent.futures import Future
from math import log
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ttest_rel

from bench import families
from bench.cells import __main__ as command
from bench.cells import queue, report
from bench.cells import run as run_module
from bench.cells.cell import Cell, RunKey, changes, variant_of
from bench.cells.queue import Plan, Queue
from bench.cells.results import Results
from bench.cells.run import train
from bench.cells.tuning import Point, Tuned, search
from bench.data.planted_preferences import generate
from bench.families import FAMILIES, Family, Settings
from sgdl_wrap import DenoiserConfig

CELL = Cell("bpr-mf", "ml100k", "natural")
POINT = (0.01, 0.001)
RUN = CELL.run("plain", 0, POINT)


def small() -> Family:
    """bpr-mf that is done in a few epochs."""
    of = FAMILIES["bpr-mf"]
    return Family(
        "small", of.build, of.batches, of.loss_fn, of.penalty_fn,
        Settings(0.02, 0.001, 256, epochs=14, patience=14, history_length=2),
    )  # fmt: skip


# ---------------------------------------------------------------------- names of runs


def test_a_variant_has_one_spelling() -> None:
    assert variant_of(["b=1", "a=x"]) == variant_of(["b=1,a=x"]) == "a=x,b=1"
    for wrong in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(ValueError, match="Expected"):
            variant_of(wrong)


def test_values_of_a_variant_are_those_of_the_config() -> None:
    variant = "denoising_scheduler=none,meta_lr=1e-3,guidance_size=None,weight_inputs=loss+observed"
    assert changes(variant) == {
        "denoising_scheduler": "none", "meta_lr": 1e-3, "guidance_size": None,
        "weight_inputs": ("loss", "observed"),
    }  # fmt: skip
    DenoiserConfig().but(**changes(variant))


# ---------------------------------------------------------------------- results


def test_results_are_found_again_and_others_are_seen(tmp_path: Path) -> None:
    mine, other = Results(tmp_path / "r.jsonl"), Results(tmp_path / "r.jsonl")
    mine.put(RUN, {"valid": 1 / 3, "share": (0.1, float("nan"))}, {"commit": "c"})
    assert other.get(RUN) is None
    other.refresh()
    assert other.all() == mine.all() == {RUN: {"valid": 0.333333, "share": [0.1, None]}}
    assert json.loads(mine.path.read_text())["provenance"] == {"commit": "c"}


def test_a_torn_line_costs_its_run_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    Results(path).put(RUN, {"valid": 0.5}, {})
    with path.open("a") as file:
        file.write('{"run": {"family": "bp')
    second = CELL.run("sgdl", 0, POINT)
    results = Results(path)
    results.put(second, {"valid": 0.6}, {})
    results.refresh()
    assert Results(path).all() == results.all() == {RUN: {"valid": 0.5}, second: {"valid": 0.6}}


def test_a_key_is_the_same_after_it_was_written(tmp_path: Path) -> None:
    trials = search((0.0012345678, 3e-4))
    results = Results(tmp_path / "r.jsonl")
    point = next(trials)
    for value in (1, 0, 2, 3, 4):
        results.put(CELL.run("plain", 0, point), {"valid": value}, {})
        point = trials.send(value)
    assert Results(results.path).all() == results.all()


# ---------------------------------------------------------------------- tuning


def searched(start: Point, value: Any, most: int = 9) -> tuple[Tuned, dict[Point, float]]:
    trials, seen = search(start, most=most), {}
    point = next(trials)
    while True:
        assert point not in seen, "tried twice"
        seen[point] = value(point)
        try:
            point = trials.send(seen[point])
        except StopIteration as stop:
            return stop.value, seen


@pytest.mark.parametrize("best", [(0.01, 1e-3), (0.03, 1e-3), (0.01, 3.33e-4), (0.00333, 3e-3)])
def test_tuning_ends_inside_of_what_was_tried(best: Point) -> None:
    tuned, seen = searched(
        (0.01, 1e-3), lambda p: -abs(log(p[0] / best[0])) - abs(log(p[1] / best[1]))
    )
    assert tuned == Tuned(best, inside=True)
    rates = [rate for rate, l2 in seen if l2 == best[1]]
    penalties = [l2 for rate, l2 in seen if rate == best[0]]
    assert min(rates) < best[0] < max(rates)
    assert min(penalties) < best[1] < max(penalties)


def test_tuning_that_runs_out_of_trials_says_so() -> None:
    tuned, seen = searched((0.01, 1e-3), lambda p: p[0])
    assert len(seen) == 9
    assert not tuned.inside
    assert tuned.point[0] == max(rate for rate, _ in seen)


@pytest.mark.parametrize(
    ("start", "penalties"),
    [(0.0, {0.0, 1e-6}), (5e-7, {0.0, 1e-6}), (1e-6, {0.0, 1e-6, 3e-6})],
)
def test_no_penalty_is_an_end_and_no_edge(start: float, penalties: set[float]) -> None:
    tuned, seen = searched((0.01, start), lambda p: -p[1] - abs(p[0] - 0.01))
    assert tuned.inside
    assert tuned.point[1] == 0
    assert {l2 for _, l2 in seen} == penalties


def test_a_failed_trial_is_worse_than_any_other() -> None:
    tuned, _ = searched((0.01, 0.0), lambda p: float("-inf") if p[0] > 0.01 else p[0])
    assert tuned.point == (0.01, 0.0)


# ---------------------------------------------------------------------- the queue


class Here:
    """A pool that is this process: fast, and a family of the test is known in it."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, execute: Any, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(execute(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def fake(run: RunKey, root: str) -> dict[str, Any]:
    """Best with the settings of the start."""
    with (Path(root) / "log").open("a") as file:
        file.write(f"{run}\n")
    if run.method == "clean-only":
        raise RuntimeError("no")
    if run.method == "sgdl" and run.seed == 1:
        os._exit(9)
    start = FAMILIES[run.family].settings
    near = run.learning_rate == start.learning_rate and run.l2 == start.l2
    return {"valid": 0.2 if near else 0.1, "best_epoch": 1, "n_epochs": 2, "test": {"ndcg@20": 0.3}}


def queued(folder: Path, plan: Plan, *cells: Cell) -> tuple[list[str], dict[RunKey, str]]:
    """What ran now, and what failed."""
    written = folder / "log"
    written.write_text("")
    failed = Queue(Results(folder / "r.jsonl"), plan, str(folder), {}, fake).run(cells)
    return written.read_text().splitlines(), failed


def test_what_is_there_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(queue, "ProcessPoolExecutor", Here)
    cells = CELL, Cell("bpr-mf", "ml100k", "random-40")
    plan = Plan(["plain", "sgdl", "clean-only"], [0, 2], tune_as="natural")
    ran, failed = queued(tmp_path, plan, *cells)
    assert len(ran) == len(set(ran))
    # five trials for both cells; the first is also plain with seed 0
    assert sum("natural plain" in line for line in ran) == 5 + 1
    assert sum("random-40 plain" in line for line in ran) == 2
    assert sum(" sgdl " in line for line in ran) == 4
    assert {run.method for run in failed} == {"clean-only"}
    assert len(failed) == 4
    assert "RuntimeError: no" in capsys.readouterr().err
    ran, _ = queued(tmp_path, plan, *cells)
    assert len(ran) == 4, "what failed is tried again, and nothing else"
    assert all("clean-only" in line for line in ran)
    ran, _ = queued(tmp_path, Plan(["sgdl"], [0, 2], "meta_lr=0.1"), CELL)
    assert len(ran) == 2, "a variant is a run of its own, with the settings that were found"


def test_a_killed_worker_costs_its_run_alone(tmp_path: Path) -> None:
    ran, failed = queued(tmp_path, Plan(["sgdl"], [0, 1, 2], tuning=False), CELL)
    assert [run.seed for run in failed] == [1]
    assert "BrokenProcessPool" in next(iter(failed.values()))
    assert sorted(run.seed for run in Results(tmp_path / "r.jsonl").all()) == [0, 2]
    assert sum("seed 1 " in line for line in ran) == 2, "it may have been another run's fault"


def test_settings_that_are_named_are_taken_without_a_trial() -> None:
    plan = Plan(["plain", "sgdl"], [0], at=(0.5, 0.25))
    (plain, sgdl) = next(Queue(Results("none.jsonl"), plan, "", {})._wanted(CELL))
    for run in (plain, sgdl):
        assert (run.learning_rate, run.l2) == (0.5, 0.25)


def test_clean_data_has_no_run_without_its_noise() -> None:
    cell = Cell("bpr-mf", "ml100k", "clean")
    made = Queue(Results("none.jsonl"), Plan(["plain", "clean-only"], [0], tuning=False), "", {})
    assert [run.method for run in next(made._wanted(cell))] == ["plain"]


# ---------------------------------------------------------------------- the report


def row(ndcg: float, tail: float = 0.1, **more: Any) -> dict[str, Any]:
    return {"valid": 0.1, "test": {"ndcg@20": ndcg, "recall_tail@20": tail}, **more}


def made_up() -> dict[RunKey, dict[str, Any]]:
    found: dict[RunKey, dict[str, Any]] = {
        CELL.run("plain", 0, (0.03, 0.001)): row(0.9)  # a trial: nothing is compared with it
    }
    looks = {
        "weights": {"overall": 0.8, "within": 0.7}, "suspicion": {"overall": 0.6, "within": 0.5},
        "rarity_auc": 0.4,
    }  # fmt: skip
    for seed, (plain, ours, clean) in enumerate([(0.2, 0.23, 0.3), (0.3, 0.31, 0.4)]):
        found[CELL.run("plain", seed, POINT)] = row(plain, epoch_seconds=2.0, unwatched_seconds=0.5)
        found[CELL.run("sgdl", seed, POINT)] = row(
            ours, 0.12, guided_seconds=5.0, epoch_seconds=2.5, memorization_point=7 + seed,
            noise_rate=0.2, noise_share=[0.1 + 0.1 * seed, 0.3], true_share=0.25, looks=looks,
        )
        found[CELL.run("clean-only", seed, POINT)] = row(clean)
    found[CELL.run("sgdl", 1, POINT, "meta_lr=0.1")] = row(0.15)
    return found


def test_the_report_compares_runs_of_the_same_seed_and_settings() -> None:
    defaults, variant = report.table(made_up())
    assert defaults["method"] == "sgdl"
    assert defaults["seeds"] == [0, 1]
    assert defaults["change"] == pytest.approx(0.54 / 0.5 - 1)
    assert defaults["regained"] == pytest.approx((0.27 - 0.25) / (0.35 - 0.25))
    assert defaults["p"] == pytest.approx(
        ttest_rel([0.23, 0.31], [0.2, 0.3], alternative="less").pvalue
    )
    assert defaults["tail"] == pytest.approx(0.2)
    assert (defaults["cost"], defaults["cost_unwatched"]) == pytest.approx((2.5, 10.0))
    assert defaults["share"] == pytest.approx([0.15, 0.3])
    assert defaults["switch"] == [7, 8]
    assert [defaults[name] for name in ("weights", "suspicion", "within", "rarity")] == [
        0.8, 0.6, 0.5, 0.4
    ]  # fmt: skip
    assert variant["method"] == "sgdl[meta_lr=0.1]"
    assert variant["seeds"] == [1]
    assert variant["plain"] == [0.3]
    assert variant["change"] == pytest.approx(-0.5)
    assert variant["p"] is None


def test_nothing_is_regained_where_noise_does_little_harm() -> None:
    found = made_up()
    for seed, plain in enumerate((0.2, 0.3)):
        found[CELL.run("clean-only", seed, POINT)] = row(1.01 * plain)
    assert all(one["regained"] is None for one in report.table(found))


def test_p_is_small_only_if_it_is_below() -> None:
    low, high = [0.1, 0.2, 0.3], [0.21, 0.3, 0.4]
    assert report.p_below(low, high) < 0.01
    assert report.p_below(high, low) > 0.99
    assert report.p_below(low, low) is None


def test_medians_are_over_cells(tmp_path: Path) -> None:
    found = made_up()
    found |= {
        RunKey("neumf", *list(run.as_dict().values())[1:]): result for run, result in found.items()
    }
    report.write(tmp_path / "cells.md", found)
    read = json.loads((tmp_path / "cells.json").read_text())
    assert [one["cells"] for one in read["medians"]] == [2, 2]
    assert read["medians"][0]["change"] == pytest.approx(0.08)
    text = (tmp_path / "cells.md").read_text()
    assert "0.2500 ± 0.0707 (2) | 0.2700 ± 0.0566 (2) | +8.0%" in text
    assert "0.15 to 0.30 | 0.25 | 7 8 | 2.5 / 10.0 |" in text
    widths = {line.count("|") for line in text.splitlines() if "bpr-mf" in line or "cell |" in line}
    assert len(widths) == 1


# ---------------------------------------------------------------------- one run


def test_plain_that_is_watched_trains_as_without_a_denoiser() -> None:
    data = generate(n_users=60, n_items=64, interactions_per_user=15, noise_rate=0.0)
    watched = train(RunKey("small", "", "", "plain", 3, 0.02, 0.001), small(), data)
    alone = train(RunKey("small", "", "", "clean-only", 3, 0.02, 0.001), small(), data)
    for name in ("valid", "test", "best_epoch", "n_epochs"):
        assert watched[name] == alone[name]
    assert "suspicion" not in watched["looks"]


def test_the_command_fills_a_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = generate(n_users=60, n_items=64, interactions_per_user=15)
    monkeypatch.setitem(families.FAMILIES, "small", small())

    monkeypatch.setattr(run_module, "_loaded", lambda name, root: data)
    monkeypatch.setattr(queue, "ProcessPoolExecutor", Here)
    arguments = [
        "--root", "unused", "--results", str(tmp_path / "r.jsonl"), "--families", "small",
        "--seeds", "0", "1", "--conditions", "natural", "--trials", "2",
        "--config", "noise_rate_shift=0.9", "--report", str(tmp_path / "cells"),
    ]  # fmt: skip
    assert command.main(arguments) == 0
    said = capsys.readouterr()
    assert "the trials ran out" in said.err
    runs = Results(tmp_path / "r.jsonl").all()
    assert len(runs) == 7  # a trial that was not taken, and three methods of two seeds
    for run, result in runs.items():
        assert set(result["test"]) == {
            "ndcg@20", "recall@20", "recall_head@20", "recall_tail@20"
        }  # fmt: skip
        if run.method == "sgdl":
            assert result["memorization_point"] is not None
            assert result["guided_seconds"] > 0
            assert 0 <= result["looks"]["weights"]["overall"] <= 1
            assert result["looks"]["epoch"] == min(result["memorization_point"] + 10, 14)
            assert result["looks_at_best"]["epoch"] == result["best_epoch"]
            assert {"suspicion", "rarity_auc", "spread"} <= set(result["looks"])
    assert command.main(arguments) == 0
    assert "valid" not in capsys.readouterr().out
    (one,) = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert one["method"] == "sgdl[noise_rate_shift=0.9]"
    assert one["true"] == pytest.approx(data.train_noise_rate, abs=1e-5)
    with pytest.raises(SystemExit):
        command.main([*arguments[:-4], "--config", "no_such_field=1"])
