from __future__ import annotations

from pathlib import Path

import pytest

from bench.study.grids import TRIALS_PER_METHOD, trials
from bench.study.store import ResultStore
from bench.study.study import Cell, cells, next_run
from bench.study.variants import with_variants
from tests.bench.study.results import put


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path)


def cell(method: str = "plain", tuning_seeds: tuple[int, ...] = (100,)) -> Cell:
    return Cell("d", "neumf", "natural", method, tuning_seeds, (0, 1, 2))


def tune(one: Cell, store: ResultStore, valids: list[float]) -> None:
    for run, valid in zip(one.tuning_runs(), valids, strict=True):
        put(store, run, valid=valid)


def test_every_trial_is_tuned_under_every_tuning_seed() -> None:
    runs = cell(tuning_seeds=(100, 101)).tuning_runs()
    assert len({run.key for run in runs}) == 2 * TRIALS_PER_METHOD
    assert {run.seed for run in runs} == {100, 101}


def test_nothing_is_chosen_before_all_trials_ran(store: ResultStore) -> None:
    one = cell()
    for run in one.tuning_runs()[:-1]:
        put(store, run)
    assert one.chosen(store) is None
    assert one.final_runs(store) is None


def test_trial_with_the_best_mean_on_validation_is_chosen(store: ResultStore) -> None:
    one = cell(tuning_seeds=(100, 101))
    # The second trial has the best single run, the fourth the best mean.
    tune(one, store, [0.1, 0.1, 0.9, 0.1, 0.2, 0.2, 0.6, 0.6, 0.3, 0.3, 0.0, 0.0])
    assert one.chosen(store) == trials("neumf", "plain")[3]


def test_test_metrics_choose_nothing(store: ResultStore) -> None:
    one = cell()
    for place, run in enumerate(one.tuning_runs()):
        put(store, run, valid=-place, test=place)
    assert one.chosen(store) == trials("neumf", "plain")[0]


def test_final_runs_are_the_chosen_trial_under_the_final_seeds(store: ResultStore) -> None:
    one = cell()
    tune(one, store, [0.1, 0.3, 0.2, 0.1, 0.1, 0.1])
    runs = one.final_runs(store)
    assert runs is not None
    assert [run.seed for run in runs] == [0, 1, 2]
    assert {(run.learning_rate, run.l2) for run in runs} == {(0.001, 1e-2)}
    assert one.results(store) is None
    for seed, run in enumerate(runs):
        put(store, run, test=seed / 10)
    results = one.results(store)
    assert results is not None
    assert [result.test["ndcg@20"] for result in results] == [0.0, 0.1, 0.2]


def test_training_may_differ_from_the_bench(store: ResultStore) -> None:
    training = {"batch_size": 16384, "patience": 3}
    asked = {"models": ["neumf"], "conditions": ["natural"], "methods": ["sgdl"]}
    (one,) = cells("d", **asked, tuning_seeds=[100], seeds=[0], training=training)
    runs = one.tuning_runs()
    assert {(run.batch_size, run.patience) for run in runs} == {(16384, 3)}
    assert {run.epochs for run in runs} == {cell().tuning_runs()[0].epochs}
    assert {run.key for run in runs}.isdisjoint(run.key for run in cell("sgdl").tuning_runs())
    tune(one, store, [0.1] * TRIALS_PER_METHOD)
    _, without = with_variants(one, 3)[:2]
    for row in (one, without):
        (final,) = row.final_runs(store) or []
        assert (final.batch_size, final.patience) == (16384, 3)


def test_the_denoiser_may_have_other_settings(store: ResultStore) -> None:
    asked = {"models": ["neumf"], "conditions": ["natural"], "methods": ["plain", "sgdl"]}
    asked |= {"tuning_seeds": [100], "seeds": [0]}
    config = {"guidance_interval": 7}
    plain, one = cells("d", **asked, config=config)
    assert plain.tuning_runs() == cells("d", **asked)[0].tuning_runs()
    assert {run.options["config"]["guidance_interval"] for run in one.tuning_runs()} == {7}
    tune(one, store, [0.1] * TRIALS_PER_METHOD)
    for row, learned in zip(with_variants(one, 3)[:2], (True, False), strict=True):
        (final,) = row.final_runs(store) or []
        assert final.options["config"]["guidance_interval"] == 7
        assert final.options["config"]["denoising_learning"] == learned


def test_runs_come_in_order_and_not_twice(store: ResultStore) -> None:
    both = [cell("plain"), cell("sgdl")]
    order = []
    while (run := next_run(both, store, set())) is not None:
        order.append((run.method, run.seed))
        put(store, run)
    per_method = [100] * TRIALS_PER_METHOD + [0, 1, 2]
    assert order == [(method, seed) for method in ("plain", "sgdl") for seed in per_method]


def test_a_second_process_goes_on_with_the_next_cell_while_tuning_ends(
    store: ResultStore,
) -> None:
    both = [cell("plain"), cell("sgdl")]
    *first, last = both[0].tuning_runs()
    for run in first:
        put(store, run)
    following = next_run(both, store, {last.key})
    assert following == both[1].tuning_runs()[0]


def test_cells_leave_out_what_is_not_defined() -> None:
    found = cells(
        "d",
        models=["neumf", "lightgcn"],
        conditions=["natural", "clean"],
        methods=["plain", "clean_only", "t_ce"],
        tuning_seeds=[9],
        seeds=[0],
    )
    assert [(one.condition, one.model, one.method) for one in found] == [
        ("natural", "neumf", "plain"),
        ("natural", "neumf", "clean_only"),
        ("natural", "neumf", "t_ce"),
        ("natural", "lightgcn", "plain"),
        ("natural", "lightgcn", "clean_only"),
        ("clean", "neumf", "plain"),
        ("clean", "neumf", "t_ce"),
        ("clean", "lightgcn", "plain"),
    ]


def test_data_without_flags_have_no_ceiling_and_no_other_condition() -> None:
    found = cells(
        "d",
        models=["neumf"],
        conditions=["natural", "injected-20"],
        methods=["plain", "clean_only"],
        tuning_seeds=[9],
        seeds=[0],
        flagged=False,
    )
    assert [(one.condition, one.method) for one in found] == [("natural", "plain")]
