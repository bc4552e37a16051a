from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from bench.data.interaction_data import InteractionData
from bench.data.planted_preferences import generate
from bench.training.metrics import FullRanking


def small(seed: int = 0, **settings: float) -> InteractionData:
    return generate(seed, **{"n_users": 60, "n_items": 200, **settings})  # type: ignore[arg-type]


def keys(data: InteractionData, split: str) -> np.ndarray:
    return getattr(data, f"{split}_users") * data.n_items + getattr(data, f"{split}_items")


def same(one: InteractionData, other: InteractionData) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        for field in fields(InteractionData)
    )


def test_seed_decides_the_data() -> None:
    assert same(small(3), small(3))
    assert not same(small(3), small(4))


def test_no_pair_occurs_twice_within_or_across_splits() -> None:
    data = small()
    every = np.concatenate([keys(data, split) for split in ("train", "valid", "test")])
    assert len(np.unique(every)) == len(every)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4])
def test_train_and_valid_have_the_noise_rate_and_test_is_clean(rate: float) -> None:
    data = small(noise_rate=rate)
    assert data.train_noise_rate == pytest.approx(rate, abs=0.5 / len(data.train_users))
    assert 1 - data.valid_clean.mean() == pytest.approx(rate, abs=0.5 / len(data.valid_users))
    assert data.test_clean.all()


def test_ids_are_in_range_and_every_user_is_in_every_split() -> None:
    data = small()
    for split in ("train", "valid", "test"):
        assert np.array_equal(np.unique(getattr(data, f"{split}_users")), np.arange(60))
        assert getattr(data, f"{split}_items").min() >= 0
        assert getattr(data, f"{split}_items").max() < 200


def test_flags_lie_where_the_noise_is_and_not_at_one_end() -> None:
    clean = small().train_clean
    half = len(clean) // 2
    assert clean[:half].mean() == pytest.approx(clean[half:].mean(), abs=0.05)


def test_clean_interactions_follow_a_pattern_that_noise_does_not() -> None:
    """How often a user's neighbours clicked an item foretells clean held-out items alone."""
    data = small()
    clicks = np.zeros((data.n_users, data.n_items))
    clicks[data.train_users[data.train_clean], data.train_items[data.train_clean]] = 1
    scores = clicks @ clicks.T @ clicks

    def recall(chosen: np.ndarray) -> float:
        ranking = FullRanking(
            data.valid_users[chosen],
            data.valid_items[chosen],
            masked_users=data.train_users,
            masked_items=data.train_items,
            n_items=data.n_items,
        )
        return ranking(lambda users: torch.from_numpy(scores)[users])["recall@20"]

    assert recall(data.valid_clean) > 2 * recall(~data.valid_clean)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"noise_rate": 1.0},
            r"^Expected a noise_rate in \[0, 1\), got 1\.0\. Choose a share such as 0\.25\.$",
        ),
        (
            {"n_items": 60},
            r"^Expected at most n_items / 2 = 30 clean interactions per user, got \d+\. "
            r"Raise n_items or lower interactions_per_user\.$",
        ),
        (
            {"noise_rate": 0.95},
            r"^Expected at most \d+ noisy pairs, as many as are unobserved, got \d+\. "
            r"Raise n_items or lower noise_rate\.$",
        ),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small(**settings)
