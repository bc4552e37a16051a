"""The door: unusual users, and what is left to them."""

from __future__ import annotations

import pytest
import sklearn.mixture  # noqa: F401  (its import may draw from the streams: test_plain_equality)
import torch

from bench.models.lightgcn import bpr_loss
from sgdl_wrap import OrderError, Phase
from tests.support.models_zoo import (
    SWITCHING,
    MLPScorer,
    assert_identical,
    build,
    in_batch_softmax_loss,
    seeded,
    snapshot,
    tiny_data,
    tiny_lightgcn,
    tiny_neumf,
    train,
    triple_epoch,
    without,
)

DATA = tiny_data()
N = len(DATA)


def test_batches_that_cannot_be_sliced_guide_as_a_whole() -> None:
    with seeded(5):
        model = MLPScorer(DATA.n_users, DATA.n_items)
    denoiser = build(
        "other",
        model=model,
        loss_fn=in_batch_softmax_loss,
        score_fn=lambda model, users, items: (model.user(users) * model.item(items)).sum(1),
        optimizer=torch.optim.Adam([*model.user.parameters(), *model.item.parameters(),
                                    *model.tower.parameters()], lr=0.02),
        config=SWITCHING.but(guidance_size=9),
    )  # fmt: skip
    for epoch in range(4):
        for users, items, _ in triple_epoch(DATA, epoch):
            batch = (users, items)
            denoiser.before_step(batch)
            denoiser.step(batch)
    assert denoiser.phase is Phase.SELF_GUIDED
    assert denoiser.history[-1].loss < denoiser.history[0].loss
    guidance = denoiser.state_dict()["self_guided"]["guidance"]
    assert len(guidance["ids"]) == len(guidance["rows"]) <= 9
    stored = guidance["batch"]["value"]
    ids = DATA.ids(stored[0], stored[1])
    assert len(ids) > 9  # the batch is whole
    assert torch.equal(ids[guidance["rows"]], guidance["ids"])


def test_batches_that_can_be_sliced_keep_only_the_rows_that_guide() -> None:
    denoiser = build(config=SWITCHING.but(guidance_size=9))
    train(denoiser, epochs=2)
    guidance = denoiser.state_dict()["self_guided"]["guidance"]
    assert guidance["rows"] is None
    assert len(guidance["ids"]) == 9
    assert [len(column) for column in guidance["batch"]["value"]] == [9, 9, 9]


def test_frozen_parameters_stay_frozen() -> None:
    model = tiny_neumf(DATA)
    model.gmf_user.requires_grad_(False)
    kept = model.gmf_user.weight.clone()
    trained = [p for p in model.parameters() if p.requires_grad]
    denoiser = build("neumf", model=model, optimizer=torch.optim.Adam(trained, lr=0.02))
    train(denoiser, "neumf", epochs=3)
    assert denoiser.phase is Phase.SELF_GUIDED
    assert torch.equal(model.gmf_user.weight, kept)
    assert not model.gmf_user.weight.requires_grad
    assert model.gmf_user.weight.grad is None
    assert all(p.requires_grad for p in trained)


def test_double_precision_runs_through_both_phases() -> None:
    denoiser = build(model=tiny_lightgcn(DATA).double())
    train(denoiser, epochs=3)
    assert denoiser.sample_weights(triple_epoch(DATA, 5)[0]).dtype == torch.float64
    assert denoiser.history[-1].loss < denoiser.history[0].loss


def test_buffers_that_the_loader_uses_again_do_no_harm() -> None:
    """Guidance and books keep copies: a loader may overwrite its tensors after the step."""
    outcomes = []
    for reuse in (False, True):
        denoiser = build()
        states = []
        for epoch in range(3):
            for batch in triple_epoch(DATA, epoch):
                denoiser.before_step(batch)
                denoiser.step(batch)
                if reuse:
                    for column in batch:
                        column.zero_()
            states.append(without(denoiser.state_dict(), "seconds"))
        outcomes.append((snapshot(denoiser.model)["parameters"], states))
    assert_identical(outcomes[1], outcomes[0])


def test_a_seed_changes_the_guidance_and_the_same_seed_repeats_it() -> None:
    outcomes = []
    for seed in (1, 1, 2):
        denoiser = build(config=SWITCHING.but(seed=seed, guidance_size=5))
        train(denoiser, epochs=3)
        outcomes.append(snapshot(denoiser.model)["parameters"])
    assert_identical(outcomes[1], outcomes[0])
    with pytest.raises(AssertionError, match="is not"):
        assert_identical(outcomes[2], outcomes[0])


def test_weighted_loss_and_step_do_the_same_in_phase_two() -> None:
    outcomes = []
    for own in (False, True):
        model = tiny_lightgcn(DATA)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        denoiser = build(model=model, optimizer=optimizer)
        for epoch in range(3):
            for batch in triple_epoch(DATA, epoch):
                denoiser.before_step(batch)
                if own:
                    optimizer.zero_grad()
                    denoiser.weighted_loss(batch).backward()
                    optimizer.step()
                else:
                    denoiser.step(batch)
            denoiser.end_epoch()
        assert denoiser.phase is Phase.SELF_GUIDED
        records = [without(record.as_dict(), "seconds") for record in denoiser.history]
        outcomes.append((snapshot(model)["parameters"], records))
    assert_identical(outcomes[1][0], outcomes[0][0])
    assert outcomes[1][1] == outcomes[0][1]


def test_the_difference_of_weighted_and_plain_loss_weighs_a_loss_that_is_reduced_already() -> None:
    denoiser = build()
    train(denoiser, epochs=2)
    assert denoiser.phase is Phase.SELF_GUIDED
    batch, model = triple_epoch(DATA, 2)[0], denoiser.model
    denoiser.before_step(batch)
    weights = denoiser.sample_weights(batch)
    plain, weighted = denoiser.plain_and_weighted_loss(batch)
    losses = bpr_loss(model, batch)
    reduced = losses.mean()
    assert plain.item() == reduced.item()
    parameters = list(model.parameters())
    found = torch.autograd.grad(reduced + (weighted - plain), parameters, retain_graph=True)
    expected = torch.autograd.grad((weights * losses).mean(), parameters)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)
    with pytest.raises(OrderError, match=r"^Expected before_step\(batch\) before step"):
        denoiser.plain_and_weighted_loss(batch)


def test_plain_and_weighted_loss_are_one_in_phase_one_also_without_a_graph() -> None:
    denoiser = build()
    batch = triple_epoch(DATA, 0)[0]
    denoiser.before_step(batch)
    with torch.no_grad():
        plain, weighted = denoiser.plain_and_weighted_loss(batch)
    assert plain is weighted
    assert plain.item() == bpr_loss(denoiser.model, batch).mean().item()
