from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.data.interaction_data import InteractionData
from bench.methods.clean_only import CleanOnly
from bench.methods.method import Method
from bench.methods.plain import Plain
from bench.methods.sgdl import SGDL
from bench.training.fit import TrainingRun, fit, rankings, set_up, train
from bench.training.recipes import Recipe
from sgdl_wrap import DenoiserConfig, Phase


def run(method: Method, recipe: Recipe, data: InteractionData, seed: int = 1) -> TrainingRun:
    training = set_up(method.changed(recipe), method.trained_on(data), seed)
    epochs = method.start(training)
    return fit(training, epochs.run, rankings(data), denoiser=epochs.denoiser)


def test_plain_is_ordinary_training(recipe: Recipe, small_data: InteractionData) -> None:
    reference = train(recipe, small_data, denoise=False, seed=1)
    assert run(Plain(), recipe, small_data).valid_curve == reference.valid_curve


def test_sgdl_is_the_denoised_training_of_the_quickstart(
    recipe: Recipe, small_data: InteractionData
) -> None:
    recipe = replace(recipe, epochs=4)
    settings = {"history_length": 2, "noise_rate": 0.7}
    reference = train(
        recipe, small_data, denoise=True, seed=1, config=DenoiserConfig(seed=1).but(**settings)
    )
    denoised = run(SGDL(config=settings), recipe, small_data)
    assert denoised.denoiser is not None
    assert denoised.denoiser.phase is Phase.SELF_GUIDED
    assert denoised.valid_curve == reference.valid_curve


def test_sgdl_takes_seed_and_history_from_the_training(
    neumf_recipe: Recipe, small_data: InteractionData
) -> None:
    denoiser = SGDL().start(set_up(neumf_recipe, small_data, seed=5)).denoiser
    assert denoiser is not None
    assert (denoiser.config.seed, denoiser.config.history_length) == (5, 10)


def test_clean_only_trains_on_clean_interactions_and_nothing_else(
    small_data: InteractionData,
) -> None:
    trained_on = CleanOnly().trained_on(small_data)
    flags = small_data.train_clean
    assert flags is not None
    assert np.array_equal(trained_on.train_items, small_data.train_items[flags])
    assert np.array_equal(trained_on.train_users, small_data.train_users[flags])
    assert trained_on.valid_users is small_data.valid_users


def test_clean_only_needs_flags(small_data: InteractionData) -> None:
    with pytest.raises(
        ValueError,
        match=r"^Expected train interactions with clean flags, got generated without\. "
        r"Give train\.tsv a third column, or leave out clean_only\.$",
    ):
        CleanOnly().trained_on(replace(small_data, train_clean=None))
