"""Layouts are guessed by type: what a batch marks unobserved is looked up, too."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from sgdl_wrap import (
    BatchError,
    DenoiserWarning,
    InteractionsError,
    NoiseRateError,
    OrderError,
    SelfGuidedDenoiser,
)
from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.batches.marks import chance_of_known, doubt_of_marks, most_by_chance
from sgdl_wrap.batches.samples import Samples
from tests.support.models_zoo import WATCHING, labelled_epoch, tiny_data, tiny_denoiser

DATA = tiny_data()
N = len(DATA)
USERS, ITEMS = DATA.tensors()
CAUSES = (
    r"Look for a third column that is no label \(a price, a rating minus a mean\) and for labels "
    r"that are turned round\. Mark observed pairs by labels above 0, or pass pair_fn=\.\.\., which "
    r"returns \(users, items, observed\)\.$"
)


def watching(**changes: Any) -> SelfGuidedDenoiser:
    arguments: dict[str, Any] = {"config": WATCHING, "loss_fn": all_alike, **changes}
    return tiny_denoiser(DATA, "neumf", **arguments)


def all_alike(model: Any, batch: Any) -> Any:
    """A loss of the scores alone: the third column is for no one."""
    users, items = (batch["user"], batch["item"]) if isinstance(batch, dict) else batch[:2]
    return torch.nn.functional.softplus(-model(users, items))


def centred_ratings(size: int) -> torch.Tensor:
    return torch.arange(size) % 5 - 2.0  # three of five are not above 0


@pytest.mark.parametrize("layout", ["tuple", "dict", "pair_fn"])
def test_a_rating_minus_its_mean_is_doubted_as_a_label(layout: str) -> None:
    ratings = centred_ratings(50)
    batch: Any = (USERS[:50], ITEMS[:50], ratings)
    pair_fn = None
    if layout == "dict":
        batch = {"user": batch[0], "item": batch[1], "label": ratings}
    elif layout == "pair_fn":
        pair_fn = lambda batch: (batch[0], batch[1], batch[2] > 0)  # noqa: E731
    denoiser = watching(pair_fn=pair_fn)
    with pytest.warns(
        DenoiserWarning,
        match=r"^Expected the pairs that batch 1 of epoch 1 marks unobserved to be sampled "
        rf"negatives, got 30 of 30 among the interactions\. {CAUSES}",
    ) as caught:
        denoiser.before_step(batch)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    denoiser.step(batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        denoiser.before_step(batch)


def test_a_column_of_which_nothing_is_above_zero_is_refused_at_once() -> None:
    denoiser = watching()
    with pytest.raises(
        BatchError,
        match=r"^Expected observed pairs in batch 1 of epoch 1, got all 50 pairs that it marks "
        rf"unobserved among the interactions\. {CAUSES}",
    ):
        denoiser.before_step((USERS[:50], ITEMS[:50], torch.zeros(50)))
    assert denoiser.state_dict()["epoch"]["batches"] == 0
    denoiser.before_step((USERS[:50], ITEMS[:50]))


def test_labels_that_are_turned_round_are_refused_at_once() -> None:
    users, items, labels = labelled_epoch(DATA, 0, batch_size=60)[0]
    observed = int((labels > 0).sum())
    with pytest.raises(
        BatchError,
        match=rf"^Expected observed pairs in batch 1 of epoch 1, got all {observed} pairs that it "
        rf"marks unobserved among the interactions, and none of the {60 - observed} that it marks "
        rf"observed\. {CAUSES}",
    ):
        watching().before_step((users, items, 1 - labels))


def test_ids_that_are_unknown_are_not_called_turned_round() -> None:
    users, items, labels = labelled_epoch(DATA, 0, batch_size=60)[0]
    observed = int((labels > 0).sum())
    with pytest.raises(
        BatchError,
        match=rf"^Expected observed pairs in batch 1 of epoch 1, got none of the {observed} that "
        r"it marks observed among the interactions\. Pass the training interactions",
    ):
        watching().before_step((users + 100, items, labels))


@pytest.mark.parametrize("drawn", ["uniformly", "by popularity"])
@pytest.mark.parametrize("visits", [3, 15, 40])  # of 50 items
def test_negatives_that_are_interactions_by_chance_are_taken_in_silence(
    drawn: str, visits: int
) -> None:
    rng = np.random.default_rng(visits)
    users = np.repeat(np.arange(40), visits)
    popular = 1 / np.arange(1, 51)
    popular /= popular.sum()
    items = np.concatenate([rng.choice(50, visits, replace=False, p=popular) for _ in range(40)])
    for seed in range(30):
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(users))[:40]
        other = rng.integers(50, size=40) if drawn == "uniformly" else rng.permutation(items)[:40]
        batch = tuple(
            torch.from_numpy(column)
            for column in (
                np.concatenate([users[rows]] * 2), np.concatenate([items[rows], other]),
                np.repeat([1.0, 0.0], 40),
            )
        )  # fmt: skip
        model = torch.nn.Bilinear(1, 1, 1)
        denoiser = SelfGuidedDenoiser(
            model, torch.optim.SGD(model.parameters(), lr=0.1), _bilinear,
            interactions=(users, items), n_items=50, score_fn=_score, config=WATCHING,
        )  # fmt: skip
        denoiser.before_step(batch)  # warnings are errors


def _score(model: Any, users: Any, items: Any) -> Any:
    return model(users[:, None].float(), items[:, None].float()).flatten()


def _bilinear(model: Any, batch: Any) -> Any:
    return _score(model, batch[0], batch[1]) ** 2


def test_negatives_out_of_range_and_of_unknown_users_are_not_looked_up() -> None:
    users, items, labels = labelled_epoch(DATA, 0, batch_size=60)[0]
    strangers = torch.where(labels > 0, items, torch.full_like(items, DATA.n_items + 5))
    padding = torch.where(labels > 0, users, torch.full_like(users, -1))
    for batch in ((users, strangers, labels), (padding, items, labels)):
        denoiser = watching(loss_fn=lambda model, batch: model.output.weight.sum().expand(60) ** 2)
        denoiser.before_step(batch)
    with pytest.raises(InteractionsError):
        watching().before_step((padding, items, torch.ones(60)))


def test_the_chance_is_the_users_density_or_their_items_popularity() -> None:
    # user 0 has items 0, 1, user 1 item 0, user 2 nothing; N_i = 2, 1, 0, 0
    known = Interactions([0, 0, 1], [0, 1, 0], n_items=4)
    assert chance_of_known(np.array([0]), known) == pytest.approx(3 / 3)
    assert chance_of_known(np.array([1]), known) == pytest.approx(2 / 3)
    assert chance_of_known(np.array([0, 1, 1, 2, 7]), known) == pytest.approx((3 + 2 + 2) / 3 / 5)
    flat = Interactions([0, 1, 2, 3], [0, 1, 2, 3], n_items=4)
    assert chance_of_known(np.array([0, 3]), flat) == pytest.approx(1 / 4)


def test_dense_data_may_have_many_of_them() -> None:
    assert most_by_chance(100, 0.05) == pytest.approx(15)
    assert most_by_chance(100, 0.5) == pytest.approx(75)
    assert most_by_chance(8, 0.5) > 8  # too few to tell
    assert most_by_chance(8, 0.01) < 8


# ------------------------------------------------------------------ none of them observed


def lone_negatives(number: int, size: int = 60) -> tuple[torch.Tensor, ...]:
    users, items, labels = (torch.cat(c) for c in zip(*labelled_epoch(DATA, number), strict=True))
    rows = (labels == 0).nonzero().flatten()[:size]
    return users[rows], items[rows], labels[rows]


@pytest.mark.parametrize("explicit", [False, True])
def test_batches_of_negatives_alone_are_said_once_when_a_pass_of_them_has_come(
    explicit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgdl_wrap.watching.backlog.CAPACITY", 60)
    denoiser = watching(explicit_epochs=explicit)
    said = 0
    for number in range(7):
        batch = lone_negatives(number)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            denoiser.before_step(batch)
        denoiser.step(batch)
        for warning in caught:
            said += 1
            assert number == 3  # 180 samples were written down
            assert str(warning.message) == (
                "Expected observed pairs in epoch 1, got 180 samples, none of them an observed "
                "pair. Mark observed pairs by labels above 0, or pass pair_fn=..., which returns "
                "(users, items, observed). Without observed pairs no epoch ends by itself, and "
                "switch_timeout never comes."
            )
            assert warning.filename == __file__
    assert said == 1


def test_what_came_in_the_place_of_observed_pairs_is_told() -> None:
    denoiser = watching()
    for number in range(2):
        batch = lone_negatives(number)
        denoiser.before_step(batch)
        denoiser.step(batch)
    came = (
        r"got 120 samples, none of them an observed pair\. Mark observed pairs by labels above 0, "
        r"or pass pair_fn=\.\.\., which returns \(users, items, observed\)\.$"
    )
    with pytest.raises(OrderError, match=rf"^Expected report after some batches, {came}"):
        denoiser.report()
    with pytest.raises(
        NoiseRateError,
        match=rf"^Expected observed pairs in epoch 1 to estimate a noise rate, {came}",
    ):
        denoiser.end_epoch()


def test_a_report_after_skipped_batches_alone_says_so() -> None:
    denoiser = watching(
        config=WATCHING.but(on_nonfinite="skip"),
        loss_fn=lambda model, batch: all_alike(model, batch) * batch[2],
    )
    good = (USERS[:50], ITEMS[:50], torch.ones(50))
    denoiser.before_step(good)
    denoiser.skip_batch()
    bad = (USERS[:50], ITEMS[:50], torch.full((50,), torch.inf))
    for _ in range(2):
        denoiser.before_step(bad)
        denoiser.step(bad)
    with pytest.raises(
        OrderError,
        match=r"^Expected report after some batches, got 2 batches, all of them skipped for NaN or "
        r"Inf\. Lower the learning rate, or go on from a checkpoint before them\.$",
    ):
        denoiser.report()


@pytest.mark.parametrize("users_of", [lambda u: u, lambda u: 7 * u, lambda u: u + 10**9])
def test_dense_data_is_not_doubted_however_users_are_numbered(users_of: Any) -> None:
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((30, 40)) < 0.45)
    interactions = Interactions(users_of(users), items, n_items=40)
    drawn_users = users_of(rng.integers(30, size=200))
    drawn = rng.integers(40, size=200)
    observed = np.zeros(200, dtype=bool)
    ids = interactions.find(drawn_users, drawn)
    samples = Samples(np.where(observed, ids, -1), drawn_users, drawn, observed, True)
    assert doubt_of_marks(samples, interactions) is None


def test_small_batches_are_looked_at_until_enough_pairs_are_marked() -> None:
    """Ratings less their mean as the third column: half of what is known is marked unobserved."""
    users, items = DATA.tensors()
    ratings = torch.where(torch.arange(len(users)) % 2 == 0, 0.5, -0.5)
    denoiser = tiny_denoiser(DATA, "neumf", config=WATCHING)
    batches = [(users[r], items[r], ratings[r]) for r in torch.arange(160).split(4)]
    told = []
    for batch in batches:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            denoiser.before_step(batch)
            denoiser.skip_batch()
        told += [str(one.message) for one in said]
    assert len(told) == 1
    assert "marks unobserved to be sampled negatives" in told[0]
