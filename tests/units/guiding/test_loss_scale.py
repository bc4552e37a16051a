"""g reads losses of the order of one: a loss function's own scale does not decide the weights."""

from __future__ import annotations

import pytest
import torch

from sgdl_wrap import DenoiserConfig, EpochRecord, Phase, SelfGuidedDenoiser
from sgdl_wrap.guiding.loss_scale import input_units, loss_scale
from sgdl_wrap.guiding.weighting import WeightingFunction
from tests.promises.test_training_features import ITEMS, USERS, Factors, bpr, in_lists
from tests.support.models_zoo import seeded


def record(epoch: int, phase: Phase, loss: float) -> EpochRecord:
    return EpochRecord(epoch, phase, 0.5, 0.5, 0.5, loss, 1.0, 1.0)


def test_scale_is_the_mean_loss_of_the_last_epoch_of_phase_one():
    history = [
        record(1, Phase.MEMORIZATION, 9.0),
        record(2, Phase.MEMORIZATION, 7.0),
        record(3, Phase.SELF_GUIDED, 5.0),
        record(4, Phase.SELF_GUIDED, 3.0),
    ]
    assert [loss_scale(history[:epochs]) for epochs in range(5)] == [1.0, 9.0, 7.0, 7.0, 7.0]
    assert loss_scale([record(1, Phase.MEMORIZATION, -937.0)]) == 937.0


@pytest.mark.parametrize("loss", [0.3, 1.0, -0.5])
def test_losses_of_the_order_of_one_or_less_are_read_as_they_are(loss):
    assert loss_scale([record(1, Phase.MEMORIZATION, loss)]) == 1.0
    assert input_units(("loss", "smoothed_loss"), 1.0) is None


def test_losses_alone_have_a_unit():
    names = ("loss", "memorization_rate", "smoothed_loss", "suspicion", "observed")
    assert input_units(names, 4.0) == [4.0, 1.0, 4.0, 1.0, 1.0]
    assert input_units(("suspicion", "observed"), 4.0) is None


def test_g_divides_by_the_units_and_keeps_them_out_of_its_state():
    def drawn(units):
        return WeightingFunction(
            2, 8, generator=torch.Generator().manual_seed(1), device=torch.device("cpu"),
            dtype=torch.float64, input_units=units,
        )  # fmt: skip

    features = torch.tensor([[8.0, 0.5], [-3.0, 1.0]], dtype=torch.float64)
    plain, scaled = drawn(None), drawn([4.0, 1.0])
    assert torch.equal(scaled(features), plain(features / torch.tensor([4.0, 1.0])))
    assert features[0].tolist() == [8.0, 0.5]
    assert scaled.state_dict().keys() == plain.state_dict().keys()


CONFIG = DenoiserConfig(
    history_length=4, noise_rate=0.8, guidance_interval=1, evidence_weights=False
)


def trained(scale: float, config: DenoiserConfig = CONFIG) -> SelfGuidedDenoiser:
    with seeded(0):
        model = Factors()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    denoiser = SelfGuidedDenoiser(
        model, optimizer, lambda model, batch: scale * bpr(model, batch),
        interactions=(USERS, ITEMS), config=config,
    )  # fmt: skip
    for epoch in range(8):
        for batch in in_lists(epoch):
            denoiser.before_step(batch)
            denoiser.step(batch)
        denoiser.end_epoch()
    assert denoiser.phase is Phase.SELF_GUIDED
    return denoiser


@pytest.mark.parametrize("weight_inputs", [("loss",), None])
def test_a_loss_of_hundreds_still_gets_weights_that_differ(weight_inputs):
    config = CONFIG.but(weight_inputs=weight_inputs)
    denoiser = trained(1000.0, config)
    weights = denoiser.sample_weights(in_lists(99)[0])
    assert weights.mean().item() == pytest.approx(1.0, abs=1e-4)
    assert weights.std().item() > 0.01
    assert all(r.mean_weight == pytest.approx(1.0, abs=1e-4) for r in denoiser.history)


def test_report_and_the_batches_read_the_same_scale():
    config = CONFIG.but(weight_inputs=("loss",), weight_normalization="none")
    denoiser = trained(1000.0, config)
    audit = denoiser.report()
    assert audit["loss"].max() > 10
    assert 0 < audit["weight"].min() < audit["weight"].max() < 1
    g = denoiser._epochs.self_guided.learner.weighting
    switch = denoiser.history[denoiser.memorization_point - 1]
    assert g.input_units.tolist() == [pytest.approx(switch.loss)]
    assert switch.loss > 10
    with torch.no_grad():
        expected = g(torch.from_numpy(audit["loss"].copy())[:, None])
    torch.testing.assert_close(torch.from_numpy(audit["weight"].copy()), expected)


def test_the_scale_comes_back_with_the_state():
    config = CONFIG.but(weight_inputs=("loss",))
    denoiser, batch = trained(1000.0, config), in_lists(99)[0]
    assert denoiser.sample_weights(batch).std() > 0.01
    state = denoiser.state_dict()
    model = Factors()
    model.load_state_dict(denoiser.model.state_dict())
    again = SelfGuidedDenoiser(
        model, torch.optim.Adam(model.parameters(), lr=0.05),
        lambda model, batch: 1000.0 * bpr(model, batch),
        interactions=(USERS, ITEMS), config=config,
    )  # fmt: skip
    again.load_state_dict(state)
    assert torch.equal(again.sample_weights(batch), denoiser.sample_weights(batch))
