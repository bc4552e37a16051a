from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.data.interaction_data import InteractionData
from bench.data.planted_preferences import generate
from bench.study.conditions import under_condition
from bench.study.noise_injection import clean_part, inject_noise


@pytest.fixture(scope="module")
def data() -> InteractionData:
    return generate(0, n_users=60, n_items=120, interactions_per_user=20)


def keys(data: InteractionData, split: str, clean: bool | None = None) -> list[int]:
    users, items = getattr(data, f"{split}_users"), getattr(data, f"{split}_items")
    pairs = users * data.n_items + items
    return sorted((pairs if clean is None else pairs[data_flags(data, split) == clean]).tolist())


def data_flags(data: InteractionData, split: str) -> np.ndarray:
    return np.asarray(getattr(data, f"{split}_clean"))


def test_clean_part_keeps_what_is_flagged_clean_and_the_test_set(data: InteractionData) -> None:
    clean = clean_part(data)
    for split in ("train", "valid"):
        assert keys(clean, split) == keys(data, split, clean=True)
        assert data_flags(clean, split).all()
    assert np.array_equal(clean.test_users, data.test_users)


@pytest.mark.parametrize("rate", [0.2, 0.4])
@pytest.mark.parametrize("popularity_biased", [False, True])
def test_noise_is_flagged_and_counted_by_the_clean_part(
    data: InteractionData, rate: float, popularity_biased: bool
) -> None:
    noisy = inject_noise(data, rate=rate, seed=1, popularity_biased=popularity_biased)
    for split in ("train", "valid"):
        clean = keys(data, split, clean=True)
        assert keys(noisy, split, clean=True) == clean
        assert len(keys(noisy, split, clean=False)) == round(rate * len(clean))
    assert np.array_equal(noisy.test_items, data.test_items)


def test_noise_is_new_in_every_split_and_never_repeated(data: InteractionData) -> None:
    noisy = inject_noise(data, rate=1.0, seed=2)
    noise = keys(noisy, "train", clean=False) + keys(noisy, "valid", clean=False)
    assert len(set(noise)) == len(noise)
    for split in ("train", "valid", "test"):  # of the data as it came, its own noise included
        assert not set(noise) & set(keys(data, split))


def test_noise_is_mixed_into_the_clean_interactions(data: InteractionData) -> None:
    flags = data_flags(inject_noise(data, rate=0.4, seed=0), "train")
    assert not flags[: len(flags) // 2].all()
    assert not flags[len(flags) // 2 :].all()


def test_seed_decides_the_noise(data: InteractionData) -> None:
    first, again, other = (inject_noise(data, rate=0.3, seed=seed) for seed in (4, 4, 5))
    assert keys(first, "train") == keys(again, "train")
    assert keys(first, "train", clean=False) != keys(other, "train", clean=False)


def test_only_items_that_occur_are_drawn_uniformly(data: InteractionData) -> None:
    shifted = replace(
        data,
        n_items=2 * data.n_items,
        **{f"{split}_items": getattr(data, f"{split}_items") * 2 for split in SPLITS},
    )
    noisy = inject_noise(shifted, rate=1.0, seed=0)
    assert not (noisy.train_items % 2).any()
    assert not (noisy.valid_items % 2).any()


SPLITS = ("train", "valid", "test")


def test_popularity_bias_draws_items_by_their_clean_train_count() -> None:
    # 300 users; item 0 has 200 clean train interactions, item 1 has 20, items 2 to 9 none there.
    n_users = 300
    users = np.concatenate([np.arange(200), np.arange(200, 220)])
    items = np.repeat([0, 1], [200, 20])
    rest = np.arange(220, 228)
    data = InteractionData(
        name="skewed", n_users=n_users, n_items=10,
        train_users=users, train_items=items, train_clean=np.ones(220, dtype=bool),
        valid_users=rest, valid_items=np.arange(2, 10), valid_clean=np.ones(8, dtype=bool),
        test_users=np.arange(228, 300), test_items=np.resize(np.arange(2, 10), 72),
    )  # fmt: skip
    noisy = inject_noise(data, rate=0.2, seed=0, popularity_biased=True)
    drawn = np.bincount(noisy.train_items[~data_flags(noisy, "train")], minlength=10)
    assert drawn[2:].sum() == 0
    # Item 0 is left to 100 users and item 1 to 280, and comes ten times as often.
    assert drawn[0] > drawn[1]
    uniform = inject_noise(data, rate=0.2, seed=0)
    assert np.bincount(uniform.train_items[~data_flags(uniform, "train")])[2:].sum() > 20


def test_conditions_are_natural_clean_and_injected(data: InteractionData) -> None:
    assert under_condition("natural", data, 0) is data
    assert under_condition("clean", data, 0).train_noise_rate == 0
    injected = under_condition("injected-40", data, 7)
    assert keys(injected, "train") == keys(inject_noise(data, rate=0.4, seed=7), "train")
    popular = inject_noise(data, rate=0.4, seed=7, popularity_biased=True)
    assert keys(under_condition("injected-popular-40", data, 7), "train") == keys(popular, "train")


def test_unknown_condition_is_refused(data: InteractionData) -> None:
    with pytest.raises(
        ValueError,
        match=r"^Expected natural, clean, injected-PERCENT or injected-popular-PERCENT, got "
        r"'injected-many'\. Name one of these, such as injected-20\.$",
    ):
        under_condition("injected-many", data, 0)


def test_data_without_flags_is_refused(data: InteractionData) -> None:
    with pytest.raises(
        ValueError,
        match=r"^Expected train interactions with clean flags, got generated without\. "
        r"Give train\.tsv a third column, or use the data as it is\.$",
    ):
        inject_noise(replace(data, train_clean=None), rate=0.2, seed=0)


@pytest.mark.parametrize(
    ("rate", "sentence"),
    [
        (-0.1, r"^Expected a rate of at least 0, got -0\.1\. Choose one such as 0\.2\.$"),
        (float("nan"), r"^Expected a rate of at least 0, got nan\. Choose one such as 0\.2\.$"),
        (50.0, r"^Expected at most half as many noisy pairs as are unobserved, \d+, got \d+\. "
         r"Lower the rate\.$"),
    ],
)  # fmt: skip
def test_impossible_rates_are_refused(data: InteractionData, rate: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        inject_noise(data, rate=rate, seed=0)
