from __future__ import annotations

from collections.abc import Callable

import ir_measures
import numpy as np
import pytest
import torch
from ir_measures import R, nDCG

from bench.models.neumf import NeuMF
from bench.training import metrics
from bench.training.metrics import FullRanking, top_items

N_USERS, N_ITEMS = 23, 40


def sparse_pairs(seed: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    hits = np.random.default_rng(seed).random((N_USERS, N_ITEMS)) < share
    hits[3] = False  # a user with nothing held out
    users, items = np.nonzero(hits)
    return users.astype(np.int64), items.astype(np.int64)


def scorer(scores: np.ndarray) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda users: torch.from_numpy(scores)[users]


def reference(
    scores: np.ndarray, held_out: tuple[np.ndarray, np.ndarray], masked: tuple[np.ndarray, ...]
) -> dict[str, float]:
    """ir-measures on the same candidates; ties are spread so that the lower id comes first."""
    taken = set(zip(*(column.tolist() for column in masked), strict=True))
    pairs = list(zip(*(column.tolist() for column in held_out), strict=True))
    qrels = [ir_measures.Qrel(str(user), str(item), 1) for user, item in pairs]
    run = []
    for user in {user for user, _ in pairs}:
        free = [item for item in range(N_ITEMS) if (user, item) not in taken]
        ranked = sorted(free, key=lambda item: (-scores[user, item], item))
        run += [
            ir_measures.ScoredDoc(str(user), str(item), float(-rank))
            for rank, item in enumerate(ranked)
        ]
    names = {"recall@5": R @ 5, "recall@20": R @ 20, "ndcg@5": nDCG @ 5, "ndcg@20": nDCG @ 20}
    values = ir_measures.calc_aggregate(list(names.values()), qrels, run)
    return {name: values[measure] for name, measure in names.items()}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("users_at_once", [5, None])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_ir_measures(seed: int, users_at_once: int | None, ties: bool) -> None:
    train, test = sparse_pairs(seed, 0.2), sparse_pairs(seed + 100, 0.1)
    apart = ~np.isin(test[0] * N_ITEMS + test[1], train[0] * N_ITEMS + train[1])
    test = (test[0][apart], test[1][apart])
    scores = np.random.default_rng(seed + 200).normal(size=(N_USERS, N_ITEMS))
    if ties:
        scores = scores.round()
    ranking = FullRanking(
        *test,
        masked_users=train[0],
        masked_items=train[1],
        n_items=N_ITEMS,
        users_at_once=users_at_once,
    )
    found = ranking(scorer(scores))
    assert found == pytest.approx(reference(scores, test, train), abs=1e-12)


@pytest.mark.parametrize(("scores_at_once", "parts"), [(2**24, 1), (4 * N_ITEMS, 6), (1, 22)])
def test_users_are_taken_by_how_many_scores_fit(
    monkeypatch: pytest.MonkeyPatch, scores_at_once: int, parts: int
) -> None:
    monkeypatch.setattr(metrics, "_SCORES_AT_ONCE", scores_at_once)
    users = np.delete(np.arange(N_USERS), 3)
    ranking = FullRanking(
        users, users, masked_users=users[:0], masked_items=users[:0], n_items=N_ITEMS
    )
    asked = []

    def score(some: torch.Tensor) -> torch.Tensor:
        asked.append(some)
        return torch.zeros(len(some), N_ITEMS)

    ranking(score)
    assert len(asked) == parts
    assert torch.cat(asked).tolist() == users.tolist()


@pytest.mark.parametrize("k", [1, 4, 10])
def test_top_items_equal_a_stable_sort_whatever_the_ties(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(3, (50, 10), generator=generator).float()
    scores[0] = 1.0
    scores[1, 2:] = -torch.inf
    expected = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    assert torch.equal(top_items(scores, k), expected)


def test_nan_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^Expected scores to rank, got NaN\. Lower the learning"):
        top_items(torch.tensor([[1.0, float("nan")]]), 1)


def ranking_of(users: list[int], items: list[int], masked: list[tuple[int, int]]) -> FullRanking:
    return FullRanking(
        np.array(users),
        np.array(items),
        masked_users=np.array([user for user, _ in masked], dtype=np.int64),
        masked_items=np.array([item for _, item in masked], dtype=np.int64),
        n_items=6,
        cutoffs=(2, 5),
    )


def test_worked_example_with_the_ideal_gain_cut_off_at_k() -> None:
    # User 0 likes 0, 1, 2; the ranking is 5, 0, 1, 2, 3, 4.
    scores = np.array([[5.0, 4.0, 3.0, 2.0, 1.0, 6.0]])
    found = ranking_of([0, 0, 0], [0, 1, 2], [])(scorer(scores))
    second, third, fourth = 1 / np.log2([3, 4, 5])
    assert found == pytest.approx(
        {
            "recall@2": 1 / 3,
            "recall@5": 1.0,
            "ndcg@2": second / (1 + second),
            "ndcg@5": (second + third + fourth) / (1 + second + third),
        }
    )


def test_masked_items_leave_the_ranking() -> None:
    scores = np.array([[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]])
    found = ranking_of([0], [2], [(0, 0), (0, 1)])(scorer(scores))
    assert found["ndcg@2"] == 1.0


def test_a_masked_item_is_no_hit_even_when_it_fills_the_list() -> None:
    masked = [(0, item) for item in range(5)]
    found = ranking_of([0, 0], [1, 5], masked)(scorer(np.zeros((1, 6))))
    assert found["recall@5"] == 0.5


def test_repeated_held_out_pairs_count_once() -> None:
    scores = np.array([[0.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    assert ranking_of([0, 0], [1, 1], [])(scorer(scores))["recall@2"] == 1.0


def test_scores_of_the_caller_stay_as_they_are() -> None:
    scores = torch.arange(6.0)[None]
    ranking_of([0], [2], [(0, 5)])(lambda users: scores)
    assert torch.equal(scores, torch.arange(6.0)[None])


def test_no_held_out_interactions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^Expected at least one held-out interaction, got none"):
        ranking_of([], [], [])


def test_a_catalogue_smaller_than_a_cutoff_is_refused() -> None:
    none = np.array([], dtype=np.int64)
    held_out = (np.array([0]), np.array([1]))
    FullRanking(*held_out, masked_users=none, masked_items=none, n_items=20)
    with pytest.raises(ValueError, match=r"^Expected at least 20 items to rank, .* got 19\."):
        FullRanking(*held_out, masked_users=none, masked_items=none, n_items=19)


def test_model_is_scored_in_evaluation_mode_and_put_back() -> None:
    model = NeuMF(1, 6, dropout=0.9)
    ranking = ranking_of([0], [2], [])
    expected = ranking(model.eval().score_all_items)
    model.train()
    assert ranking.of_model(model) == expected
    assert model.training
