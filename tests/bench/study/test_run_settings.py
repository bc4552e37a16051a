from __future__ import annotations

from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest

from bench.data.interaction_data import InteractionData
from bench.study import run_settings
from bench.study.grids import BENCHES, Trial
from bench.study.run_settings import (
    RunSettings,
    changed_options,
    fingerprint,
    settings_of,
)
from bench.training.fit import denoised_epoch, set_up, wrap
from sgdl_wrap import DenoiserConfig

SETTINGS = settings_of("d", "neumf", "natural", "t_ce", Trial(0.1, 0.2, {"drop_rate": 0.3}), 4)


def test_settings_are_the_trials_and_the_benchs() -> None:
    bench = BENCHES["neumf"]
    assert (SETTINGS.learning_rate, SETTINGS.l2, SETTINGS.seed) == (0.1, 0.2, 4)
    assert SETTINGS.options == {"drop_rate": 0.3}
    assert (SETTINGS.batch_size, SETTINGS.epochs) == (bench.recipe.batch_size, bench.recipe.epochs)
    assert (SETTINGS.patience, SETTINGS.evaluate_every) == (bench.patience, bench.evaluate_every)


def test_key_says_what_it_is_and_is_the_same_each_time() -> None:
    assert SETTINGS.key.startswith("neumf-natural-t_ce-seed4-")
    assert replace(SETTINGS, options={"drop_rate": 0.3}).key == SETTINGS.key


@pytest.mark.parametrize("name", [field.name for field in fields(RunSettings)])
def test_every_setting_shapes_the_key(name: str) -> None:
    value = getattr(SETTINGS, name)
    other = {"drop_rate": 0.4} if name == "options" else value * 2
    assert replace(SETTINGS, **{name: other}).key != SETTINGS.key


@pytest.mark.parametrize("column", ["train_items", "valid_users", "test_items", "train_clean"])
def test_every_column_shapes_the_fingerprint(small_data: InteractionData, column: str) -> None:
    before = fingerprint(small_data)
    assert before.startswith("generated-")
    assert fingerprint(replace(small_data)) == before
    values = np.flip(getattr(small_data, column)).copy()
    assert fingerprint(replace(small_data, **{column: values})) != before
    if column.endswith("clean"):
        assert fingerprint(replace(small_data, **{column: None})) != before


def test_other_defaults_of_the_denoiser_are_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(0.1, 0.2, {"config": {"meta_lr": 0.5}})
    before = settings_of("d", "neumf", "natural", "sgdl", trial, 4)
    assert before.options["config"]["meta_lr"] == 0.5
    assert not {"seed", "history_length"} & set(before.options["config"])  # the run's, the recipe's
    monkeypatch.setattr(
        run_settings, "DenoiserConfig", partial(DenoiserConfig, guidance_interval=9)
    )
    assert settings_of("d", "neumf", "natural", "sgdl", trial, 4).key != before.key


def test_another_choice_for_a_kind_of_loss_is_another_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def key(model: str) -> str:
        return settings_of("d", model, "natural", "sgdl", Trial(0.1, 0.2), 4).key

    before = {model: key(model) for model in BENCHES}
    settled = DenoiserConfig.settled

    def other(config: DenoiserConfig, *, pointwise: bool) -> DenoiserConfig:
        found = settled(config, pointwise=pointwise)
        return found.but(memorized_data="switch") if pointwise else found

    monkeypatch.setattr(DenoiserConfig, "settled", other)
    changed = {model for model in BENCHES if key(model) != before[model]}
    assert changed == {"neumf", "cdae"}


@pytest.mark.parametrize("model", list(BENCHES))
def test_what_is_written_out_is_what_a_denoiser_settles_on(
    model: str, small_data: InteractionData
) -> None:
    recipe = replace(BENCHES[model].recipe, batch_size=512)
    training = set_up(recipe, small_data, seed=0)
    config = DenoiserConfig(history_length=1, noise_rate=0.95)
    denoiser = wrap(training, config)
    denoised_epoch(training.model, denoiser, training.penalty_fn, training.batches)
    guided = denoiser.state_dict()["self_guided"]["settled"]
    run = settings_of("d", model, "natural", "sgdl", Trial(0.1, 0.2), 4)
    assert {name: run.options["config"][name] for name in guided} == guided
    assert changed_options(run) == {}


def test_a_trials_own_history_is_kept() -> None:
    trial = Trial(0.1, 0.2, {"config": {"history_length": 5}})
    run = settings_of("d", "neumf", "natural", "sgdl", trial, 4)
    assert run.options["config"]["history_length"] == 5


def test_only_what_differs_from_the_defaults_is_told() -> None:
    usual = DenoiserConfig().variants.gumbel_tau
    trial = Trial(0.1, 0.2, {"config": {"meta_lr": 0.5, "gumbel_tau": usual}})
    assert changed_options(settings_of("d", "neumf", "natural", "sgdl", trial, 4)) == {
        "meta_lr": 0.5
    }
    assert changed_options(SETTINGS) == {"drop_rate": 0.3}


def test_defaults_of_another_time_name_the_runs_of_the_denoiser_alone() -> None:
    defaults = {"pointwise": {"meta_lr": 0.5, "gone": "x"}, "ranking": {"meta_lr": 0.7}}

    def config(model: str, **own: object) -> object:
        trial = Trial(0.1, 0.2, {"config": own})
        return settings_of("d", model, "natural", "sgdl", trial, 4, defaults).options["config"]

    assert config("neumf") == {"meta_lr": 0.5, "gone": "x"}
    assert config("lightgcn", meta_lr=1, history_length=5) == {"meta_lr": 1.0, "history_length": 5}
    found = config("lightgcn", denoising_learning=False)
    assert found == {"meta_lr": 0.7, "denoising_learning": False, "memorized_data": "switch"}
    plain = settings_of("d", "neumf", "natural", "plain", Trial(0.1, 0.2), 4, defaults)
    assert plain == settings_of("d", "neumf", "natural", "plain", Trial(0.1, 0.2), 4)
