"""MovieLens-100K as the SGDL authors split it, where SGDL_WRAP_DATA names a folder that has it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from examples.folder_reader import read_folder
from examples.interaction_data import InteractionData
from examples.recipes import RECIPES
from examples.training import train
from sgdl_wrap import DenoiserConfig, Phase

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def data() -> InteractionData:
    folder = Path(os.environ.get("SGDL_WRAP_DATA", "")) / "ml100k"
    if "SGDL_WRAP_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("SGDL_WRAP_DATA names no folder with ml100k/")
    return read_folder(folder)


def test_the_folder_is_read_as_it_is_described(data: InteractionData) -> None:
    assert (data.n_users, data.n_items) == (497, 1683)
    sizes = [len(data.train_users), len(data.valid_users), len(data.test_users)]
    assert sizes == [66_899, 8_652, 7_208]
    assert data.train_clean is not None
    assert np.mean(~data.train_clean) == pytest.approx(0.178, abs=0.001)


@pytest.mark.parametrize("name", RECIPES)
def test_both_models_run_to_the_end_and_switch(data: InteractionData, name: str) -> None:
    recipe = replace(RECIPES[name], epochs=10, batch_size=2048)
    config = DenoiserConfig(history_length=8)
    run = train(recipe, data, denoise=True, seed=0, config=config, evaluate_every=10)
    assert run.denoiser is not None
    assert run.denoiser.phase is Phase.SELF_GUIDED
    assert len(run.denoiser.history) == 10
    assert 0.1 < (run.denoiser.noise_rate or 0.0) < 0.4
    assert run.test["ndcg@20"] > 0.2
    assert run.final_auc is not None
    assert run.final_auc > 0.5
