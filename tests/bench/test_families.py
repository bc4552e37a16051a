"""Every family of the bench trains, shows each pair once, and can be denoised."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.data.planted_preferences import generate
from bench.families import FAMILIES, Family
from sgdl_wrap import DenoiserConfig, Phase, SelfGuidedDenoiser, Variants
from sgdl_wrap.batches.pairs import PairReader

DATA = generate(n_users=40, n_items=64, interactions_per_user=15)
EACH = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))


def made(family: Family) -> tuple[torch.nn.Module, object]:
    torch.manual_seed(0)
    return family.build(DATA), family.batches(DATA, 16, np.random.default_rng(0))


@EACH
def test_an_epoch_shows_each_pair_once(family: Family) -> None:
    model, batches = made(family)
    read, shown = PairReader(family.pair_fn), []
    for batch in batches:
        users, items, observed = read(batch).arrays()
        assert family.loss_fn(model, batch).shape == (len(users),)
        shown += (users * DATA.n_items + items)[observed].tolist()
    assert sorted(shown) == sorted((DATA.train_users * DATA.n_items + DATA.train_items).tolist())


@EACH
def test_scores_of_pairs_are_those_of_all_items(family: Family) -> None:
    model, _ = made(family)
    model.eval()
    users, items = torch.arange(5).repeat_interleave(3), torch.tensor([0, 7, 20] * 5)
    with torch.no_grad():
        found = (family.score_fn or (lambda m, u, i: m(u, i)))(model, users, items)
        everything = model.score_all_items(torch.arange(5))
    assert everything.shape == (5, DATA.n_items)
    torch.testing.assert_close(found, everything[users, items], rtol=1e-4, atol=1e-5)


@EACH
def test_a_denoised_run_learns_and_reaches_phase_two(family: Family) -> None:
    model, batches = made(family)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    denoiser = SelfGuidedDenoiser(
        model, optimizer, family.loss_fn,
        interactions=(DATA.train_users, DATA.train_items), n_items=DATA.n_items,
        score_fn=family.score_fn, pair_fn=family.pair_fn,
        config=DenoiserConfig(history_length=2, variants=Variants(noise_rate_shift=0.9)),
    )  # fmt: skip
    for _ in range(5):
        for batch in batches:
            denoiser.before_step(batch)
            penalty = None if family.penalty_fn is None else family.penalty_fn(model, batch)
            denoiser.step(batch, penalty=None if penalty is None else 1e-4 * penalty)
        denoiser.end_epoch()
    assert denoiser.phase is Phase.SELF_GUIDED
    assert denoiser.history[-1].loss < denoiser.history[0].loss


def test_no_position_of_a_sequence_sees_what_comes_later() -> None:
    for name in ("sasrec-ce", "gru4rec"):
        model, batches = made(FAMILIES[name])
        model.eval()
        batch = next(iter(batches))
        inputs, real = batch.inputs, batch.targets[:, :-1] > 0
        changed = inputs.clone()
        changed[:, -1] = 1 + changed[:, -1] % 5
        with torch.no_grad():
            before, after = model.states(inputs), model.states(changed)
        torch.testing.assert_close(before[:, :-1][real], after[:, :-1][real])
        assert not torch.equal(before[:, -1], after[:, -1])


