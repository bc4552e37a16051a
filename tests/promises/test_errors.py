"""One clear error for each mistake; nothing of the user's has changed, and training goes on."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.mixture  # noqa: F401  (its import may draw from the streams: test_plain_equality)
import torch
from torch import Tensor, nn

import sgdl_wrap
from bench.models.lightgcn import bpr_loss
from sgdl_wrap import (
    DenoiserConfig,
    DenoiserError,
    DenoiserWarning,
    LossError,
    NoiseRateError,
    OptimizerError,
    OrderError,
    Phase,
    ScoreError,
    SelfGuidedDenoiser,
    SwitchError,
    Variants,
)
from tests.support.models_zoo import (
    SWITCHING,
    assert_identical,
    labelled_epoch,
    snapshot,
    stream_states,
    tiny_denoiser,
    tiny_lightgcn,
    train,
    without,
)
from tests.support.scenes import BATCHES, DATA, PER_EPOCH, PHASES, Scene

# ------------------------------------------------------------------ the loss

SPOILED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "scalar": (
        lambda losses: losses.mean(),
        r"^Expected per-sample losses of shape \(50,\), got a scalar in {where}\. "
        r"Return unreduced losses \(reduction='none'\) from loss_fn\.$",
    ),
    "wrong length": (
        lambda losses: losses[:-1],
        r"^Expected per-sample losses of shape \(50,\), got \(49,\) in {where}\. "
        r"Return one loss per sample from loss_fn\.$",
    ),
    "two dimensions": (
        lambda losses: losses[:, None],
        r"^Expected per-sample losses of shape \(50,\), got \(50, 1\) in {where}\.",
    ),
    "no tensor": (
        lambda losses: losses.tolist(),
        r"^Expected loss_fn to return a tensor of shape \(50,\), got list in {where}\.",
    ),
    "nan": (
        lambda losses: torch.where(torch.arange(len(losses)) < 3, torch.nan, losses),
        r"^Expected finite losses, got 3 NaN or Inf among 50 in {where}\. Skip the batch",
    ),
    "inf": (
        lambda losses: torch.cat([losses[:-2], losses[-2:] * torch.inf]),
        r"^Expected finite losses, got 2 NaN or Inf among 50 in {where}\.",
    ),
    "no gradient": (
        lambda losses: losses.detach(),
        r"^Expected losses with a gradient, got torch\.float32 without one in {where}\.",
    ),
    "a dict of tasks": (
        lambda losses: {"click": losses, "buy": losses},
        r"^Expected loss_fn to return a tensor of shape \(50,\), got dict in {where}\. Of several "
        r"tasks, return the sum for each sample\. What is no loss of a sample, hand to "
        r"step\(batch, penalty=\.\.\.\)\.$",
    ),
    "a tuple of tasks": (
        lambda losses: (losses, losses.mean()),
        r"^Expected loss_fn to return a tensor of shape \(50,\), got tuple in {where}\. Of several",
    ),
    "a column a task": (
        lambda losses: torch.stack([losses, losses], dim=1),
        r"^Expected per-sample losses of shape \(50,\), got \(50, 2\) in {where}\. Of several "
        "tasks, return the sum",
    ),
    "integers": (
        lambda losses: (losses * 10).long(),
        r"^Expected losses with a gradient, got torch\.int64 without one in {where}\.",
    ),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_loss_that_is_wrong_from_the_start_is_refused_at_the_first_batch(kind: str) -> None:
    spoil, message = SPOILED[kind]
    scene = Scene()
    scene.spoil = spoil
    # of NaN the trial tells nothing: the step itself names it
    where = "batch 1 of epoch 1" if kind in ("nan", "inf") else "the first batch"
    with scene.refused(LossError, message.format(where=where)):
        scene.train()
    scene.batches = iter(BATCHES)
    scene.goes_on()


@pytest.mark.parametrize("kind", SPOILED)
def test_a_wrong_loss_is_refused_at_construction_where_there_is_an_example(kind: str) -> None:
    spoil, message = SPOILED[kind]
    model = tiny_lightgcn(DATA)
    before, streams = snapshot(model), stream_states()
    with pytest.raises(LossError, match=message.format(where="the first batch")):
        SelfGuidedDenoiser(
            model, torch.optim.SGD(model.parameters(), lr=0.1),
            lambda model, batch: spoil(bpr_loss(model, batch)),
            interactions=DATA.tensors(), example_batch=BATCHES[0],
        )
    assert_identical(snapshot(model), before)
    assert stream_states() == streams


@PHASES
@pytest.mark.parametrize("kind", SPOILED)
def test_a_loss_that_goes_wrong_later_is_refused_with_the_batch_named(
    kind: str, phase: Phase
) -> None:
    spoil, message = SPOILED[kind]
    scene = Scene(phase)
    epoch, batch = (2, 3) if phase is Phase.SELF_GUIDED else (1, 3)
    if phase is Phase.MEMORIZATION:
        scene.train()
        scene.train()
    scene.spoil = spoil
    with scene.refused(LossError, message.format(where=f"batch {batch} of epoch {epoch}")):
        scene.train()
    scene.goes_on()


@PHASES
def test_a_loss_that_raises_is_the_users_error_and_training_goes_on(phase: Phase) -> None:
    scene = Scene(phase)

    def fail(losses: Tensor) -> Tensor:
        raise ZeroDivisionError("mine")

    if phase is Phase.MEMORIZATION:
        scene.train()
    scene.spoil = fail
    before = snapshot(scene.model, scene.optimizer)
    with pytest.raises(ZeroDivisionError, match=r"^mine$"):
        scene.train()
    assert_identical(snapshot(scene.model, scene.optimizer), before)
    scene.goes_on()


@PHASES
@pytest.mark.parametrize(
    "penalty", [torch.ones(2, requires_grad=True), 0.5], ids=["vector", "number"]
)
def test_a_penalty_that_is_no_scalar_tensor_is_refused(phase: Phase, penalty: Any) -> None:
    scene = Scene(phase)
    batch = next(scene.batches)
    scene.denoiser.before_step(batch)
    with scene.refused(LossError, "^Expected penalty to be a scalar tensor, got"):
        scene.denoiser.step(batch, penalty=penalty)
    scene.denoiser.step(batch)  # the batch still waits, and counts once
    scene.goes_on()


# ------------------------------------------------------------------ the optimizer


def test_parameters_outside_the_optimizer_are_named() -> None:
    model = tiny_lightgcn(DATA)
    optimizer = torch.optim.SGD([model.user_embedding.weight], lr=0.1)
    message = (
        "^Expected every trainable parameter in the optimizer, got 1 outside it: "
        r"item_embedding\.weight\. Add them to the optimizer, or call requires_grad_\(False\)"
    )
    with pytest.raises(OptimizerError, match=message):
        tiny_denoiser(DATA, model=model, optimizer=optimizer)
    model.item_embedding.requires_grad_(False)
    tiny_denoiser(DATA, model=model, optimizer=optimizer)


def test_two_optimizers_may_share_the_parameters_between_them() -> None:
    model = tiny_lightgcn(DATA)
    one = torch.optim.SGD([model.user_embedding.weight], lr=0.1)
    other = torch.optim.Adam([model.item_embedding.weight], lr=0.1)
    denoiser = tiny_denoiser(DATA, model=model, optimizer=[one, other])
    before = snapshot(model)["parameters"]
    denoiser.before_step(BATCHES[0])
    denoiser.step(BATCHES[0])
    after = snapshot(model)["parameters"]
    assert all(not torch.equal(after[name], before[name]) for name in before)


def test_lbfgs_no_optimizer_and_nothing_to_train_are_refused() -> None:
    model = tiny_lightgcn(DATA)
    with pytest.raises(OptimizerError, match=r"^Expected an optimizer that steps without a clos"):
        tiny_denoiser(DATA, model=model, optimizer=torch.optim.LBFGS(model.parameters()))
    with pytest.raises(OptimizerError, match=r"^Expected an optimizer, got none"):
        SelfGuidedDenoiser(model, [], bpr_loss, interactions=DATA.tensors())
    with pytest.raises(OptimizerError, match=r"^Expected a torch\.optim\.Optimizer, got Linear"):
        SelfGuidedDenoiser(model, nn.Linear(1, 1), bpr_loss, interactions=DATA.tensors())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.requires_grad_(False)
    with pytest.raises(OptimizerError, match=r"^Expected trainable parameters, got a model with "):
        tiny_denoiser(DATA, model=model, optimizer=optimizer)


# ------------------------------------------------------------------ scores


@pytest.mark.parametrize(
    ("score_fn", "message"),
    [
        (
            lambda model, users, items: model(users, items)[:, None],
            r"^Expected score_fn to return shape \(8,\), got \(8, 1\)\. Return one score per pair",
        ),
        (
            lambda model, users, items: model(users, items).tolist(),
            r"^Expected score_fn to return a tensor of shape \(8,\), got a list",
        ),
        (
            lambda model, users, items: model(users, items) * torch.nan,
            r"^Expected scores that are finite or -inf, got 8 NaN among 8, the first for user 0 ",
        ),
        (
            lambda model, users, items: model(users, items).to(torch.complex64),
            r"^Expected real scores, got torch\.complex64\. Return a real number per pair",
        ),
        (
            lambda model, users, items: model.missing(users),
            r"^Expected scores of 8 pairs, got AttributeError: .*Pass score_fn",
        ),
        (
            lambda model, users, items: model(users),
            r"^Expected scores of 8 pairs, got TypeError: .*Pass score_fn",
        ),
    ],
    ids=["shape", "list", "nan", "complex", "attribute", "signature"],
)
def test_scores_that_are_wrong_are_refused_at_construction(score_fn: Any, message: str) -> None:
    model = tiny_lightgcn(DATA)
    before, streams = snapshot(model), stream_states()
    with pytest.raises(ScoreError, match=message):
        tiny_denoiser(DATA, model=model, score_fn=score_fn)
    assert_identical(snapshot(model), before)
    assert stream_states() == streams


def test_items_that_the_model_has_no_row_for_are_refused_at_construction() -> None:
    with pytest.raises(
        ScoreError,
        match=rf"^Expected a score of each item from 0 to {DATA.n_items}, got \w+ of the last: .*"
        r"Lower n_items, or give the model a row for each item\.$",
    ):
        tiny_denoiser(DATA, "neumf", n_items=DATA.n_items + 1)


def test_items_numbered_from_1_are_asked_about_where_the_last_has_no_row() -> None:
    users, items = DATA.tensors()
    for first, asked in ((1, True), (0, False)):
        pairs = (users, items + first)
        with pytest.raises(ScoreError, match=r"of the last: .* a row for each item\.") as caught:
            tiny_denoiser(DATA, "neumf", interactions=pairs, n_items=DATA.n_items + 1)
        question = " Item 0 is in no pair: are items numbered from 1?"
        assert str(caught.value).endswith(question) is asked


def scoring(
    spoil: Callable[[Tensor, Tensor], Tensor], calls: list[tuple[Tensor, Tensor]] | None = None
) -> Any:
    """A score_fn whose scores go through `spoil(scores, items)`, and that keeps its calls."""

    def score(model: nn.Module, users: Tensor, items: Tensor) -> Tensor:
        if calls is not None:
            calls.append((users, items))
        return spoil(model(users, items), items)

    return score


UNCLICKED = 30  # an item that no pair has
PADDED = dataclasses.replace(DATA, n_items=UNCLICKED + 1)  # the model has a row for it


@pytest.mark.parametrize(
    ("value", "name"), [(torch.nan, "NaN"), (torch.inf, r"\+inf")], ids=["nan", "inf"]
)
def test_an_item_in_no_pair_whose_score_is_none_is_refused_at_construction(
    value: float, name: str
) -> None:
    def score(scores: Tensor, items: Tensor) -> Tensor:
        return scores.masked_fill(items == UNCLICKED, value)

    with pytest.raises(
        ScoreError,
        match=rf"^Expected scores that are finite or -inf, got 1 {name} among 31, the first for "
        r"user 0 and item 30\. Return -inf for items that are never recommended, such as padding\. "
        r"For others, look where the model or score_fn divides by zero or overflows\.$",
    ):
        tiny_denoiser(PADDED, score_fn=scoring(score))


@pytest.mark.parametrize("middle", [False, True])
def test_an_item_that_cannot_be_scored_is_refused_at_construction(middle: bool) -> None:
    def score(scores: Tensor, items: Tensor) -> Tensor:
        if bool((items == (UNCLICKED - 7 if middle else UNCLICKED)).any()) and len(items) != 8:
            raise KeyError("no such item")
        return scores

    message = (
        r"^Expected scores of 31 items for user 0 in one call, got KeyError: .*\. Score every item "
        r"from 0 to 30\. If so many pairs are too many, lower ranking_chunk\.$"
        if middle
        else r"^Expected a score of each item from 0 to 30, got KeyError of the last: .*\. Lower "
        r"n_items, or give the model a row for each item\.$"
    )
    with pytest.raises(ScoreError, match=message):
        tiny_denoiser(PADDED, score_fn=scoring(score))


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [(31, list(range(31))), (1000, list(range(31))), (4, [0, 10, 20, 30]), (3, [0, 15, 30]),
     (7, [0, 5, 10, 15, 20, 25, 30]), (2, [0, 30]), (1, [30])],
)  # fmt: skip
def test_the_catalogue_is_tried_in_one_call_of_a_ranking_chunk_at_most(
    chunk: int, expected: list[int]
) -> None:
    calls: list[tuple[Tensor, Tensor]] = []
    config = SWITCHING.but(ranking_chunk=chunk)
    tiny_denoiser(PADDED, score_fn=scoring(lambda scores, _: scores, calls), config=config)
    assert len(calls) == 2  # the other is of observed pairs
    users, items = calls[1]
    assert items.tolist() == expected
    assert users.tolist() == [0] * len(expected)


def test_a_catalogue_past_what_a_product_of_two_ids_may_be_is_tried_evenly() -> None:
    n_items, calls = 2**55 + 5, []
    tiny_denoiser(
        DATA, n_items=n_items, config=SWITCHING,
        score_fn=scoring(lambda scores, _: scores, calls),
        model=Hashing(DATA),
    )  # fmt: skip
    items = calls[1][1]
    assert [int(items[0]), int(items[-1])] == [0, n_items - 1]
    assert len(items) == SWITCHING.ranking_chunk
    gaps = items.diff()
    assert int(gaps.max() - gaps.min()) <= 1


class Hashing(nn.Module):
    """Rows for ids of any size."""

    def __init__(self, data: Any) -> None:
        super().__init__()
        self.model = tiny_lightgcn(data)
        self.data = data

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return self.model(users % self.data.n_users, items % self.data.n_items)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("ranking", ["sampled", "full"])
def test_masking_padding_with_minus_infinity_ranks_it_as_the_least_score_does(
    ranking: Any, dtype: torch.dtype
) -> None:
    """Through both phases, with a pointwise loss that asks for scores of negatives, too."""
    reports = []
    for value in (-torch.inf, torch.finfo(dtype).min):

        def masked(scores: Tensor, items: Tensor, value: float = value) -> Tensor:
            padding = (items == UNCLICKED) | (items == 3)  # some have clicked 3
            return scores.to(dtype).masked_fill(padding, value)

        config = SWITCHING.but(ranking=ranking, guidance_interval=1, noise_rate_shift=0.9)
        denoiser = tiny_denoiser(PADDED, "neumf", score_fn=scoring(masked), config=config)
        train(denoiser, "neumf", epochs=3)
        assert denoiser.phase is Phase.SELF_GUIDED
        reports.append(denoiser.report())
    for name in reports[0].dtype.names:
        if name in ("suspicion", "noise_posterior"):  # a least score is far from all others
            continue
        first, second = (np.sort(report, order=["user", "item"])[name] for report in reports)
        assert first.tobytes() == second.tobytes()


def test_a_single_score_may_be_a_scalar() -> None:
    # a model that ends in squeeze(), of which one negative's score is asked in Phase II
    seen = []

    def squeezed(model: Any, users: Tensor, items: Tensor) -> Tensor:
        seen.append(len(users))
        return model(users, items)[:, None].squeeze()

    config = SWITCHING.but(guidance_interval=1)
    denoiser = tiny_denoiser(DATA, "neumf", score_fn=squeezed, config=config)
    train(denoiser, "neumf", epochs=2)
    users, items, labels = labelled_epoch(DATA, 2)[0]
    rows = torch.cat([labels.nonzero()[:, 0], (labels == 0).nonzero()[0]])  # one negative
    batch = (users[rows], items[rows], labels[rows])
    denoiser.before_step(batch)
    denoiser.step(batch)
    assert seen[-1] == 1


def test_scores_that_go_wrong_later_leave_the_epoch_to_be_ended_again() -> None:
    spoiled = [False]

    def score(model: nn.Module, users: Tensor, items: Tensor) -> Tensor:
        return model(users, items) * (torch.nan if spoiled[0] else 1.0)

    scene = Scene(score_fn=score)
    for _ in range(PER_EPOCH - 1):
        scene.train()
    spoiled[0] = True
    with scene.refused(ScoreError, r"^Expected scores that are finite or -inf, got \d+ NaN among"):
        scene.denoiser.end_epoch()
    assert scene.denoiser.history == []
    spoiled[0] = False
    scene.goes_on()
    record = scene.denoiser.end_epoch()
    assert record is not None
    assert record.epoch == 1


# ------------------------------------------------------------------ order


@PHASES
def test_step_before_before_step_is_refused(phase: Phase) -> None:
    scene = Scene(phase)
    message = r"^Expected before_step\(batch\) before step\(batch\), got step alone\."
    with scene.refused(OrderError, message):
        scene.denoiser.step(next(scene.batches))
    scene.goes_on()
    with scene.refused(OrderError, message):
        scene.denoiser.weighted_loss(next(scene.batches))
    scene.goes_on()


@PHASES
def test_two_before_steps_are_refused_and_the_first_stands(phase: Phase) -> None:
    scene = Scene(phase)
    first, second = next(scene.batches), next(scene.batches)
    scene.denoiser.before_step(first)
    with scene.refused(
        OrderError, r"^Expected step\(batch\) after before_step\(batch\), got a second before_step"
    ):
        scene.denoiser.before_step(second)
    scene.denoiser.step(first)
    scene.goes_on()


@PHASES
def test_a_batch_can_be_skipped(phase: Phase) -> None:
    scene = Scene(phase)
    known = scene.denoiser.state_dict()
    scene.denoiser.before_step(next(scene.batches))
    scene.denoiser.skip_batch()
    skipped = scene.denoiser.state_dict()
    for part in ("tracker", "epoch", "history"):  # nothing of it was written down
        assert_identical(without(skipped[part], "seconds"), without(known[part], "seconds"))
    scene.goes_on()


@PHASES
def test_batches_mixed_up_are_refused_and_the_right_one_can_still_come(phase: Phase) -> None:
    scene = Scene(phase)
    first, second = next(scene.batches), next(scene.batches)
    scene.denoiser.before_step(first)
    with scene.refused(
        OrderError, "^Expected step on the batch that before_step was called with, got another"
    ):
        scene.denoiser.step(second)
    scene.denoiser.step(first)
    scene.goes_on()


def test_parameters_changed_between_before_step_and_step_are_refused_in_phase_two() -> None:
    scene = Scene(Phase.SELF_GUIDED)
    batch = next(scene.batches)
    scene.denoiser.before_step(batch)
    with torch.no_grad():
        scene.model.user_embedding.weight.mul_(1.01)
    with scene.refused(
        OrderError, "^Expected unchanged parameters between before_step and step, got them changed"
    ):
        scene.denoiser.step(batch)
    scene.goes_on()


@PHASES
@pytest.mark.parametrize("call", ["end_epoch", "state_dict"])
def test_ends_and_states_between_before_step_and_step_are_refused(phase: Phase, call: str) -> None:
    scene = Scene(phase)
    batch = next(scene.batches)
    scene.denoiser.before_step(batch)
    with scene.refused(OrderError, "got it between before_step and step"):
        getattr(scene.denoiser, call)()
    scene.denoiser.step(batch)
    scene.goes_on()


def test_an_epoch_without_batches_cannot_end() -> None:
    scene = Scene()
    with scene.refused(OrderError, "^Expected end_epoch after some batches, got none"):
        scene.denoiser.end_epoch()
    scene.goes_on()


# ------------------------------------------------------------------ noise rate and switch


def constant(losses: Tensor) -> Tensor:
    return losses * 0 + 0.5


def test_losses_that_are_all_equal_give_no_noise_rate() -> None:
    scene = Scene()
    scene.spoil = constant
    scene.train()
    with scene.refused(
        NoiseRateError, r"^Expected losses that differ, got all 50 equal to 0\.5\. Check that"
    ):
        scene.denoiser.end_epoch()
    assert scene.denoiser.history == []
    scene.goes_on()
    assert scene.denoiser.end_epoch() is not None


def test_training_goes_on_after_an_automatic_end_of_epoch_failed() -> None:
    scene = Scene()
    scene.spoil = constant
    for _ in range(PER_EPOCH - 1):
        scene.train()
    with pytest.raises(NoiseRateError, match=r"^Expected losses that differ, got all 180 equal"):
        scene.train()
    scene.goes_on()


def one_user() -> tuple[Tensor, Tensor]:
    return torch.zeros(12, dtype=torch.int64), torch.arange(12)


def train_on(denoiser: SelfGuidedDenoiser, users: Tensor, items: Tensor, epochs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        order = torch.randperm(len(users), generator=generator)
        negatives = torch.randint(30, (len(users),), generator=generator)
        batch = (users[order], items[order], negatives)
        denoiser.before_step(batch)
        denoiser.step(batch)


def test_one_user_alone_works_through_both_phases() -> None:
    config = DenoiserConfig(history_length=1, variants=Variants(noise_rate_shift=0.5))
    denoiser = tiny_denoiser(DATA, interactions=one_user(), config=config)
    train_on(denoiser, *one_user(), epochs=6)
    assert denoiser.phase is Phase.SELF_GUIDED
    assert denoiser.noise_rate is not None


def test_users_of_one_interaction_each_need_global_normalization() -> None:
    users, items = torch.arange(20), torch.arange(20)
    with pytest.raises(
        NoiseRateError,
        match=r"^Expected users with two or more interactions, got one each: per-user scaling maps "
        r"every loss to 0\. Set Variants\(loss_normalization='global'\), or noise_rate\.$",
    ):
        tiny_denoiser(DATA, interactions=(users, items), config=DenoiserConfig(history_length=1))
    config = DenoiserConfig(
        history_length=1, variants=Variants(loss_normalization="global", noise_rate_shift=0.5)
    )
    denoiser = tiny_denoiser(DATA, interactions=(users, items), config=config)
    train_on(denoiser, users, items, epochs=6)
    assert denoiser.phase is Phase.SELF_GUIDED


def test_a_forced_switch_with_nothing_memorized_is_refused() -> None:
    config = DenoiserConfig(history_length=10, switch_timeout=2)
    scene = Scene(config=config)
    for _ in range(2 * PER_EPOCH - 1):
        scene.train()
    with scene.refused(
        SwitchError,
        r"^Expected memorized interactions at the forced switch after epoch 2, got none\. Raise "
        r"switch_timeout above history_length / 2 = 5 epochs, or train at a higher rate\.$",
    ):
        scene.denoiser.end_epoch()
    assert scene.denoiser.phase is Phase.MEMORIZATION
    scene.goes_on()


def test_a_switch_by_time_out_warns_once() -> None:
    config = DenoiserConfig(history_length=1, noise_rate=0.0, switch_timeout=1)
    scene = Scene(config=config)
    for _ in range(PER_EPOCH - 1):
        scene.train()
    with pytest.warns(
        DenoiserWarning,
        match=r"^Expected the memorized ratio to reach the clean ratio within 1 epochs, got "
        r"0\.\d+ of 1\.000\. Phase II begins by time-out\.$",
    ):
        scene.train()
    assert scene.denoiser.phase is Phase.SELF_GUIDED
    assert scene.denoiser.memorization_point == 1
    scene.goes_on()


# ------------------------------------------------------------------ the tree of errors


def test_every_error_is_a_denoiser_error_and_can_be_imported_from_the_package() -> None:
    errors = [
        value
        for name, value in vars(sgdl_wrap).items()
        if inspect.isclass(value) and issubclass(value, Exception) and name != "DenoiserWarning"
    ]
    assert len(errors) == 12
    assert all(issubclass(error, DenoiserError) for error in errors)
    assert issubclass(DenoiserError, ValueError)
    assert issubclass(OrderError, RuntimeError)
    assert issubclass(SwitchError, RuntimeError)
    assert issubclass(DenoiserWarning, UserWarning)


def test_scores_that_mask_what_was_seen_are_refused_at_construction() -> None:
    def masked(model: nn.Module, users: Tensor, items: Tensor) -> Tensor:
        return torch.full(users.shape, -torch.inf)

    with pytest.raises(
        ScoreError,
        match=r"^Expected scores of observed pairs, got -inf for all 8 that were tried\. Return",
    ):
        tiny_denoiser(DATA, score_fn=masked)
