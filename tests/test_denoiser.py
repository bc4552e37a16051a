"""The door: epochs, records, the switch, weights, and every variant through both phases."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import sklearn.mixture  # noqa: F401  (its import may draw from the streams: test_plain_equality)
import torch
from torch import Tensor

from examples.models.lightgcn import bpr_loss
from sgdl_wrap import DenoiserConfig, EpochRecord, OrderError, Phase, SelfGuidedDenoiser
from sgdl_wrap.self_guided.learner import SelfGuidedLearner
from tests.models_zoo import (
    SWITCHING,
    WATCHING,
    MLPScorer,
    assert_identical,
    in_batch_softmax_loss,
    labelled_epoch,
    seeded,
    snapshot,
    stream_states,
    tiny_data,
    tiny_denoiser,
    tiny_lightgcn,
    tiny_neumf,
    triple_epoch,
    without,
)

DATA = tiny_data()
N = len(DATA)


def build(kind: str = "lightgcn", **changes: Any) -> SelfGuidedDenoiser:
    return tiny_denoiser(DATA, kind, **{"config": SWITCHING, **changes})


def batches_of(kind: str, epoch: int) -> list[Any]:
    return triple_epoch(DATA, epoch) if kind == "lightgcn" else labelled_epoch(DATA, epoch)


def train(
    denoiser: SelfGuidedDenoiser, kind: str = "lightgcn", epochs: int = 1, start: int = 0
) -> list[float]:
    losses = []
    with seeded(23):
        for epoch in range(start, start + epochs):
            for batch in batches_of(kind, epoch):
                denoiser.before_step(batch)
                losses.append(float(denoiser.step(batch)))
    return losses


# ------------------------------------------------------------------ epochs


def test_an_epoch_ends_with_the_last_of_n_observed_samples() -> None:
    denoiser = build(config=WATCHING)
    batches = triple_epoch(DATA, 0)
    for batch in batches[:-1]:
        denoiser.before_step(batch)
        denoiser.step(batch)
    assert denoiser.history == []
    denoiser.before_step(batches[-1])
    assert denoiser.history == []
    denoiser.step(batches[-1])
    assert [record.epoch for record in denoiser.history] == [1]


def test_sampled_negatives_do_not_count_towards_an_epoch() -> None:
    denoiser = build("neumf", config=WATCHING)
    batches = labelled_epoch(DATA, 0, batch_size=N // 2)  # 2N samples, N of them observed
    ends = []
    for batch in batches:
        denoiser.before_step(batch)
        denoiser.step(batch)
        ends.append(len(denoiser.history))
    assert ends == [0, 0, 0, 1]
    assert denoiser.history[0].loss > 0


def test_unknown_pairs_do_not_count_towards_an_epoch() -> None:
    denoiser = build(config=WATCHING)
    users, items = DATA.tensors()
    others = (items + 1) % DATA.n_items  # some of them observed, some not
    known = int((DATA.ids(users, others) >= 0).sum())
    assert 0 < known < N
    batch = (users, others, items)
    with pytest.warns(UserWarning, match=f"^Expected the pairs of .*, got {N - known} of {N}"):
        denoiser.before_step(batch)
    denoiser.step(batch)
    assert denoiser.state_dict()["epoch"]["observed"] == known
    assert denoiser.history == []


def test_repeated_rows_make_an_epoch_as_long_as_the_loader() -> None:
    users, items = DATA.tensors()
    doubled = (torch.cat([users, users[:40]]), torch.cat([items, items[:40]]))
    with pytest.warns(UserWarning, match="^Expected distinct pairs, got 40 repeats among 220"):
        denoiser = build(interactions=doubled, config=WATCHING)
    batch = (doubled[0], doubled[1], (doubled[1] + 5) % 30)
    parts = [tuple(c[start : start + 55] for c in batch) for start in range(0, 220, 55)]
    for number, part in enumerate(parts):
        denoiser.before_step(part)
        denoiser.step(part)
        assert len(denoiser.history) == (number == 3)


def test_from_the_first_end_epoch_on_epochs_end_by_calls_alone() -> None:
    denoiser = build(config=WATCHING)
    batches = triple_epoch(DATA, 0)
    for batch in batches[:2]:
        denoiser.before_step(batch)
        denoiser.step(batch)
    first = denoiser.end_epoch()
    assert isinstance(first, EpochRecord)
    assert denoiser.history == [first]
    train(denoiser, epochs=3)  # three times N samples and no call
    assert len(denoiser.history) == 1
    assert denoiser.end_epoch() is denoiser.history[-1]
    assert [record.epoch for record in denoiser.history] == [1, 2]


def test_end_epoch_after_an_automatic_end_confirms_it() -> None:
    denoiser = build(config=WATCHING)
    for epoch in range(3):
        train(denoiser, start=epoch)
        record = denoiser.end_epoch()
        assert record is not None
        assert record.epoch == epoch + 1
        assert len(denoiser.history) == epoch + 1


def test_a_record_tells_what_the_epoch_was() -> None:
    denoiser = build(config=WATCHING)
    with seeded(23):
        losses, sizes = [], []
        for batch in triple_epoch(DATA, 0):
            denoiser.before_step(batch)
            losses.append(float(denoiser.step(batch)))
            sizes.append(len(batch[0]))
    record = denoiser.history[0]
    assert record.epoch == 1
    assert record.phase is Phase.MEMORIZATION
    assert record.loss == pytest.approx(np.average(losses, weights=sizes), rel=1e-5)
    assert record.mean_weight == 1.0
    assert record.memorized_ratio == 0.0  # epochs not yet lived count as 0
    assert record.noise_rate is not None
    assert record.clean_ratio == pytest.approx(1 - record.noise_rate)
    assert denoiser.noise_rate == record.noise_rate
    assert record.seconds > 0
    denoiser.history.clear()
    assert len(denoiser.history) == 1  # a copy was handed out


# ------------------------------------------------------------------ the switch


def test_it_switches_when_the_memorized_are_as_many_as_the_clean() -> None:
    denoiser = build(config=DenoiserConfig(history_length=2))
    assert denoiser.memorization_point is None
    train(denoiser, epochs=5)
    point = denoiser.memorization_point
    assert point is not None
    assert denoiser.phase is Phase.SELF_GUIDED
    for record in denoiser.history:
        reached = record.clean_ratio is not None and record.memorized_ratio >= record.clean_ratio
        if record.epoch < point:
            assert not reached
            assert record.phase is Phase.MEMORIZATION
        elif record.epoch == point:
            assert reached
            assert record.phase is Phase.MEMORIZATION
        else:
            assert record.phase is Phase.SELF_GUIDED
            assert record.mean_weight == pytest.approx(1)
            assert record.noise_rate == denoiser.noise_rate  # frozen
    memorized = denoiser.state_dict()["self_guided"]["memorized"]  # by now: it is a ranking loss
    assert len(memorized) / N == pytest.approx(denoiser.history[-1].memorized_ratio)


def test_the_memorized_are_frozen_at_the_switch_where_asked_for() -> None:
    denoiser = build(config=SWITCHING.but(memorized_data="switch"))
    train(denoiser)
    before = denoiser.state_dict()["self_guided"]["memorized"].clone()
    train(denoiser, epochs=3, start=1)
    assert torch.equal(denoiser.state_dict()["self_guided"]["memorized"], before)
    ratios = {record.memorized_ratio for record in denoiser.history}
    assert len(ratios) > 1  # while the records go on watching


@pytest.mark.parametrize(("shift", "point"), [(-0.05, None), (0.35, 1)])
def test_the_noise_rate_shift_moves_the_switch(shift: float, point: int | None) -> None:
    config = DenoiserConfig(history_length=1, noise_rate=0.02, noise_rate_shift=shift)
    denoiser = build(config=config)
    train(denoiser, epochs=3)
    assert denoiser.memorization_point == point
    assert denoiser.history[0].clean_ratio == pytest.approx(min(1.0, 0.98 - shift))
    assert denoiser.noise_rate == 0.02


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
    moved = again.state_dict()["self_guided"]["memorized"].tolist() != before
    assert moved == (kind == "lightgcn")


# ------------------------------------------------------------------ every variant


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "full ranking": {"ranking": "full"},
    "mlp": {"denoising_scheduler": "mlp"},
    "top_f": {"denoising_scheduler": "top_f"},
    "no scheduler": {"denoising_scheduler": "none"},
    "paper similarity": {"similarity": "paper"},
    "paper similarity, mlp": {"similarity": "paper", "denoising_scheduler": "mlp"},
    "paper similarity, top_f": {"similarity": "paper", "denoising_scheduler": "top_f"},
    "no denoising learning": {"denoising_learning": False},
    "the loss alone": {"weight_inputs": ("loss",)},
    "smoothed loss": {"weight_inputs": ("smoothed_loss",)},
    "four inputs": {
        "weight_inputs": ("loss", "smoothed_loss", "memorization_rate", "observed")
    },
    "weights as they are": {"weight_normalization": "none"},
    "memorized by now": {"memorized_data": "current"},
    "memorized at the switch": {"memorized_data": "switch"},
    "all guidance": {"guidance_size": None},
    "one guidance sample": {"guidance_size": 1},
    "observed guidance": {"guidance_labels": "observed"},
    "every third step": {"guidance_interval": 3},
    "global losses": {"loss_normalization": "global", "noise_rate": None, "noise_rate_shift": 0.9},
    "a history of one": {"factor_history": 1, "gumbel_draws": 1},
    "own rates": {"assumed_lr": 0.1, "meta_lr": 0.1, "denoising_scheduler_lr": 0.1},
}


@pytest.mark.parametrize("kind", ["lightgcn", "neumf"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_runs_through_both_phases(name: str, kind: str) -> None:
    denoiser = build(kind, config=SWITCHING.but(**VARIANTS[name]))
    losses = train(denoiser, kind, epochs=4)
    assert denoiser.memorization_point is not None
    assert np.isfinite(losses).all()
    assert denoiser.history[-1].loss < denoiser.history[0].loss
    assert all(torch.isfinite(p).all() for p in denoiser.model.parameters())
    learner = denoiser.state_dict()["self_guided"]["learner"]
    if VARIANTS[name].get("denoising_learning", True):
        psi = learner["weighting"].values()
        assert all(torch.isfinite(p).all() for p in psi)
        assert any(p.any() for n, p in learner["weighting"].items() if "bias" in n)  # it learned
    scheduled = VARIANTS[name].get("denoising_scheduler", "lstm") in ("lstm", "mlp")
    alone = VARIANTS[name].get("guidance_size") == 1  # a share of 1 whatever φ says
    if learner is not None and scheduled and not alone:
        phi = learner["selector"]["network"]
        assert any(p.any() for n, p in phi.items() if "bias" in n)


@pytest.mark.parametrize("preset", [DenoiserConfig.paper(), DenoiserConfig.authors()])
def test_presets_run_through_both_phases(preset: DenoiserConfig) -> None:
    denoiser = build(config=preset.but(history_length=1, noise_rate=0.9))
    train(denoiser, epochs=3)
    assert denoiser.phase is Phase.SELF_GUIDED


def test_the_papers_similarity_runs_with_batch_norm() -> None:
    denoiser = build("batchnorm", config=SWITCHING.but(similarity="paper"))
    train(denoiser, "batchnorm", epochs=2)


@pytest.mark.parametrize("memorized_data", ["switch", "current"])
@pytest.mark.parametrize("scheduler", ["lstm", "none"])
def test_what_guides_is_memorized_by_now_or_at_the_switch(
    memorized_data: str, scheduler: str
) -> None:
    config = SWITCHING.but(
        memorized_data=memorized_data, denoising_scheduler=scheduler, guidance_interval=1
    )
    denoiser = build(config=config)
    seen = []
    for epoch in range(6):
        for batch in triple_epoch(DATA, epoch):
            denoiser.before_step(batch)
            denoiser.step(batch)
        denoiser.end_epoch()
        state = denoiser.state_dict()
        ring = state["tracker"]["ring"].numpy()  # h = 1: M is what the last epoch memorized
        now = np.flatnonzero(np.unpackbits(ring[0], count=len(denoiser.interactions)))
        seen.append((state["self_guided"]["memorized"].tolist(), now.tolist()))
        assert len(now) == round(
            denoiser.history[-1].memorized_ratio * len(denoiser.interactions)
        )
    assert len({tuple(now) for _, now in seen}) > 1  # it changes while it trains
    for guiding, now in seen:
        assert guiding == (now if memorized_data == "current" else seen[0][1])


def test_weights_are_learned_at_every_so_many_steps_only() -> None:
    config = SWITCHING.but(guidance_interval=3)
    denoiser = build(config=config)
    train(denoiser)
    course = []
    for epoch in range(1, 4):
        for batch in triple_epoch(DATA, epoch):
            denoiser.before_step(batch)
            denoiser.step(batch)
            state = denoiser.state_dict()["self_guided"]["learner"]["weighting"]
            course.append(torch.cat([p.flatten() for p in state.values()]).clone())
    changed = [not torch.equal(a, b) for a, b in pairwise(course)]
    places = [place for place, moved in enumerate(changed) if moved]
    assert len(places) >= 3
    assert set(np.diff(places).tolist()) == {3}


def test_each_visit_of_a_memorized_sample_is_noted_with_its_standardised_alignment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learned = []
    learn = SelfGuidedLearner.learn

    def listening(self: SelfGuidedLearner, *arguments: Any, **named: Any) -> Any:
        learned.append(learn(self, *arguments, **named))
        return learned[-1]

    monkeypatch.setattr(SelfGuidedLearner, "learn", listening)
    denoiser = build(config=SWITCHING.but(factor_history=1, memorized_data="switch"))
    train(denoiser)
    memorized = denoiser.state_dict()["self_guided"]["memorized"]
    counts = np.zeros(len(memorized), dtype=int)
    for epoch in (1, 2):
        for batch in triple_epoch(DATA, epoch):
            losses = bpr_loss(denoiser.model, batch).detach()
            steps = len(learned)
            denoiser.before_step(batch)
            denoiser.step(batch)
            if len(learned) == steps:  # the first batch of Phase II has no guidance yet
                continue
            products = learned[-1].products.numpy()
            aligned = (products - products.mean()) / products.std()
            state = denoiser.state_dict()["self_guided"]["learner"]["selector"]
            for row, number in enumerate(DATA.ids(batch[0], batch[1]).tolist()):
                place = int(np.searchsorted(memorized.numpy(), number))
                if place < len(memorized) and int(memorized[place]) == number:
                    counts[place] += 1
                    expected = [float(losses[row]), float(aligned[row])]
                    found = state["factor_ring"][place, 0].tolist()
                    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)
            assert state["factor_visits"].tolist() == counts.tolist()
    assert counts.max() == 2


@pytest.mark.parametrize("size", [1, 5, None])
def test_guidance_is_no_larger_than_asked_for(size: int | None) -> None:
    denoiser = build(config=SWITCHING.but(guidance_size=size, guidance_interval=1))
    train(denoiser)
    memorized = denoiser.state_dict()["self_guided"]["memorized"]
    for batch in triple_epoch(DATA, 1):
        denoiser.before_step(batch)
        denoiser.step(batch)
        guidance = denoiser.state_dict()["self_guided"]["guidance"]
        inside = torch.isin(DATA.ids(batch[0], batch[1]), memorized)
        expected = int(inside.sum()) if size is None else min(size, int(inside.sum()))
        assert len(guidance["ids"]) == expected
        assert bool(torch.isin(guidance["ids"], memorized).all())


@pytest.mark.parametrize("labels", ["both", "observed"])
def test_guidance_holds_negatives_only_where_asked_for(labels: str) -> None:
    denoiser = build("neumf", config=SWITCHING.but(guidance_labels=labels, guidance_size=None))
    train(denoiser, "neumf", epochs=4)
    negatives = 0
    for batch in labelled_epoch(DATA, 4):
        denoiser.before_step(batch)
        ids = denoiser._epochs.self_guided._guidance.ids
        negatives += int((ids < 0).sum())
        assert int((ids >= 0).sum()) > 0
        denoiser.step(batch)
    assert (negatives > 0) == (labels == "both")


@pytest.mark.parametrize(
    "make",
    [
        lambda ps: torch.optim.SGD(ps, lr=0.5, momentum=0.9, nesterov=True),
        lambda ps: torch.optim.AdamW(ps, lr=0.02),
        lambda ps: torch.optim.Adagrad(ps, lr=0.05),
        lambda ps: torch.optim.RMSprop(ps, lr=0.01),
        lambda ps: torch.optim.NAdam(ps, lr=0.02),
        lambda ps: torch.optim.Adam(ps, lr=0.02, fused=True),
        lambda ps: torch.optim.Adam([{"params": ps[:1], "lr": 0.01}, {"params": ps[1:]}], lr=0.03),
    ],
    ids=["nesterov", "adamw", "adagrad", "rmsprop", "nadam", "fused", "groups"],
)
def test_any_optimizer_trains_through_both_phases(make: Any) -> None:
    model = tiny_lightgcn(DATA)
    denoiser = build(model=model, optimizer=make(list(model.parameters())))
    train(denoiser, epochs=4)
    assert denoiser.phase is Phase.SELF_GUIDED
    assert denoiser.history[-1].loss < denoiser.history[0].loss


def test_two_optimizers_are_both_stepped_in_both_phases() -> None:
    model = tiny_neumf(DATA)
    tables = [p for name, p in model.named_parameters() if "gmf" in name or "_user" in name]
    rest = [p for p in model.parameters() if not any(p is q for q in tables)]
    optimizers = [torch.optim.Adagrad(tables, lr=0.1), torch.optim.Adam(rest, lr=0.01)]
    denoiser = build("neumf", model=model, optimizer=optimizers)
    for epoch in range(2):
        before = snapshot(model)["parameters"]
        train(denoiser, "neumf", start=epoch)
        after = snapshot(model)["parameters"]
        assert all(not torch.equal(after[name], before[name]) for name in before)
    assert denoiser.phase is Phase.SELF_GUIDED


# ------------------------------------------------------------------ unusual users


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


def test_the_history_is_a_table_in_one_line() -> None:
    pandas = pytest.importorskip("pandas")
    denoiser = build()
    train(denoiser, epochs=3)
    table = pandas.DataFrame(denoiser.history)
    assert table["epoch"].tolist() == [1, 2, 3]
    assert table["phase"].tolist() == [record.phase for record in denoiser.history]
