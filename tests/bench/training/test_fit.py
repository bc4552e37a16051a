from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from bench.data.interaction_data import InteractionData
from bench.data.planted_preferences import generate
from bench.training.fit import Training, fit, rankings, set_up
from bench.training.metrics import ScoresError
from bench.training.recipes import RECIPES


class _Ranking:
    """Gives validation the values of a script, one a call."""

    def __init__(self, values: list[float]) -> None:
        self._values = iter(values)

    def of_model(self, model: nn.Module) -> dict[str, float]:
        return {"ndcg@20": next(self._values)}


@pytest.fixture(scope="module")
def data() -> InteractionData:
    return generate(0, n_users=30, n_items=60, interactions_per_user=10)


def training(data: InteractionData, epochs: int) -> Training:
    return set_up(replace(RECIPES["neumf"], epochs=epochs), data, seed=0)


def curve(
    data: InteractionData, valid: list[float], *, patience: int | None, evaluate_every: int = 1
) -> tuple[list[int], int]:
    epochs: list[int] = []
    run = fit(
        training(data, epochs=10),
        lambda: epochs.append(len(epochs) + 1),
        (_Ranking(valid), _Ranking(valid)),  # type: ignore[arg-type]
        patience=patience,
        evaluate_every=evaluate_every,
    )
    return epochs, run.best_epoch


def test_stops_when_patience_has_passed_since_the_best_epoch(data: InteractionData) -> None:
    valid = [0.1, 0.2, 0.3, 0.2, 0.3, 0.2, 0.4, 0.4, 0.4, 0.4]
    assert curve(data, valid, patience=3) == ([1, 2, 3, 4, 5, 6], 3)
    assert curve(data, valid, patience=4) == (list(range(1, 11)), 7)


def test_patience_counts_epochs_not_evaluations(data: InteractionData) -> None:
    assert curve(data, [0.3, 0.2, 0.1, 0.1, 0.1], patience=3, evaluate_every=2) == (
        [1, 2, 3, 4, 5, 6],
        2,
    )


def test_without_patience_all_epochs_are_trained(data: InteractionData) -> None:
    assert curve(data, [0.5] + [0.1] * 9, patience=None) == (list(range(1, 11)), 1)


def test_a_run_may_be_ranked_on_other_data_than_it_is_trained_on(data: InteractionData) -> None:
    fewer = replace(data, train_users=data.train_users[:50], train_items=data.train_items[:50])
    started = training(fewer, epochs=1)
    seen = sum(int((labels == 1).sum()) for _, _, labels in started.batches)
    run = fit(started, lambda: None, rankings(data))
    assert seen == 50
    assert set(run.test) == {"recall@5", "recall@20", "ndcg@5", "ndcg@20"}


def test_a_run_may_end_at_an_error_with_its_best_epoch_so_far(data: InteractionData) -> None:
    def run_epoch() -> None:
        epochs.append(1)
        if len(epochs) == 3:
            raise ScoresError("no numbers")

    epochs: list[int] = []
    values = [0.2, 0.1, 0.3]
    rankings = (_Ranking(values), _Ranking(values))
    run = fit(
        training(data, 10), run_epoch, rankings, ends_at=(ScoresError,)  # type: ignore[arg-type]
    )
    assert (run.best_epoch, run.best_valid, len(epochs)) == (1, 0.2, 3)
    assert run.ended_by == "ScoresError: no numbers"
    epochs.clear()
    with pytest.raises(ScoresError):
        fit(training(data, 10), run_epoch, (_Ranking(values), _Ranking(values)))  # type: ignore[arg-type]
