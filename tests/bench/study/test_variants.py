from __future__ import annotations

from pathlib import Path

import pytest

from bench.study.store import ResultStore
from bench.study.study import Cell, next_run
from bench.study.variants import VARIANTS, with_variants
from sgdl_wrap import DenoiserConfig
from tests.bench.study.results import put

SGDL = Cell("d", "lightgcn", "natural", "sgdl", (100,), (0, 1))


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path)


@pytest.mark.parametrize("table", list(VARIANTS))
def test_each_variant_differs_from_the_denoiser_as_it_is(table: int) -> None:
    configs = [DenoiserConfig().but(**change) for change in VARIANTS[table].values()]
    assert all(config != DenoiserConfig() for config in configs)
    assert len({repr(config) for config in configs}) == len(configs)


def test_variants_wait_until_sgdl_is_tuned_and_take_its_trial(store: ResultStore) -> None:
    all_cells = with_variants(SGDL, 3)
    assert [cell.label for cell in all_cells] == ["sgdl", "w/o DLS", "w/o ADS"]
    order = []
    while (run := next_run(all_cells, store, set())) is not None:
        order.append(run)
        put(store, run, valid=0.9 if (run.learning_rate, run.l2) == (0.002, 1e-3) else 0.1)
    assert len(order) == sum(cell.n_runs() for cell in all_cells) == 6 + 3 * 2
    finals = order[6:]
    assert {(run.learning_rate, run.l2) for run in finals} == {(0.002, 1e-3)}
    assert {run.seed for run in order[:6]} == {100}
    assert len({run.key for run in order}) == len(order)
    changes = [
        (run.options["config"]["denoising_learning"], run.options["config"]["denoising_scheduler"])
        for run in finals[::2]
    ]
    assert changes == [(True, "lstm"), (False, "lstm"), (True, "none")]


def test_nothing_of_a_variant_runs_while_sgdl_is_being_tuned(store: ResultStore) -> None:
    cells = with_variants(SGDL, 4)
    busy = {run.key for run in SGDL.tuning_runs()}
    assert next_run(cells, store, busy) is None
    assert cells[1].results(store) is None
