"""A step: the weights it is taken with, and what it looks up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.mixture  # noqa: F401  (its import may draw from the streams: test_plain_equality)
import torch
from torch import Tensor

from bench.models.lightgcn import bpr_loss
from sgdl_wrap import Phase, SelfGuidedDenoiser
from sgdl_wrap.batches.interactions import Interactions
from tests.support.models_zoo import (
    SWITCHING,
    assert_identical,
    batches_of,
    build,
    labelled_epoch,
    snapshot,
    stream_states,
    tiny_data,
    tiny_denoiser,
    train,
    triple_epoch,
    without,
)
from tests.support.resealed import resealed

DATA = tiny_data()
N = len(DATA)
INPUTS = ("loss", "smoothed_loss", "memorization_rate")


# ------------------------------------------------------------------ weights


def leaves_no_trace(denoiser: SelfGuidedDenoiser, batch: Any) -> Tensor:
    """sample_weights(batch), having changed nothing."""
    optimizer = denoiser._optimizers[0]
    before, streams = snapshot(denoiser.model, optimizer), stream_states()
    known = without(denoiser.state_dict(), "seconds")
    weights = denoiser.sample_weights(batch)
    assert_identical(snapshot(denoiser.model, optimizer), before)
    assert stream_states() == streams
    assert_identical(without(denoiser.state_dict(), "seconds"), known)
    assert torch.equal(denoiser.sample_weights(batch), weights)
    assert not weights.requires_grad
    return weights


@pytest.mark.parametrize("kind", ["lightgcn", "neumf", "batchnorm"])
def test_sample_weights_are_ones_then_within_zero_and_one(kind: str) -> None:
    denoiser = build(kind, config=SWITCHING.but(weight_normalization="none"))
    batch = batches_of(kind, 7)[0]
    assert leaves_no_trace(denoiser, batch).tolist() == [1.0] * len(batch[0])
    train(denoiser, kind)
    assert denoiser.phase is Phase.SELF_GUIDED
    train(denoiser, kind, epochs=2, start=1)
    weights = leaves_no_trace(denoiser, batch)
    assert weights.shape == (len(batch[0]),)
    assert bool(((weights > 0) & (weights < 1)).all())
    assert float(weights.std()) > 0


def test_weights_are_the_learned_function_of_the_loss() -> None:
    denoiser = build(
        config=SWITCHING.but(weight_inputs=("loss",), weight_normalization="none")
    )
    train(denoiser, epochs=3)
    batch = triple_epoch(DATA, 5)[0]
    psi = denoiser.state_dict()["self_guided"]["learner"]["weighting"]
    first, first_bias, second, second_bias = (psi[n].numpy() for n in (
        "hidden.weight", "hidden.bias", "output.weight", "output.bias"
    ))  # fmt: skip
    losses = bpr_loss(denoiser.model, batch).detach().numpy()
    hidden = np.maximum(losses[:, None] @ first.T + first_bias, 0)
    expected = 1 / (1 + np.exp(-(hidden @ second[0] + second_bias[0])))
    assert denoiser.sample_weights(batch).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_every_batch_has_weights_of_mean_one() -> None:
    denoiser = build()
    train(denoiser, epochs=3)
    assert float(denoiser.sample_weights(triple_epoch(DATA, 5)[1]).mean()) == pytest.approx(1.0)
    assert [record.mean_weight for record in denoiser.history] == pytest.approx([1.0] * 3)


def test_the_loss_of_a_step_is_weighted_by_the_weights_it_was_taken_with() -> None:
    """With φ and ψ at rest, the weights before a step are those of the step."""
    denoiser = build(config=SWITCHING.but(meta_lr=0.0, denoising_scheduler="none"))
    train(denoiser, epochs=2)
    batch = triple_epoch(DATA, 2)[0]
    weights = denoiser.sample_weights(batch)
    losses = bpr_loss(denoiser.model, batch).detach()
    denoiser.before_step(batch)
    assert float(denoiser.step(batch)) == pytest.approx(float((weights * losses).mean()), rel=1e-5)


def test_the_gradient_of_a_step_is_that_of_the_weighted_loss_and_the_penalty() -> None:
    denoiser = build(config=SWITCHING)
    train(denoiser, epochs=2)
    batch = triple_epoch(DATA, 2)[0]
    denoiser.before_step(batch)
    weights = denoiser.sample_weights(batch)  # by the ψ just learned
    model = denoiser.model
    parameters = list(model.parameters())
    objective = (weights * bpr_loss(model, batch)).mean() + sum(
        p.square().sum() for p in parameters
    )
    expected = torch.autograd.grad(objective, parameters)
    denoiser.step(batch, penalty=sum(p.square().sum() for p in parameters))
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-5, atol=1e-7)


def test_without_denoising_learning_the_memorized_alone_are_trained_on() -> None:
    denoiser = build("neumf", config=SWITCHING.but(denoising_learning=False))
    train(denoiser, "neumf", epochs=2)
    memorized = set(denoiser.state_dict()["self_guided"]["memorized"].tolist())
    assert 0 < len(memorized) < N
    for users, items, labels in labelled_epoch(DATA, 4):
        weights = denoiser.sample_weights((users, items, labels))
        ids = DATA.ids(users, items).tolist()
        expected = [  # negatives keep their weight
            1.0 if label == 0 or number in memorized else 0.0
            for number, label in zip(ids, labels.tolist(), strict=True)
        ]
        assert weights.tolist() == expected
    assert denoiser.state_dict()["self_guided"]["learner"] is None


def test_weights_can_read_what_is_known_of_an_interaction() -> None:
    config = SWITCHING.but(weight_inputs=("observed",), meta_lr=0.1)
    denoiser = build("neumf", config=config)
    train(denoiser, "neumf", epochs=3)
    users, items, labels = labelled_epoch(DATA, 5)[0]
    weights = denoiser.sample_weights((users, items, labels))
    assert len(set(weights[labels > 0].tolist())) == 1
    assert len(set(weights[labels == 0].tolist())) == 1
    assert float(weights[labels > 0][0]) != float(weights[labels == 0][0])


@pytest.mark.parametrize("kind", ["lightgcn", "neumf"])
def test_what_suits_the_loss_is_seen_from_the_batches_and_saved(kind: str) -> None:
    denoiser = build(kind)
    train(denoiser, kind, epochs=2)
    guided = denoiser.state_dict()["self_guided"]
    expected = ["suspicion"] if kind == "lightgcn" else ["loss"]
    assert guided["settled"]["weight_inputs"] == expected
    again = build(kind)
    again.load_state_dict(denoiser.state_dict())
    assert again.state_dict()["self_guided"]["settled"] == guided["settled"]
    before = guided["memorized"].tolist()
    train(again, kind, epochs=2, start=2)
    assert again.state_dict()["self_guided"]["memorized"].tolist() != before  # M follows


@pytest.mark.parametrize("kind", ["lightgcn", "neumf"])
def test_a_state_goes_on_with_what_it_was_settled_on(kind: str) -> None:
    """As one does that comes from a release whose defaults were others."""
    denoiser = build(kind)
    train(denoiser, kind, epochs=2)
    state = denoiser.state_dict()
    state["self_guided"]["settled"]["memorized_data"] = "switch"
    before = state["self_guided"]["memorized"].tolist()
    again = build(kind)
    again.load_state_dict(resealed(state))
    train(again, kind, epochs=2, start=2)
    assert again.state_dict()["self_guided"]["memorized"].tolist() == before


# ------------------------------------------------------------------ how it is done


def test_a_batch_of_the_second_phase_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guidance, ψ's step, the weights and what is written down all read the same answer."""
    sizes: list[int] = []
    find = Interactions.find

    def listening(self: Interactions, users: np.ndarray, items: np.ndarray, **more: Any) -> Any:
        sizes.append(len(users))
        return find(self, users, items, **more)

    monkeypatch.setattr(Interactions, "find", listening)
    denoiser = tiny_denoiser(DATA, config=SWITCHING.but(weight_inputs=INPUTS))
    for epoch in range(3):
        second = denoiser.phase is Phase.SELF_GUIDED
        if second:
            sizes.clear()
        batches = triple_epoch(DATA, epoch)
        for batch in batches:
            denoiser.before_step(batch)
            denoiser.step(batch)
        denoiser.state_dict()  # writes the last step down
        if second:
            assert sizes == [len(batch[0]) for batch in batches]
    assert denoiser.phase is Phase.SELF_GUIDED
