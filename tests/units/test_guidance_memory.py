"""`max_guidance_batch` is a physical limit: no more guidance samples are ever evaluated at once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.models.lightgcn import bpr_loss
from bench.models.neumf import bce_loss
from sgdl_wrap import BatchError, DenoiserConfig, Phase, SelfGuidedDenoiser, Variants
from sgdl_wrap.model import twin as lookahead_module
from tests.support.models_zoo import (
    MLPScorer,
    assert_identical,
    in_batch_softmax_loss,
    labelled_epoch,
    seeded,
    snapshot,
    tiny_data,
    tiny_lightgcn,
    tiny_neumf,
    triple_epoch,
)
from tests.support.spy import Spy

DATA = tiny_data()
ALL = DenoiserConfig(
    history_length=1, noise_rate=0.9, guidance_interval=1, guidance_size=None, meta_lr=0.05,
    variants=Variants(gumbel_draws=8),
)  # fmt: skip


class Run:
    """Counts the samples of each call of the loss."""

    def __init__(self, kind: str, config: DenoiserConfig) -> None:
        self.kind, self.sizes = kind, Spy()
        with seeded(4):
            make: Any = tiny_neumf if kind == "neumf" else tiny_lightgcn
            self.model = make(DATA).double()
            if kind == "mlp":
                self.model = MLPScorer(DATA.n_users, DATA.n_items).double()
        self.denoiser = SelfGuidedDenoiser(
            self.model, torch.optim.Adam(self.model.parameters(), lr=0.02), self._losses,
            interactions=DATA.tensors(), n_items=DATA.n_items, config=config,
        )  # fmt: skip

    def _losses(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        self.sizes.note(len(batch[0]))
        return (bce_loss if self.kind == "neumf" else bpr_loss)(model, batch)

    def batches(self, epoch: int) -> list[Any]:
        return labelled_epoch(DATA, epoch) if self.kind == "neumf" else triple_epoch(DATA, epoch)

    def train(self, *epochs: int) -> list[list[int]]:
        """Of each step that learns, how many guidance samples each call had."""
        evaluated = []
        for epoch in epochs:
            for batch in self.batches(epoch):
                self.sizes.seen.clear()
                self.denoiser.before_step(batch)
                if len(self.sizes) > 1 and self.denoiser.phase is Phase.SELF_GUIDED:
                    evaluated.append(self.sizes.seen[1:])
                self.denoiser.step(batch)
            self.denoiser.end_epoch()
        return evaluated


VARIANTS: dict[str, dict[str, Any]] = {
    "lightgcn": {},
    "neumf": {},
    "mlp": {"similarity": "paper"},
    "mlp large": {},
    "lightgcn top_f": {"denoising_scheduler": "top_f"},
    "lightgcn mlp": {"denoising_scheduler": "mlp", "weight_normalization": "none"},
}


@pytest.mark.parametrize("most", [1, 7, 10_000])
@pytest.mark.parametrize("name", VARIANTS)
def test_no_more_are_evaluated_at_once_and_the_result_is_the_same(
    name: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "mlp large":
        monkeypatch.setattr(lookahead_module, "LARGE", 1)
    whole, pieces = (
        Run(name.split()[0], ALL.but(**VARIANTS[name], max_guidance_batch=limit))
        for limit in (None, most)
    )
    expected, found = whole.train(0, 1, 2), pieces.train(0, 1, 2)
    assert len(found) == len(expected) > 5
    points = 2 if name == "mlp" else 1  # the paper's cosines look at θ and θ̂ once more
    for sizes, before in zip(found, expected, strict=True):
        assert max(sizes) <= most
        total = sum(before) // len(before)
        assert sum(sizes) == total * len(before)
        if points == 1:
            assert max(sizes) - min(sizes) <= 1
    assert any(len(sizes) > 1 for sizes in found) == (most < 10_000 or name == "mlp")
    for run in (whole, pieces):
        assert run.denoiser.phase is Phase.SELF_GUIDED
    torch.testing.assert_close(
        pieces.model.state_dict(), whole.model.state_dict(), rtol=1e-7, atol=1e-9
    )
    batch = whole.batches(7)[0]
    torch.testing.assert_close(
        pieces.denoiser.sample_weights(batch), whole.denoiser.sample_weights(batch),
        rtol=1e-6, atol=1e-8,
    )  # fmt: skip


@pytest.mark.parametrize("labels", [False, True])
def test_negatives_are_scored_no_more_at_once(
    labels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run("neumf", ALL.but(max_guidance_batch=5, guidance_labels="both"))
    run.train(0)
    scored: list[int] = []
    score = run.denoiser._user_code.score

    def counting(users: Tensor, items: Tensor) -> Tensor:
        scored.append(len(users))
        return score(users, items)

    monkeypatch.setattr(run.denoiser._user_code, "score", counting)
    for batch in run.batches(1)[:3]:
        run.denoiser.before_step(batch)
        run.denoiser.step(batch)
    assert len(scored) > 3
    assert max(scored) <= 5


def in_batch(config: DenoiserConfig) -> SelfGuidedDenoiser:
    """Whose rows have other losses alone."""
    with seeded(5):
        model = MLPScorer(DATA.n_users, DATA.n_items)
    model.tower.requires_grad_(False)
    return SelfGuidedDenoiser(
        model, torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02),
        in_batch_softmax_loss, interactions=DATA.tensors(), n_items=DATA.n_items, config=config,
        score_fn=lambda model, users, items: (model.user(users) * model.item(items)).sum(1),
    )  # fmt: skip


def test_a_batch_that_guides_whole_is_refused_where_it_is_larger_before_anything_changes() -> None:
    batch = triple_epoch(DATA, 0)[0][:2]
    size = len(batch[0])
    denoiser = in_batch(ALL.but(max_guidance_batch=size - 1))
    before = copy.deepcopy(snapshot(denoiser.model))
    with pytest.raises(
        BatchError,
        match=rf"^Expected at most max_guidance_batch={size - 1} samples in a batch whose rows "
        rf"have other losses alone, got {size} in batch 1 of epoch 1: .* raise max_",
    ):
        denoiser.before_step(batch)
    assert_identical(snapshot(denoiser.model)["parameters"], before["parameters"])
    smaller = tuple(column[:-1] for column in batch)
    denoiser.before_step(smaller)  # the next one can come
    denoiser.step(smaller)


@pytest.mark.parametrize("changes", [{"audit_only": True}, {"denoising_learning": False}, {}])
def test_where_nothing_guides_or_all_fits_nothing_is_refused(changes: dict[str, Any]) -> None:
    batches = [batch[:2] for batch in triple_epoch(DATA, 0)]
    limit = 3 if changes else max(len(batch[0]) for batch in batches)
    denoiser = in_batch(ALL.but(max_guidance_batch=limit, **changes))
    for batch in batches:
        denoiser.before_step(batch)
        denoiser.step(batch)


def test_a_run_goes_on_with_another_limit() -> None:
    run = Run("mlp", ALL)
    run.train(0, 1)
    other = Run("mlp", ALL.but(max_guidance_batch=5))
    other.model.load_state_dict(copy.deepcopy(run.model.state_dict()))
    other.denoiser._optimizers[0].load_state_dict(
        copy.deepcopy(run.denoiser._optimizers[0].state_dict())
    )
    other.denoiser.load_state_dict(run.denoiser.state_dict())
    run.train(2)
    other.train(2)
    torch.testing.assert_close(
        other.model.state_dict(), run.model.state_dict(), rtol=1e-7, atol=1e-9
    )
