from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench import measures
from bench.data import conditions, planted, sources
from bench.data.conditions import clean_only, under
from bench.data.interaction_data import InteractionData
from bench.measures import Evaluation

SPLITS = ("train", "valid", "test")
INJECTING = [*conditions.INJECTED, "noisy-users"]


def rows(data: InteractionData, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(getattr(data, f"{split}_{column}") for column in ("users", "items", "clean"))


def keys(data: InteractionData, split: str) -> np.ndarray:
    users, items, _ = rows(data, split)
    return users * data.n_items + items


def same(a: InteractionData, b: InteractionData) -> bool:
    return all(
        np.array_equal(x, y)
        for split in SPLITS
        for x, y in zip(rows(a, split), rows(b, split), strict=True)
    )


@pytest.fixture(scope="module")
def clicks() -> InteractionData:
    return planted.planted(3, n_users=1_500, n_items=600, clicks_per_user=20, zipf=1.0)


@pytest.fixture(scope="module")
def flagged(clicks: InteractionData) -> InteractionData:
    """The same with natural noise, and its rows in an order that is not sorted by user."""
    generator = np.random.default_rng(5)
    changes = {}
    for split in ("train", "valid"):
        users, items, _ = rows(clicks, split)
        order = generator.permutation(len(users))
        changes |= {
            f"{split}_users": users[order],
            f"{split}_items": items[order],
            f"{split}_clean": generator.random(len(users)) > 0.2,
        }
    return replace(clicks, **changes)


@pytest.mark.parametrize("zipf", [None, 1.0])
def test_planted_users_click_distinct_items_of_three_clusters(zipf: float | None) -> None:
    data = planted.planted(
        0, n_users=3_000, n_items=640, clicks_per_user=20, zipf=zipf, n_clusters=16
    )
    pairs = np.concatenate([keys(data, split) for split in SPLITS])
    assert len(np.unique(pairs)) == len(pairs) == 3_000 * 20
    for split, each in zip(SPLITS, (16, 2, 2), strict=True):
        users, _, clean = rows(data, split)
        assert clean.all()
        assert (np.bincount(users, minlength=3_000) == each).all()
        assert (np.diff(users) >= 0).all()
    # By hand: the clusters are runs of 40 of the permutation that the seed's generator draws first.
    cluster = np.empty(640, dtype=int)
    cluster[np.random.default_rng(0).permutation(640)] = np.arange(640) // 40
    liked = [set(cluster[pairs[pairs // 640 == user] % 640]) for user in range(100)]
    assert max(len(clusters) for clusters in liked) == 3
    assert len(set().union(*liked)) == 16


def test_planted_popularity_is_flat_or_falls_with_the_rank() -> None:
    def counts(zipf: float | None) -> np.ndarray:
        # few clicks of many items, so that dropped repeats hardly flatten the popularity
        data = planted.planted(
            1, n_users=20_000, n_items=600, clicks_per_user=2, zipf=zipf, n_clusters=2
        )
        items = np.concatenate([rows(data, split)[1] for split in SPLITS])
        place = np.argsort(np.random.default_rng(1).permutation(600))
        return np.bincount(place[items], minlength=600).reshape(2, 300)

    flat, skewed = counts(None), counts(1.0)
    assert abs(flat - 40_000 / 600).max() < 6 * np.sqrt(40_000 / 600)
    shares = skewed / skewed.sum(axis=1, keepdims=True)
    expected = (1 / np.arange(1, 301)) / (1 / np.arange(1, 301)).sum()
    assert shares[:, 1:10].sum(axis=1) == pytest.approx(expected[1:10].sum(), rel=0.1)
    assert (shares[:, 0] > 1.5 * shares[:, 1]).all()


def test_the_first_distinct_ids_keep_their_order() -> None:
    candidates = np.array([[5, -1, 5, 2, 9, 2, 1], [4, 4, 4, -1, 4, 4, 4]])
    assert planted._first_distinct(candidates, 3).tolist() == [[5, 2, 9], [4, -1, -1]]


def test_planted_names_and_refusals() -> None:
    data = sources.load("planted-400-zipf")
    assert (data.n_users, data.n_items) == (400, 600)
    assert sum(len(rows(data, split)[0]) for split in SPLITS) == 400 * 50
    assert same(data, sources.load("planted-400-zipf"))
    assert not same(data, sources.load("planted-400"))
    with pytest.raises(ValueError, match="Expected 1 to 37 clicks"):
        planted.planted(0, n_users=3, n_items=200, clicks_per_user=38)
    with pytest.raises(ValueError, match="Expected one of ml100k"):
        sources.load("planted-7")
    with pytest.raises(ValueError, match="Expected the folder"):
        sources.load("ml1m")


def test_ratings_are_split_by_time(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    lines, by_user = [], {}
    for user, n in ((7, 40), (3, 23), (9, 19), (12, 20)):
        items = generator.permutation(100)[:n]
        ratings = generator.integers(1, 11, n) / 2
        if user == 12:
            ratings[:] = 2.5  # nothing clean
        times = generator.permutation(n) + 964982703
        lines += [f"{user},{i},{r},{t}" for i, r, t in zip(items, ratings, times, strict=True)]
        by_user[user] = sorted(zip(times, items, ratings, strict=True))
    (tmp_path / "ml-latest-small").mkdir()
    file = tmp_path / "ml-latest-small" / "ratings.csv"
    file.write_text("userId,movieId,rating,timestamp\n" + "\n".join(lines) + "\n")
    data = sources.load("ml-latest-small", tmp_path)
    del by_user[9]  # fewer than 20 ratings
    ids = {item: i for i, item in enumerate(sorted({r[1] for v in by_user.values() for r in v}))}
    assert (data.n_users, data.n_items) == (3, len(ids))
    for user, ratings in enumerate(by_user[u] for u in sorted(by_user)):
        expected = {split: [] for split in SPLITS}
        n_clean = sum(rating >= 3 for _, _, rating in ratings)
        rank = 0
        for _, item, rating in ratings:
            test = rank >= 0.9 * n_clean - 1e-9 and n_clean > 0
            valid = rank >= 0.8 * n_clean - 1e-9 and n_clean > 0
            if not (test and rating < 3):
                split = "test" if test else "valid" if valid else "train"
                expected[split].append((ids[item], bool(rating >= 3)))
            rank += rating >= 3
        for split in SPLITS:
            users, items, clean = rows(data, split)
            found = list(zip(items[users == user], clean[users == user], strict=True))
            assert found == expected[split]
    with pytest.raises(FileNotFoundError, match="Expected ratings in"):
        sources.load("ml-latest-small", tmp_path / "nowhere")


@pytest.mark.parametrize("condition", INJECTING)
@pytest.mark.parametrize("source", ["clicks", "flagged"])
def test_noise_is_unobserved_counted_and_flagged(
    condition: str, source: str, request: pytest.FixtureRequest
) -> None:
    data = request.getfixturevalue(source)
    noisy = under(condition, data, seed=1)
    clean = clean_only(data)
    observed = np.concatenate([keys(data, split) for split in SPLITS])
    injected = np.concatenate([keys(noisy, split)[~rows(noisy, split)[2]] for split in SPLITS])
    assert len(np.unique(injected)) == len(injected) > 0
    assert not np.isin(injected, observed).any()
    assert np.array_equal(keys(noisy, "test"), keys(data, "test"))
    for split in ("train", "valid"):
        users, items, flags = rows(noisy, split)
        n_clean = len(keys(clean, split))
        assert flags.sum() == n_clean
        if condition in conditions.INJECTED:
            assert (~flags).sum() == round(conditions.INJECTED[condition][0] * n_clean)
        # the sequence of each user
        for user in range(0, data.n_users, 50):
            kept = items[flags & (users == user)]
            clean_users, clean_items, _ = rows(clean, split)
            assert np.array_equal(kept, clean_items[clean_users == user])
        # all clean rows stay in their order, and so does a loader that does not shuffle
        assert np.array_equal(keys(noisy, split)[flags], keys(clean, split))
    assert same(noisy, under(condition, data, seed=1))
    assert not same(noisy, under(condition, data, seed=2))


@pytest.mark.parametrize("source", ["clicks", "flagged"])
def test_noise_lies_at_uniform_places_of_its_users_sequence(
    source: str, request: pytest.FixtureRequest
) -> None:
    data = under("random-20", request.getfixturevalue(source), seed=4)
    users, _, clean = rows(data, "train")
    order = np.argsort(users, kind="stable")
    users, clean = users[order], clean[order]
    clean_before = np.cumsum(clean) - clean
    starts = np.searchsorted(users, np.arange(data.n_users))
    count = np.bincount(users, weights=clean, minlength=data.n_users)
    place = (clean_before - clean_before[starts[users]])[~clean] / count[users[~clean]]
    assert len(place) > 3_000
    assert np.mean(place) == pytest.approx(0.5, abs=0.03)
    assert np.mean(place == 0) == pytest.approx(np.mean(1 / (count + 1)), abs=0.02)
    assert np.mean(place == 1) == pytest.approx(np.mean(1 / (count + 1)), abs=0.02)


def test_a_user_without_clean_rows_can_get_noise() -> None:
    generator = np.random.default_rng(0)
    users, items, clean = conditions._mixed(
        generator,
        np.array([1, 1]),
        np.array([10, 11]),
        np.array([4, 1, 0, 4]),
        np.array([20, 21, 22, 23]),
    )
    assert sorted(zip(users[~clean], items[~clean], strict=True)) == [
        (0, 22),
        (1, 21),
        (4, 20),
        (4, 23),
    ]
    assert items[clean].tolist() == [10, 11]


def noise_by_item(data: InteractionData) -> np.ndarray:
    users, items, clean = rows(data, "train")
    assert len(users)
    return np.bincount(items[~clean], minlength=data.n_items)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    def ranks(values: np.ndarray) -> np.ndarray:
        return np.array([np.sum(values < v) + np.sum(values == v) / 2 for v in values])

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def test_popular_noise_follows_popularity_and_random_noise_does_not(
    clicks: InteractionData,
) -> None:
    popularity = np.bincount(clicks.train_items, minlength=clicks.n_items)
    assert rank_correlation(noise_by_item(under("popular-40", clicks, 1)), popularity) > 0.8
    # a popular item has fewer users left who have not clicked it
    assert abs(rank_correlation(noise_by_item(under("random-40", clicks, 1)), popularity)) < 0.2


def test_noisy_users_are_few_and_half_noise(flagged: InteractionData) -> None:
    data = under("noisy-users", flagged, seed=1)
    noisy_users = []
    for split in ("train", "valid"):
        users, _, clean = rows(data, split)
        n_noise = np.bincount(users[~clean], minlength=data.n_users)
        n_clean = np.bincount(users[clean], minlength=data.n_users)
        assert ((n_noise == 0) | (n_noise == n_clean)).all()
        noisy_users.append(np.flatnonzero(n_noise))
    assert len(noisy_users[0]) == 150
    assert set(noisy_users[1]) <= set(noisy_users[0])


def test_a_noisy_user_keeps_half_of_its_unobserved_items() -> None:
    everyone = (np.repeat(np.arange(2), 7), np.tile(np.arange(7), 2))
    first, last = everyone[1] < 6, everyone[1] == 6
    data = InteractionData.of(
        "dense",
        3,
        10,
        {
            "train": (everyone[0][first], everyone[1][first], np.ones(12, dtype=bool)),
            "valid": (everyone[0][last], everyone[1][last], np.ones(2, dtype=bool)),
            "test": (np.array([2, 2, 2]), np.array([7, 8, 9]), np.ones(3, dtype=bool)),
        },
    )
    for seed in range(5):
        noisy = under("noisy-users", data, seed)
        n_noise = (~noisy.train_clean).sum() + (~noisy.valid_clean).sum()
        assert n_noise in (0, 1)  # 3 unobserved items, or user 2 who has nothing in train
    assert not under("clean", data, 0).train_clean.sum() - 12


def test_conditions_without_noise_and_refusals(flagged: InteractionData) -> None:
    assert under("natural", flagged, 0) is flagged
    clean = under("clean", flagged, 0)
    assert np.array_equal(keys(clean, "train"), keys(flagged, "train")[flagged.train_clean])
    assert np.array_equal(keys(clean, "valid"), keys(flagged, "valid")[flagged.valid_clean])
    with pytest.raises(ValueError, match="Expected one of natural"):
        under("both-20", flagged, 0)
    with pytest.raises(ValueError, match="clean flags"):
        under("clean", replace(flagged, train_clean=None), 0)
    tiny = replace(flagged, test_users=flagged.test_users[:0], test_items=flagged.test_items[:0])
    few = np.arange(12)
    tiny = replace(
        tiny,
        train_users=few // 4,
        train_items=few % 4,
        train_clean=few >= 0,
        valid_users=few[:0],
        valid_items=few[:0],
        valid_clean=few[:0] > 0,
    )
    with pytest.raises(ValueError, match="Expected at most half"):
        under("random-20", tiny, 0)


class Scores(nn.Module):
    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = scores
        self.frozen = nn.Dropout().eval()
        self.drop = nn.Dropout()
        self.asked: list[int] = []

    def score_all_items(self, users: torch.Tensor) -> torch.Tensor:
        assert not self.training
        assert not self.drop.training
        self.asked += users.tolist()
        return self.scores[users]


def slow_evaluation(
    data: InteractionData, scores: np.ndarray, on: str, users: list[int]
) -> dict[str, float]:
    pairs = {s: set(zip(*(c.tolist() for c in rows(data, s)[:2]), strict=True)) for s in SPLITS}
    counts = dict.fromkeys(range(data.n_items), 0)
    for item, clean in zip(data.train_items.tolist(), data.train_clean, strict=True):
        counts[item] += int(clean)
    head: set[int] = set()
    for item in sorted(counts, key=lambda i: (-counts[i], i)):
        if sum(counts[i] for i in head) >= sum(counts.values()) / 2:
            break
        head.add(item)
    masked = pairs["train"] | (pairs["valid"] if on == "test" else set())
    found: dict[str, list[float]] = {n: [] for n in ("ndcg", "recall", "head", "tail")}
    for user in users:
        relevant = {i for u, i in pairs[on] if u == user}
        candidates = [i for i in range(data.n_items) if (user, i) not in masked]
        top = sorted(candidates, key=lambda i: (-scores[user, i], i))[:20]
        gains = [1 / np.log2(rank + 2) for rank in range(20)]
        dcg = sum(g for g, i in zip(gains, top, strict=False) if i in relevant)
        found["ndcg"].append(dcg / sum(gains[: len(relevant)]))
        for name, group in (
            ("recall", relevant),
            ("head", relevant & head),
            ("tail", relevant - head),
        ):
            if group:
                found[name].append(len(group & set(top)) / len(group))
    names = {"ndcg": "ndcg", "recall": "recall", "head": "recall_head", "tail": "recall_tail"}
    return {f"{names[name]}@20": float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize("on", ["valid", "test"])
def test_the_evaluation_agrees_with_a_slow_one(on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = planted.planted(2, n_users=60, n_items=90, clicks_per_user=12, zipf=1.0)
    data = under("random-40", clean, 1)
    # rounded, so that there are ties
    scores = torch.randn(60, 90, generator=torch.Generator().manual_seed(0)).mul(3).round()
    monkeypatch.setattr(measures, "_SCORES_AT_ONCE", 7 * 90)
    model = Scores(scores.clone())
    found = Evaluation(data, on, max_users=40).of_model(model)
    assert len(model.asked) == len(set(model.asked)) == 40
    assert found == pytest.approx(slow_evaluation(data, scores.numpy(), on, model.asked))
    assert torch.equal(model.scores, scores)
    # scores that do not lie row by row in memory
    assert Evaluation(data, on, max_users=40)(lambda users: scores.T[:, users].T) == found
    assert (model.training, model.drop.training, model.frozen.training) == (True, True, False)


def test_the_evaluated_users_are_the_same_under_each_condition(clicks: InteractionData) -> None:
    users = [
        Evaluation(data, on, max_users=100).users
        for data in (clicks, under("random-40", clicks, 1))
        for on in ("valid", "test")
    ]
    assert all(np.array_equal(users[0], others) for others in users)
    assert len(users[0]) == 100
    assert users[0].max() > 1_000


def test_an_evaluation_without_tail_items_and_refusals(clicks: InteractionData) -> None:
    head = measures.head_items(clicks)
    of_head = head[clicks.test_items]
    only = replace(
        clicks, test_users=clicks.test_users[of_head], test_items=clicks.test_items[of_head]
    )
    scores = torch.zeros(clicks.n_users, clicks.n_items)
    found = Evaluation(only, max_users=50)(lambda users: scores[users])
    assert found["recall_tail@20"] is None
    assert found["recall_head@20"] == found["recall@20"]
    with pytest.raises(ValueError, match='Expected "valid" or "test"'):
        Evaluation(clicks, "train")
    with pytest.raises(ValueError, match="Expected at least 20 items"):
        Evaluation(replace(clicks, n_items=19))
    nobody = replace(clicks, test_users=np.empty(0, np.int64), test_items=np.empty(0, np.int64))
    with pytest.raises(ValueError, match="Expected test interactions"):
        Evaluation(nobody)


def slow_auc(scores: np.ndarray, noisy: np.ndarray) -> float | None:
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a in scores[noisy].tolist()
        for b in scores[~noisy].tolist()
    ]
    return float(np.mean(pairs)) if pairs else None


def test_auc_within_popularity_agrees_with_a_slow_one() -> None:
    generator = np.random.default_rng(0)
    items = generator.integers(0, 40, 500) * generator.integers(0, 2, 500)
    popularity = np.bincount(items)[items]
    noisy = generator.random(500) < 0.3
    scores = generator.normal(size=500).round(1) + noisy
    found = measures.within_popularity(scores, noisy, popularity)
    order = np.sort(popularity)
    edges = [order[round(500 * i / 5) - 1] for i in range(1, 5)]
    part = np.array([sum(p > edge for edge in edges) for p in popularity])
    slow = [slow_auc(scores[part == i], noisy[part == i]) for i in range(5)]
    assert found["fifths"] == pytest.approx(slow)
    assert found["overall"] == pytest.approx(slow_auc(scores, noisy))
    assert found["within"] == pytest.approx(np.mean([value for value in slow if value is not None]))
    assert measures.rarity_auc(noisy, popularity) == pytest.approx(slow_auc(-popularity, noisy))


def test_the_parts_are_equally_large_and_a_part_of_one_class_is_none() -> None:
    popularity = np.random.default_rng(0).permutation(100)
    assert np.bincount(measures._parts(popularity, 5)).tolist() == [20] * 5
    noisy = (popularity < 20) | (popularity % 2 == 0)
    found = measures.within_popularity(noisy.astype(float), noisy, popularity)
    assert found["fifths"] == [None, 1.0, 1.0, 1.0, 1.0]
    assert found["within"] == 1.0
    nothing = measures.within_popularity(popularity, popularity < 0, popularity)
    assert nothing == {"overall": None, "fifths": [None] * 5, "within": None}
    with pytest.raises(ValueError, match="got NaN"):
        measures.auc([0.0, np.nan], [True, False])


def test_the_spread_of_the_weights() -> None:
    suspicion = np.random.default_rng(1).permutation(100) / 100
    popularity = np.random.default_rng(2).permutation(100)
    popularity[popularity < 40] = 3
    found = measures.weight_spread(suspicion, suspicion, popularity)
    assert found["by_suspicion"] == pytest.approx([0.045 + 0.1 * i for i in range(10)])
    assert found["by_popularity"][1] is None  # the 40 equal ones are one part
    assert found["by_popularity"][0] == pytest.approx(suspicion[popularity == 3].mean())
    assert found["by_popularity"][4] == pytest.approx(suspicion[popularity >= 80].mean())


def test_the_popularity_of_train_interactions(clicks: InteractionData) -> None:
    found = measures.train_popularity(clicks)
    for place in range(0, len(found), 997):
        assert found[place] == np.sum(clicks.train_items == clicks.train_items[place])


def test_head_items_stop_at_half_and_count_clean_clicks_alone(clicks: InteractionData) -> None:
    items = np.repeat(np.arange(4), (2, 4, 2, 9))
    data = replace(clicks, n_items=5, train_items=items, train_clean=items < 3)
    assert measures.head_items(data).tolist() == [False, True, False, False, False]
    unflagged = replace(data, train_clean=None)
    assert measures.head_items(unflagged).tolist() == [False, False, False, True, False]
