"""MovieLens-100K as the SGDL authors split it, Adressa and MovieLens-latest-small, where
SGDL_WRAP_DATA names a folder that has them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data.folder_reader import read_folder
from bench.data.interaction_data import InteractionData
from bench.data.load import load_data
from bench.training.fit import rankings, train
from bench.training.recipes import RECIPES
from sgdl_wrap import DenoiserConfig, Phase

pytestmark = pytest.mark.real_data


def folder_of(name: str) -> Path:
    folder = Path(os.environ.get("SGDL_WRAP_DATA", "")) / name
    if "SGDL_WRAP_DATA" not in os.environ or not folder.is_dir():
        pytest.skip(f"SGDL_WRAP_DATA names no folder with {name}/")
    return folder


@pytest.fixture(scope="module")
def data() -> InteractionData:
    return read_folder(folder_of("ml100k"))


def test_the_folder_is_read_as_it_is_described(data: InteractionData) -> None:
    assert (data.n_users, data.n_items) == (497, 1683)
    sizes = [len(data.train_users), len(data.valid_users), len(data.test_users)]
    assert sizes == [66_899, 8_652, 7_208]
    assert data.train_clean is not None
    assert np.mean(~data.train_clean) == pytest.approx(0.178, abs=0.001)


@pytest.mark.parametrize("name", RECIPES)
def test_models_run_to_the_end_and_switch(data: InteractionData, name: str) -> None:
    recipe = replace(RECIPES[name], epochs=10, batch_size=2048)
    if name == "ngcf":  # ten epochs are few at its own rate
        recipe = replace(recipe, learning_rate=0.005)
    config = DenoiserConfig(history_length=8)
    run = train(recipe, data, denoise=True, seed=0, config=config, evaluate_every=10)
    assert run.denoiser is not None
    assert run.denoiser.phase is Phase.SELF_GUIDED
    assert len(run.denoiser.history) == 10
    assert 0.1 < (run.denoiser.noise_rate or 0.0) < 0.4
    assert run.test["ndcg@20"] > 0.2
    assert run.final_auc is not None
    assert run.final_auc > 0.5


def test_adressa_is_read_with_flags_in_validation_alone() -> None:
    data = load_data(str(folder_of("adressa")))
    assert (data.n_users, data.n_items) == (212_231, 6_596)
    sizes = [len(data.train_users), len(data.valid_users), len(data.test_users)]
    assert sizes == [419_491, 53_262, 18_632]
    assert data.train_clean is None
    assert data.test_clean is None
    assert data.valid_clean is not None
    assert np.mean(~data.valid_clean) == pytest.approx(0.67, abs=0.005)


def test_movielens_latest_small_is_read_with_its_frequent_users_and_items() -> None:
    folder = folder_of("ml-latest-small")
    whole = load_data(str(folder), least_interactions=1)
    assert (whole.n_users, whole.n_items) == (610, 9_724)
    data = load_data(str(folder))
    assert (data.n_users, data.n_items) == (609, 2_269)
    assert data.test_clean is not None
    assert data.test_clean.all()
    assert data.train_noise_rate == pytest.approx(0.166, abs=0.005)
    for ids, size in ((data.train_users, data.n_users), (data.train_items, data.n_items)):
        assert len(np.unique(ids)) == size


@pytest.mark.parametrize("name", ["cdae", "lightgcn"])
def test_movielens_latest_small_trains_beyond_popularity(name: str) -> None:
    data = load_data(str(folder_of("ml-latest-small")))
    validation, _ = rankings(data)
    popularity = torch.from_numpy(np.bincount(data.train_items, minlength=data.n_items)).double()
    by_popularity = validation(lambda users: popularity.expand(len(users), -1))["ndcg@20"]
    recipe = replace(RECIPES[name], epochs=10)
    run = train(recipe, data, denoise=False, seed=0, evaluate_every=10)
    assert run.best_valid > 1.1 * by_popularity
