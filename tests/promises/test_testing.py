"""Generated clicks with known noise: they are what they say, and leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from sgdl_wrap import DenoiserError
from sgdl_wrap.testing import Clicks, planted_clicks


def keys(users: torch.Tensor, items: torch.Tensor, n_items: int) -> set[int]:
    return set((users * n_items + items).tolist())


@pytest.mark.parametrize("kind", ["random", "popular"])
@pytest.mark.parametrize("noise", [0.0, 0.2, 0.5])
def test_clicks_have_the_noise_asked_for_and_no_pair_twice(kind: Any, noise: float) -> None:
    clicks = planted_clicks(n_users=80, n_items=300, clicks_per_user=20, noise=noise, kind=kind)
    assert clicks.is_noise.double().mean().item() == pytest.approx(noise, abs=1e-3)
    train = keys(clicks.users, clicks.items, 300)
    test = keys(clicks.test_users, clicks.test_items, 300)
    assert len(train) == len(clicks.users) == len(clicks.items) == len(clicks.is_noise)
    assert len(test) == len(clicks.test_users) == len(clicks.test_items)
    assert not train & test
    assert set(clicks.users.tolist()) == set(clicks.test_users.tolist()) == set(range(80))
    assert 0 <= int(clicks.items.min()) <= int(clicks.items.max()) < 300
    n_clean = int((~clicks.is_noise).sum()) + len(test)
    assert n_clean / 80 == pytest.approx(20, abs=2)
    assert len(test) / n_clean == pytest.approx(0.2, abs=0.02)
    assert {clicks.users.dtype, clicks.items.dtype, clicks.test_users.dtype} == {torch.int64}


def test_popular_noise_falls_on_what_is_clicked_and_random_noise_does_not() -> None:
    means = {}
    for kind in ("random", "popular"):
        clicks = planted_clicks(kind=kind)  # type: ignore[arg-type]
        counts = torch.bincount(clicks.items[~clicks.is_noise], minlength=clicks.n_items).double()
        means[kind] = (counts[clicks.items[clicks.is_noise]].mean() / counts.mean()).item()
    assert means["random"] == pytest.approx(1.0, abs=0.1)
    assert means["popular"] > 1.3


def test_clean_clicks_follow_tastes_and_noise_does_not() -> None:
    clicks = planted_clicks(noise=0.5)
    shares = []
    for part in (~clicks.is_noise, clicks.is_noise):
        matrix = torch.zeros(clicks.n_users, clicks.n_items)
        matrix[clicks.users[part], clicks.items[part]] = 1
        energy = torch.linalg.svdvals(matrix - matrix.mean(0)).square()
        shares.append((energy[:10].sum() / energy.sum()).item())  # there are ten clusters
    assert shares[0] > 2 * shares[1]


def test_the_same_arguments_give_the_same_clicks_and_touch_no_global_stream() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = planted_clicks(), planted_clicks(), planted_clicks(seed=1)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    for name in ("users", "items", "is_noise", "test_users", "test_items"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.items[:100], other.items[:100])


def test_noise_is_told_in_the_order_asked_for() -> None:
    clicks = planted_clicks(n_users=80, n_items=300, clicks_per_user=20)
    order = torch.randperm(len(clicks.users), generator=torch.Generator().manual_seed(0))[:500]
    found = clicks.noise_of(clicks.users[order], clicks.items[order].numpy().astype(np.uint16))
    assert found.dtype == bool
    assert np.array_equal(found, clicks.is_noise[order].numpy())


def test_a_pair_that_was_not_clicked_is_refused() -> None:
    clicks = planted_clicks(n_users=80, n_items=300, clicks_per_user=20)
    user, item = int(clicks.test_users[0]), int(clicks.test_items[0])
    told = (
        rf"^Expected pairs of the clicks, got user {user} with item {item}\. "
        r"Ask for pairs of `users` and `items` only\.$"
    )
    with pytest.raises(DenoiserError, match=told):
        clicks.noise_of([int(clicks.users[0]), user], [int(clicks.items[0]), item])


def by_hand() -> Clicks:
    """User 0 clicked item 0 and wants 1 and 3, user 1 clicked 3 and wants 2, user 2 wants none."""
    of = torch.tensor
    return Clicks(
        of([0, 1, 2]), of([0, 3, 0]), of([False, False, True]), of([0, 0, 1]), of([1, 3, 2]),
        n_users=3, n_items=4,
    )  # fmt: skip


def test_ndcg_by_hand() -> None:
    scores = torch.tensor([[9.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 9.0], [1.0, 1.0, 1.0, 1.0]])
    kept = scores.clone()
    # user 0 ranks 1, 2, 3: hits at 1 and 3; user 1 ranks 0, 1, 2: a hit at 3
    first = (1 + 1 / 2) / (1 + 1 / np.log2(3))
    second = (1 / 2) / 1
    assert by_hand().ndcg(scores, k=3) == pytest.approx((first + second) / 2)
    assert by_hand().ndcg(scores, k=1) == pytest.approx((1 + 0) / 2)
    assert torch.equal(scores, kept)


def test_scores_of_another_shape_are_refused() -> None:
    told = (
        r"^Expected scores of shape \(3, 4\), got \(4, 3\)\. Score every item for every user\.$"
    )
    with pytest.raises(DenoiserError, match=told):
        by_hand().ndcg(torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"kind": "windy"}, r'^Expected kind "random" or "popular", got \'windy\'\. Choose one\.$'),
        ({"noise": 1.0}, r"^Expected noise in \[0, 1\), got 1\.0\. Choose a share such as 0\.2"),
        ({"noise": -0.1}, r"^Expected noise in \[0, 1\), got -0\.1\. Choose a share such as 0\.2"),
        ({"noise": 0.99}, r"^Expected at most \d+ noisy clicks, as many as there are other pairs, "
                          r"got \d+\. Raise n_items or lower noise\.$"),
        ({"clicks_per_user": 80}, r"^Expected one user or more with at most 90 clean clicks each, "
                                  r"half of what a user likes, got 400 with up to \d+\. "
                                  r"Raise n_items or lower clicks_per_user\.$"),
        ({"n_users": 0}, r"^Expected one user or more with at most 90 clean clicks each"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_refused(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(DenoiserError, match=told):
        planted_clicks(**arguments)


def test_the_package_does_not_bring_it() -> None:
    script = "import sys, sgdl_wrap; print('sgdl_wrap.testing' in sys.modules)"
    command = [sys.executable, "-c", script]
    assert subprocess.check_output(command, text=True).strip() == "False"
