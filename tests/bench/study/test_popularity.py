from __future__ import annotations

from collections import Counter
from math import log2
from pathlib import Path

import pytest

from bench.data.interaction_data import InteractionData
from bench.data.planted_preferences import generate
from bench.study.popularity import by_popularity, main


def by_hand(data: InteractionData, k: int) -> tuple[float, float]:
    """Mean Recall@K and NDCG@K, user by user; equal counts rank the lower id first."""
    counts = Counter(data.train_items.tolist())
    ranked = sorted(range(data.n_items), key=lambda item: (-counts[item], item))
    seen: dict[int, set[int]] = {}
    wanted: dict[int, set[int]] = {}
    for pairs, users, items in (
        (seen, data.train_users, data.train_items),
        (seen, data.valid_users, data.valid_items),
        (wanted, data.test_users, data.test_items),
    ):
        for user, item in zip(users.tolist(), items.tolist(), strict=True):
            pairs.setdefault(user, set()).add(item)
    recalls, gains = [], []
    for user, items in wanted.items():
        top = [item for item in ranked if item not in seen[user]][:k]
        places = [place for place, item in enumerate(top) if item in items]
        ideal = sum(1 / log2(place + 2) for place in range(min(k, len(items))))
        recalls.append(len(places) / len(items))
        gains.append(sum(1 / log2(place + 2) for place in places) / ideal)
    return sum(recalls) / len(recalls), sum(gains) / len(gains)


def test_ranks_unseen_items_by_their_training_interactions() -> None:
    data = generate(0, n_users=40, n_items=60, interactions_per_user=12)
    metrics = by_popularity(data)
    for k in (5, 20):
        recall, ndcg = by_hand(data, k)
        assert metrics[f"recall@{k}"] == pytest.approx(recall, rel=1e-9)
        assert metrics[f"ndcg@{k}"] == pytest.approx(ndcg, rel=1e-9)


def test_the_command_reads_a_folder_and_prints_the_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = "".join(f"3\t{item}\n" for item in range(40))
    (tmp_path / "train.tsv").write_text("0\t1\n1\t1\n1\t2\n2\t0\n" + catalogue)
    (tmp_path / "valid.tsv").write_text("0\t2\n")
    (tmp_path / "test.tsv").write_text("2\t1\n")
    main(["--data", str(tmp_path)])
    out = capsys.readouterr().out
    assert "recall@5 1.0000" in out
    assert "ndcg@20 1.0000" in out
