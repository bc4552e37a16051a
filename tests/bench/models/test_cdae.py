from __future__ import annotations

import copy
import re

import pytest
import torch

from bench.models.cdae import CDAE, pair_l2
from bench.models.neumf import bce_loss
from sgdl_wrap import DenoiserConfig, Phase, SelfGuidedDenoiser

N_USERS, N_ITEMS, WIDTH = 6, 9, 4


def interactions() -> tuple[torch.Tensor, torch.Tensor]:
    """25 pairs of users 0 to 4, some of them twice; user 5 has none."""
    generator = torch.Generator().manual_seed(0)
    users = torch.randint(N_USERS - 1, (25,), generator=generator)
    return users, torch.randint(N_ITEMS, (25,), generator=generator)


def model(dropout: float = 0.5, seed: int = 0) -> CDAE:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        cdae = CDAE(N_USERS, N_ITEMS, *interactions(), hidden_dim=WIDTH, dropout=dropout)
        with torch.no_grad():
            cdae.hidden_bias.normal_()
            cdae.output_bias.normal_()
    return cdae.double()


def dense_rows() -> torch.Tensor:
    rows = torch.zeros(N_USERS, N_ITEMS, dtype=torch.float64)
    rows[interactions()] = 1
    return rows


def dense_hidden(cdae: CDAE, rows: torch.Tensor) -> torch.Tensor:
    linear = rows @ cdae.input_items.weight + cdae.user_nodes.weight + cdae.hidden_bias
    return 1 / (1 + (-linear).exp())


def all_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Every pair once, in an order that mixes the users."""
    order = torch.randperm(N_USERS * N_ITEMS, generator=torch.Generator().manual_seed(1))
    return order // N_ITEMS, order % N_ITEMS


def test_logits_equal_a_dense_reference_with_repeated_pairs_counted_once() -> None:
    cdae = model().eval()
    expected = dense_hidden(cdae, dense_rows()) @ cdae.output_items.weight.T + cdae.output_bias
    users, items = all_pairs()
    torch.testing.assert_close(cdae(users, items), expected[users, items])
    asked = torch.tensor([5, 0, 3])
    torch.testing.assert_close(cdae.score_all_items(asked), expected[asked])


def test_training_leaves_out_items_and_scales_the_sum_of_the_others() -> None:
    cdae, users = model(dropout=0.25), torch.arange(N_USERS)
    # makes the first WIDTH items of a row visible
    torch.nn.init.eye_(cdae.input_items.weight)
    with torch.no_grad():
        cdae.user_nodes.weight.zero_()
        cdae.hidden_bias.zero_()
    whole = dense_rows()[:, :WIDTH]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        seen = torch.stack([cdae.encode(users).logit() for _ in range(400)]).detach()
    kept = seen > 0.5
    torch.testing.assert_close(seen, kept.double() * (4 / 3))
    assert not kept[:, whole == 0].any()
    # 400 draws of .75: the standard deviation of a mean is .022
    torch.testing.assert_close(kept.double().mean(dim=0), 0.75 * whole, atol=0.1, rtol=0)


def test_all_pairs_of_a_user_in_a_call_see_one_corruption() -> None:
    cdae = model()
    users, items = torch.tensor([2, 1, 2, 1, 2]), torch.tensor([3, 3, 3, 3, 3])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, again = cdae(users, items), cdae(users, items)
    assert len(first[users == 2].unique()) == len(first[users == 1].unique()) == 1
    assert not torch.equal(first, again)


def test_corruption_comes_from_the_global_stream_and_only_in_training() -> None:
    cdae, pairs = model(), all_pairs()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        one = cdae(*pairs)
        torch.manual_seed(3)
        same = cdae(*pairs)
        before = torch.get_rng_state()
        cdae.eval()(*pairs)
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, same)


def test_holds_rows_as_a_flat_list_that_is_no_part_of_the_state() -> None:
    cdae = model()
    assert cdae.row_items.shape == (int(dense_rows().sum()),)
    assert cdae.row_starts.shape == (N_USERS + 1,)
    assert not {"row_items", "row_starts"} & set(cdae.state_dict())
    assert len(list(copy.deepcopy(cdae).buffers())) == 2


def test_gradients_pass_gradcheck_once_and_twice() -> None:
    cdae, (users, items) = model().eval(), all_pairs()
    names, values = zip(*cdae.named_parameters(), strict=True)

    def losses(*parameters: torch.Tensor) -> torch.Tensor:
        weights = dict(zip(names, parameters, strict=True))
        logits = torch.func.functional_call(cdae, weights, (users[:6], items[:6]))
        return torch.nn.functional.softplus(logits)

    inputs = tuple(value.detach().requires_grad_() for value in values)
    assert torch.autograd.gradcheck(losses, inputs)
    assert torch.autograd.gradgradcheck(losses, inputs)


def test_pair_l2_is_half_the_mean_squared_norm_of_what_the_pairs_touch() -> None:
    cdae = model()
    batch = (torch.tensor([0, 0, 4]), torch.tensor([2, 3, 2]), torch.ones(3))
    nodes, items, bias = cdae.user_nodes.weight, cdae.output_items.weight, cdae.output_bias
    rows = torch.cat(
        [nodes[0], nodes[0], nodes[4], items[2], items[3], items[2], bias[[2, 3, 2]]]
    )
    torch.testing.assert_close(pair_l2(cdae, batch), 0.5 * rows.square().sum() / 3)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_that_is_no_probability_is_refused(dropout: float) -> None:
    sentence = (
        f"Expected dropout in [0, 1), got {dropout}. Choose a probability such as 0.5."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        model(dropout)


def test_denoiser_trains_it_in_both_phases() -> None:
    cdae = model()
    optimizer = torch.optim.Adam(cdae.parameters(), lr=0.05)
    config = DenoiserConfig(history_length=2, noise_rate=0.5, evidence_weights=False)
    users, items = all_pairs()
    batch = (users, items, dense_rows()[users, items])
    observed = dense_rows().nonzero(as_tuple=True)
    denoiser = SelfGuidedDenoiser(
        cdae, optimizer, bce_loss, interactions=observed, config=config, example_batch=batch
    )
    phases = []
    for _ in range(30):
        denoiser.before_step(batch)
        denoiser.step(batch)
        denoiser.end_epoch()
        phases.append(denoiser.phase)
    assert phases[0] is Phase.MEMORIZATION
    assert phases[-2:] == [Phase.SELF_GUIDED] * 2
    weights = denoiser.sample_weights(batch)
    assert len(weights.unique()) > 1
    assert all(bool(parameter.isfinite().all()) for parameter in cdae.parameters())
