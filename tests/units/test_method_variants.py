"""Every variant of the method through both phases, and what each of them does."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import sklearn.mixture  # noqa: F401  (its import may draw from the streams: test_plain_equality)
import torch

from bench.models.lightgcn import bpr_loss
from sgdl_wrap import DenoiserConfig, Phase
from sgdl_wrap.guiding.learner import Learner
from tests.support.models_zoo import (
    SWITCHING,
    build,
    labelled_epoch,
    snapshot,
    tiny_data,
    tiny_lightgcn,
    tiny_neumf,
    train,
    triple_epoch,
)

DATA = tiny_data()
N = len(DATA)


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
    "suspicion": {"weight_inputs": ("suspicion", "observed")},
    "four inputs": {
        "weight_inputs": ("loss", "smoothed_loss", "memorization_rate", "observed")
    },
    "weights as they are": {"weight_normalization": "none"},
    "even weights": {"weighting_entropy": 0.5},
    "memorized by now": {"memorized_data": "current"},
    "memorized steadily": {"memorized_data": "steady"},
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


STEADY = DenoiserConfig(history_length=5, noise_rate=0.9, guidance_interval=1)


@pytest.mark.parametrize("memorized_data", [None, "switch", "current", "steady"])
@pytest.mark.parametrize("kind", ["lightgcn", "neumf"])
def test_what_guides_is_memorized_steadily_by_now_or_at_the_switch(
    kind: str, memorized_data: str
) -> None:
    expected = memorized_data
    if memorized_data is None:
        expected = "current" if kind == "lightgcn" else "steady"
    denoiser = build(kind, config=STEADY.but(memorized_data=memorized_data))
    seen = []
    for epoch in range(10):
        train(denoiser, kind, start=epoch)
        denoiser.end_epoch()
        state = denoiser.state_dict()
        if state["self_guided"] is None:
            continue
        rows = state["tracker"]["ring"].numpy()
        bits = [np.unpackbits(row, count=len(denoiser.interactions)) for row in rows]
        counts, lived = np.sum(bits, axis=0, dtype=int), min(epoch + 1, 5)
        of_now = {
            "current": np.flatnonzero(counts >= 3).tolist(),
            "steady": np.flatnonzero(counts >= max(lived, 3)).tolist(),
        }
        guiding = state["self_guided"]["memorized"].tolist()
        report = denoiser.report()
        assert report["memorized"].sum() == len(guiding)
        seen.append((guiding, of_now))
    assert denoiser.memorization_point == 3
    assert seen[0][0] == seen[0][1]["current"]  # M of Eq. 1, whatever follows
    for guiding, of_now in seen[1:]:
        assert guiding == (seen[0][0] if expected == "switch" else of_now[expected])
    assert any(0 < len(of_now["steady"]) < len(of_now["current"]) for _, of_now in seen[1:])
    assert any(of_now["steady"] != seen[0][0] for _, of_now in seen[1:])


def test_where_nothing_is_memorized_steadily_all_that_is_memorized_guides() -> None:
    denoiser = build("neumf", config=STEADY)
    train(denoiser, "neumf", epochs=4)
    buffer = denoiser._epochs.tracker.buffer
    buffer._rows[0] = np.zeros_like(buffer._rows[0])  # an epoch that had memorized nothing
    train(denoiser, "neumf", start=4)
    denoiser.end_epoch()
    buffer = denoiser._epochs.tracker.buffer
    bits = [np.unpackbits(row, count=len(denoiser.interactions)) for row in buffer._rows]
    counts = np.sum(bits, axis=0, dtype=int)
    assert counts.max() == 4  # of five epochs: none in all
    memorized = denoiser.state_dict()["self_guided"]["memorized"].tolist()
    assert memorized == np.flatnonzero(counts >= 3).tolist()
    assert memorized


def test_without_denoising_learning_m_is_that_of_the_switch() -> None:
    denoiser = build("neumf", config=STEADY.but(denoising_learning=False))
    train(denoiser, "neumf", epochs=3)
    before = denoiser.state_dict()["self_guided"]["memorized"].tolist()
    train(denoiser, "neumf", epochs=3, start=3)
    assert denoiser.state_dict()["self_guided"]["memorized"].tolist() == before


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
    learn = Learner.learn

    def listening(self: Learner, *arguments: Any, **named: Any) -> Any:
        learned.append(learn(self, *arguments, **named))
        return learned[-1]

    monkeypatch.setattr(Learner, "learn", listening)
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
            products = learned[-1].alignments.rows.numpy()
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


# ------------------------------------------------------------------ the kind of loss


def _guided(denoiser: Any, batches: Any) -> tuple[bool, list[int]]:
    """Whether the loss is taken as pointwise, and the ids of all that has guided."""
    ids: list[int] = []
    for epoch in range(5):
        for batch in batches(epoch):
            denoiser.before_step(batch)
            guidance = None
            if denoiser._epochs.self_guided is not None:
                guidance = denoiser._epochs.self_guided._guidance
            ids += [] if guidance is None else guidance.ids.tolist()
            denoiser.step(batch)
        denoiser.end_epoch()
    return denoiser.state_dict()["self_guided"]["settled"]["loss_kind"] == "pointwise", ids


def test_pairs_that_are_missing_among_the_interactions_make_no_pointwise_loss(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = np.arange(len(DATA)) % 10 > 0
    users, items = (ids[torch.from_numpy(known)] for ids in DATA.tensors())
    denoiser = build(interactions=(users, items), config=SWITCHING.but(guidance_interval=1))
    with caplog.at_level("INFO", logger="sgdl_wrap"):
        pointwise, ids = _guided(denoiser, lambda epoch: triple_epoch(DATA, epoch))
    assert not pointwise
    assert denoiser.state_dict()["self_guided"]["settled"]["memorized_data"] == "current"
    assert min(ids) >= 0  # nor do they guide, as negatives would
    assert [r.message for r in caplog.records if r.message.endswith("a ranking loss")]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.filterwarnings("ignore:Expected the pairs of batch 1:sgdl_wrap.DenoiserWarning")
def test_negatives_make_a_pointwise_loss_whether_they_are_named_or_many(named: bool) -> None:
    told = {} if named else {"pair_fn": lambda batch: batch[:2]}
    denoiser = build("neumf", config=SWITCHING.but(guidance_interval=1), **told)
    pointwise, ids = _guided(denoiser, lambda epoch: labelled_epoch(DATA, epoch))
    assert pointwise
    assert denoiser.state_dict()["self_guided"]["settled"]["memorized_data"] == "steady"
    assert min(ids) == -1 < max(ids)


@pytest.mark.parametrize("kind", ["lightgcn", "neumf"])
def test_without_denoising_learning_unknown_positives_are_not_trained_on(kind: str) -> None:
    known = np.arange(len(DATA)) % 10 > 0
    users, items = (ids[torch.from_numpy(known)] for ids in DATA.tensors())
    config = SWITCHING.but(denoising_learning=False)
    denoiser = build(kind, interactions=(users, items), config=config)
    batches = triple_epoch if kind == "lightgcn" else labelled_epoch
    _guided(denoiser, lambda epoch: batches(DATA, epoch))
    batch = batches(DATA, 9)[0]
    weights = denoiser.sample_weights(batch)
    strangers = {*zip(DATA.users[~known].tolist(), DATA.items[~known].tolist(), strict=True)}
    pairs = [*zip(batch[0].tolist(), batch[1].tolist(), strict=True)]
    unknown = torch.tensor([pair in strangers for pair in pairs])
    assert unknown.any()
    assert not weights[unknown].any()
    if kind == "neumf":
        assert weights[batch[2] == 0].all()
