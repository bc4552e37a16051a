from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from bench.data.interaction_data import InteractionData
from bench.data.planted_preferences import generate
from bench.training.recipes import RECIPES, Recipe


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_data() -> InteractionData:
    return generate(0, n_users=60, n_items=120, interactions_per_user=20)


@pytest.fixture(params=["lightgcn", "neumf"])
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return replace(RECIPES[request.param], epochs=2, batch_size=256)


@pytest.fixture
def neumf_recipe() -> Recipe:
    return replace(RECIPES["neumf"], epochs=2, batch_size=256)
