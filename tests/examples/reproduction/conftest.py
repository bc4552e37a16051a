from __future__ import annotations

from dataclasses import replace

import pytest

from examples.interaction_data import InteractionData
from examples.planted_preferences import generate
from examples.recipes import RECIPES, Recipe


@pytest.fixture(scope="session")
def small_data() -> InteractionData:
    return generate(0, n_users=60, n_items=120, interactions_per_user=20)


@pytest.fixture(params=["lightgcn", "neumf"])
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return replace(RECIPES[request.param], epochs=2, batch_size=256)


@pytest.fixture
def neumf_recipe() -> Recipe:
    return replace(RECIPES["neumf"], epochs=2, batch_size=256)
