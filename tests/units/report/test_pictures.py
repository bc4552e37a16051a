"""The pictures: what each draws, in every phase, and what it says where there is nothing yet."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import rcParams
from matplotlib.figure import Figure

from sgdl_wrap import DenoiserConfig, DenoiserError, Phase, SelfGuidedDenoiser, Variants
from sgdl_wrap.report.pictures import (
    draw_guidance,
    draw_loss_mixture,
    draw_memory_curve,
    draw_page,
    draw_weighting_function,
    draw_weights,
)
from tests.support.models_zoo import (
    SWITCHING,
    WATCHING,
    assert_identical,
    labelled_epoch,
    tiny_data,
    tiny_denoiser,
    train,
    without,
)

DATA = tiny_data()
N = len(DATA)
PICTURES = (
    draw_memory_curve, draw_loss_mixture, draw_weighting_function, draw_weights, draw_guidance,
)  # fmt: skip
# switches after the first epoch by an estimated noise rate
ESTIMATING = DenoiserConfig(
    history_length=1, guidance_interval=2, variants=Variants(noise_rate_shift=0.9)
)


def trained(kind: str = "lightgcn", epochs: int = 4, **changes: Any) -> SelfGuidedDenoiser:
    denoiser = tiny_denoiser(DATA, kind, **{"config": ESTIMATING, **changes})
    train(denoiser, kind, epochs)
    return denoiser


def drawn(picture: Any, denoiser: SelfGuidedDenoiser) -> Any:
    axes = Figure().subplots()
    picture(axes, denoiser)
    return axes


def words(axes: Any) -> str:
    return " ".join(text.get_text() for text in axes.texts)


@pytest.mark.parametrize("kind", ["lightgcn", "neumf"])
def test_the_page_has_all_five_with_titles_labels_and_data(kind: str) -> None:
    denoiser = trained(kind)
    assert denoiser.phase is Phase.SELF_GUIDED
    figure = draw_page(denoiser, title="a run")
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [
        "Memorization", "Loss mixture", "Weighting function", "Weights", "Scheduler",
    ]  # fmt: skip
    for axes in panels:
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        assert axes.has_data()
    assert figure.get_suptitle() == f"a run\n{N} interactions, 4 epochs, now in Phase II"


@pytest.mark.parametrize("kind", ["lightgcn", "neumf"])
@pytest.mark.parametrize(
    ("options", "epochs", "standing", "said"),
    [
        ({"enabled": False}, 1, "plain training",
         ["disabled: nothing is watched", "all are 1"]),
        ({"config": WATCHING}, 0, "0 epochs, now in Phase I",
         ["no epoch has ended", "comes with an epoch's end", "comes with Phase II"]),
        ({"config": WATCHING}, 1, "1 epoch, now in Phase I",
         ["comes with Phase II", "all are 1 until the switch"]),
        ({"config": WATCHING.but(audit_only=True)}, 2, "2 epochs, now in Phase I",
         ["all are 1 until the switch"]),
        ({"config": SWITCHING}, 1, "1 epoch, now in Phase II",
         ["σ̂ was given, none is estimated", "comes with the first guidance"]),
        ({"config": ESTIMATING.but(denoising_learning=False)}, 3, "3 epochs, now in Phase II",
         ["none: the memorized\nalone are trained on", "none: nothing is learned"]),
        ({"config": ESTIMATING.but(denoising_scheduler="none")}, 3, "3 epochs, now in Phase II",
         ["none: all guide alike"]),
    ],
)  # fmt: skip
def test_what_is_not_there_yet_is_said(
    kind: str, options: dict[str, Any], epochs: int, standing: str, said: list[str]
) -> None:
    figure = draw_page(trained(kind, epochs, **options))
    assert figure.get_suptitle() == f"{N} interactions, {standing}"
    found = {words(axes) for axes in figure.axes}
    assert set(said) <= found
    figure.canvas.draw()


def test_the_memory_curve_is_the_history() -> None:
    denoiser = trained()
    axes = Figure().subplots()
    draw_memory_curve(axes, denoiser, true_clean_ratio=0.7)
    memorized, clean, true, switch = axes.get_lines()
    records = denoiser.history
    assert memorized.get_ydata().tolist() == [record.memorized_ratio for record in records]
    assert clean.get_ydata().tolist() == [record.clean_ratio for record in records]
    assert set(true.get_ydata()) == {0.7}
    assert set(switch.get_xdata()) == {denoiser.memorization_point} == {1}


def test_the_mixture_is_drawn_over_the_losses_it_was_fitted_on() -> None:
    denoiser = trained(config=WATCHING, epochs=2)
    mixture = denoiser._epochs.tracker.mixture
    assert mixture is not None
    assert sum(mixture.histogram) == mixture.n_fitted == N
    axes = drawn(draw_loss_mixture, denoiser)
    for line, weight in zip(axes.get_lines(), mixture.weights, strict=True):
        y = line.get_ydata()
        assert y.mean() <= weight + 0.01  # its integral, the tails outside left out
        assert y.mean() > weight / 3
    peaks = [line.get_xdata()[np.argmax(line.get_ydata())] for line in axes.get_lines()]
    for peak, mean in zip(peaks, mixture.means, strict=True):
        assert peak == pytest.approx(np.clip(mean, 0, 1), abs=0.003)
    (bars,) = axes.patches
    np.testing.assert_allclose(bars.get_data().values.mean(), 1)


@pytest.mark.parametrize(("kind", "over"), [("neumf", "loss"), ("lightgcn", "suspicion")])
def test_the_weighting_function_is_g(kind: str, over: str) -> None:
    denoiser = trained(kind)
    guided = denoiser._epochs.self_guided
    assert guided is not None
    assert guided.learner is not None
    axes = drawn(draw_weighting_function, denoiser)
    assert axes.get_xlabel() == over
    (line,) = axes.get_lines()
    x = torch.from_numpy(line.get_xdata())[:, None]
    with torch.no_grad():
        expected = guided.learner.weighting.learned(x)
    np.testing.assert_allclose(line.get_ydata(), expected.numpy(), rtol=1e-6)
    assert line.get_xdata()[0] == pytest.approx(np.nanmin(denoiser.report()[over]))


def test_after_negatives_alone_the_weighting_function_is_that_of_the_epoch_before() -> None:
    denoiser = trained("neumf")
    before = drawn(draw_weighting_function, denoiser).get_lines()[0].get_xdata()
    batch = labelled_epoch(DATA, 4)[0]
    batch = tuple(column[batch[2] == 0] for column in batch)
    denoiser.before_step(batch)
    denoiser.step(batch)
    found = drawn(draw_weighting_function, denoiser).get_lines()[0].get_xdata()
    assert found.tolist() == before.tolist()


def test_where_g_reads_the_memorization_rate_there_is_a_curve_for_three() -> None:
    config = SWITCHING.but(weight_inputs=("loss", "memorization_rate"))
    axes = drawn(draw_weighting_function, trained(config=config))
    values = [line.get_ydata() for line in axes.get_lines()]
    assert len(values) == 3
    assert not np.allclose(values[0], values[2])


def test_the_weights_are_those_of_the_report() -> None:
    denoiser = trained()
    memorized, _, others, _ = drawn(draw_weights, denoiser).patches
    rows = denoiser.report()
    for bars, which in ((memorized, rows["memorized"]), (others, ~rows["memorized"])):
        assert bars.get_data().values.sum() == which.sum()
    mean = np.average(memorized.get_data().edges[:-1] + 1 / 80, weights=memorized.get_data().values)
    assert mean == pytest.approx(rows["weight"][rows["memorized"]].mean(), abs=0.0125)


@pytest.mark.parametrize("scheduler", ["lstm", "mlp", "top_f"])
def test_the_probabilities_are_those_of_the_scheduler(scheduler: Any) -> None:
    denoiser = trained(config=ESTIMATING.but(denoising_scheduler=scheduler))
    guided = denoiser._epochs.self_guided
    assert guided is not None
    assert guided.learner is not None
    selector = guided.learner.selector
    ids, probabilities = selector.probabilities()
    assert probabilities.sum() == pytest.approx(1)
    assert set(ids) <= set(guided.memorized)
    assert selector.factors is not None
    last = [
        selector.factors.ring[k, (visits - 1) % selector.factors.length]
        for k, visits in enumerate(selector.factors.visits)
        if visits
    ]
    assert len(last) == len(ids)
    if scheduler == "mlp":
        network = selector.network
        with torch.no_grad():
            inputs = torch.from_numpy(np.array(last))
            expected = network.output(network.hidden(inputs).relu())[:, 0].softmax(0)
        np.testing.assert_allclose(probabilities, expected.numpy(), rtol=1e-5)
    if scheduler == "top_f":
        assert set(probabilities.tolist()) == {0.0, probabilities.max()}
    points, _ = drawn(draw_guidance, denoiser).get_lines()
    known = ~np.isnan(denoiser._epochs.tracker.losses[ids])
    np.testing.assert_allclose(points.get_ydata(), (probabilities * len(ids))[known])


@pytest.mark.parametrize("picture", PICTURES)
def test_a_picture_changes_nothing(picture: Any) -> None:
    denoiser, settings = trained(), dict(rcParams)
    before = without(denoiser.state_dict(), "seconds")
    drawn(picture, denoiser)
    draw_page(denoiser)
    assert_identical(without(denoiser.state_dict(), "seconds"), before)
    assert dict(rcParams) == settings
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules[
        "matplotlib.pyplot"
    ].get_fignums()


def test_the_mixtures_histogram_survives_saving() -> None:
    denoiser = trained()
    again = tiny_denoiser(DATA, "lightgcn", config=ESTIMATING)
    again.load_state_dict(denoiser.state_dict())
    assert again._epochs.tracker.mixture == denoiser._epochs.tracker.mixture


def test_without_matplotlib_the_page_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    denoiser = trained(epochs=1)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        DenoiserError,
        match=r"^Expected matplotlib.* Run `pip install .sgdl-wrap\[plots\].`, ",
    ):
        draw_page(denoiser)
