from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.data.interaction_data import InteractionData
from bench.methods import METHODS, Method
from bench.study.conditions import under_condition
from bench.study.grids import BENCHES, trials
from bench.study.run import execute
from bench.study.run_settings import RunSettings, settings_of
from bench.training.fit import rankings
from bench.training.metrics import FullRanking


def short(model: str, method: str, condition: str = "natural", epochs: int = 2) -> RunSettings:
    settings = settings_of("d", model, condition, method, trials(model, method)[-1], seed=0)
    return replace(settings, epochs=epochs, batch_size=256, evaluate_every=1)


@pytest.mark.parametrize(
    ("model", "method"),
    [
        (model, method)
        for model in BENCHES
        for method in METHODS
        if METHODS[method]().supports(BENCHES[model].recipe)
    ],
)
def test_every_method_runs_and_repeats_itself(
    model: str, method: str, small_data: InteractionData
) -> None:
    first, again = (execute(short(model, method, "injected-20"), small_data) for _ in range(2))
    assert first.n_epochs == 2
    assert first.epoch_cpu_seconds is not None
    assert first.epoch_cpu_seconds > 0
    assert set(first.test) == {"recall@5", "recall@20", "ndcg@5", "ndcg@20"}
    assert (first.test, first.best_valid) == (again.test, again.best_valid)


def test_the_settings_reach_the_training(small_data: InteractionData) -> None:
    base = short("neumf", "t_ce")
    valid = {
        name: execute(replace(base, **{name: value}), small_data).best_valid
        for name, value in (
            ("seed", 0),
            ("learning_rate", 0.05),
            ("l2", 1.0),
            ("batch_size", 64),
            ("options", {"drop_rate": 0.9, "ramp_epochs": 0.1}),
        )
    }
    assert len(set(valid.values())) == len(valid)


def test_sgdl_reports_what_it_found(small_data: InteractionData) -> None:
    settings = replace(
        short("neumf", "sgdl", epochs=4),
        options={"config": {"history_length": 2, "noise_rate": 0.7}},
    )
    result = execute(settings, small_data)
    assert result.memorization_point is not None
    assert result.noise_rate == 0.7
    assert result.final_auc is not None


def test_methods_of_one_seed_are_ranked_on_the_same_noisy_data(
    small_data: InteractionData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[InteractionData] = []

    def spy(data: InteractionData) -> tuple[FullRanking, FullRanking]:
        seen.append(data)
        return rankings(data)

    monkeypatch.setattr("bench.study.run.rankings", spy)
    for method in ("plain", "clean_only"):
        execute(short("neumf", method, "injected-40", epochs=1), small_data)
    noisy = under_condition("injected-40", small_data, 0)
    for data in seen:
        for column in ("train_items", "valid_items", "test_items"):
            assert np.array_equal(getattr(data, column), getattr(noisy, column))


def test_method_that_is_not_defined_for_the_loss_is_refused(small_data: InteractionData) -> None:
    with pytest.raises(
        ValueError,
        match=r"^Expected a model that t_ce is defined for, got lightgcn\. Leave that pair out\.$",
    ):
        execute(short("lightgcn", "t_ce"), small_data)


def test_registered_methods_are_methods() -> None:
    assert all(issubclass(method, Method) for method in METHODS.values())


@pytest.mark.parametrize("method", ["plain", "sgdl"])
def test_a_run_that_diverges_is_the_worst_trial_and_blocks_nothing(
    method: str, small_data: InteractionData
) -> None:
    settings = replace(short("neumf", method), learning_rate=1e38, l2=0.0)
    result = execute(settings, small_data)
    assert (result.best_epoch, result.best_valid) == (0, 0.0)
    assert set(result.test.values()) == {0.0}
