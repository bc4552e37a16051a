"""Pictures of a denoiser: one call draws the page, one function each picture.

::

    from sgdl_wrap.report.pictures import draw_page
    draw_page(denoiser).savefig("page.png", dpi=150)

Needs matplotlib (``pip install "sgdl-wrap[plots]"``); pyplot and its state are never used. Each
function draws into axes of yours. What a phase cannot show yet, its picture says in words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sgdl_wrap.errors import DenoiserError
from sgdl_wrap.records import Phase
from sgdl_wrap.report.snapshot import Snapshot

if TYPE_CHECKING:
    from sgdl_wrap.denoiser import SelfGuidedDenoiser

# of Okabe and Ito, told apart by colour-blind readers, and by their lightness in print
CLEAN, NOISY, THIRD, QUIET = "#0072B2", "#D55E00", "#009E73", "#BBBBBB"
DOTS = 3_000  # interactions that a cloud of points shows
_BEFORE = "comes with Phase II"
_STYLE: dict[Any, Any] = {
    "font.size": 8.0, "axes.titlesize": 9.0, "axes.titleweight": "bold", "legend.fontsize": 7.5,
    "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
    "lines.linewidth": 1.6,
}  # fmt: skip


def draw_page(denoiser: SelfGuidedDenoiser, *, title: str | None = None) -> Any:
    """All five pictures on a page of 7.2 x 8 inches.

    Args:
        denoiser: in any phase, or disabled.
        title: above the page; where it stands follows in any case.

    Returns:
        A ``matplotlib.figure.Figure``; save it with ``savefig``.

    Raises:
        DenoiserError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DenoiserError(
            "Expected matplotlib, got none installed. Run `pip install \"sgdl-wrap[plots]\"`, or "
            "read denoiser.history and denoiser.report()."
        ) from error
    known = _known(denoiser)
    with rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 8.0), layout="constrained")
        grid = figure.add_gridspec(3, 2)
        draw_memory_curve(figure.add_subplot(grid[0, :]), known)
        draw_loss_mixture(figure.add_subplot(grid[1, 0]), known)
        draw_weighting_function(figure.add_subplot(grid[1, 1]), known)
        draw_weights(figure.add_subplot(grid[2, 0]), known)
        draw_guidance(figure.add_subplot(grid[2, 1]), known)
        figure.suptitle("\n".join(filter(None, [title, _standing(known)])), fontsize=10)
    return figure


def draw_memory_curve(
    axes: Any, denoiser: SelfGuidedDenoiser | Snapshot, *, true_clean_ratio: float | None = None
) -> None:
    """Memorized and clean ratio by epoch, and the switch (after Fig. 4 of the paper).

    Args:
        axes: matplotlib axes.
        denoiser: whose history it is.
        true_clean_ratio: drawn too, where it is known.
    """
    axes.set_title("Memorization")
    known = _known(denoiser)
    records = known.history
    if not records:
        _say(axes, "no epoch has ended" if known.enabled else "disabled: nothing is watched")
        return
    marker = "o" if len(records) == 1 else None
    epochs = [record.epoch for record in records]
    memorized = [record.memorized_ratio for record in records]
    axes.plot(epochs, memorized, color=CLEAN, marker=marker, label="memorized")
    estimated = [(r.epoch, r.clean_ratio) for r in records if r.clean_ratio is not None]
    if estimated:
        axes.plot(
            *zip(*estimated, strict=True), color=NOISY, linestyle="--", marker=marker,
            label="clean, estimated (1 - σ̂)",
        )  # fmt: skip
    if true_clean_ratio is not None:
        axes.axhline(true_clean_ratio, color="grey", linestyle=":", label="clean, true")
    if known.learned is not None:
        switch = sum(record.phase is Phase.MEMORIZATION for record in records)
        axes.axvline(switch, color="black", linewidth=1, label=f"switch, after epoch {switch}")
    axes.set(xlabel="epoch", ylabel="share of interactions", ylim=(0, 1))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="lower right", frameon=True, framealpha=1, edgecolor="none")


def draw_loss_mixture(axes: Any, denoiser: SelfGuidedDenoiser | Snapshot) -> None:
    """The scaled losses of the last estimate and the two components fitted to them (Eq. 4)."""
    axes.set_title("Loss mixture")
    known = _known(denoiser)
    mixture = known.mixture
    if mixture is None or not mixture.histogram:
        given = known.config.noise_rate is not None
        _say(axes, "σ̂ was given, none is estimated" if given else "comes with an epoch's end")
        return
    counts, edges = np.array(mixture.histogram), np.linspace(0, 1, len(mixture.histogram) + 1)
    density = counts / counts.sum() * len(counts)
    axes.stairs(density, edges, fill=True, color=QUIET, label="losses", baseline=1e-6)
    x = np.linspace(0, 1, 400)
    parts = zip(
        ("clean", "noisy"), (CLEAN, NOISY), ("-", "--"), mixture.means, mixture.variances,
        mixture.weights, strict=True,
    )  # fmt: skip
    for name, color, style, mean, variance, weight in parts:
        normal = np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
        axes.plot(x, weight * normal, color=color, linestyle=style, label=f"{name}, {weight:.2f}")
    # the easy ones are so many that they would flatten the rest
    axes.set(xlabel="loss, scaled per user to 0 ... 1", ylabel="density, log scale",
             xlim=(0, 1), yscale="log", ylim=(0.02, 3 * max(float(density.max()), 1.0)))
    if known.config.variants.loss_normalization == "global":
        axes.set_xlabel("loss, scaled to 0 ... 1")
    axes.legend(title=f"σ̂ = {mixture.value:.3f}", title_fontsize=7.5)


def draw_weighting_function(axes: Any, denoiser: SelfGuidedDenoiser | Snapshot) -> None:
    """g(·; ψ) over the loss, on the losses that interactions have now (Eq. 5).

    Where g reads no loss, it is drawn over the suspicion, else with the median suspicion. A
    smoothed loss is taken as equal to the loss. Where g also reads the memorization rate, there is
    a curve each for 0, 1/2 and 1.
    """
    axes.set_title("Weighting function")
    known = _known(denoiser)
    if known.learned is None:
        _say(axes, _BEFORE)
        return
    names, g = known.learned.config.inputs, known.learned.weighting
    if g is None:
        _say(axes, "none: the memorized\nalone are trained on")
        return
    over, values = "loss", known.latest_losses
    if {"loss", "smoothed_loss"}.isdisjoint(names):
        over, values = "suspicion", known.suspicion
    values = values[~np.isnan(values)]
    low, high = np.quantile(values, [0.0, 0.995])
    behind = axes.twinx()
    behind.hist(values, bins=40, range=(low, high), color=QUIET)
    behind.set_yscale("log")
    behind.set_ylabel("interactions, log scale", color="#777777")
    behind.tick_params(colors="#777777")
    behind.set_ylim(bottom=0.8)
    behind.yaxis.set_major_formatter("{x:,.0f}")
    behind.spines["right"].set(visible=True, color="#777777")
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    x = torch.linspace(float(low), float(high), 200).to(g.output.weight)
    middle = float(np.nanmedian(known.suspicion))
    reads = "memorization_rate" in names
    curves = [(0.0, NOISY, "--"), (0.5, THIRD, "-."), (1.0, CLEAN, "-")]
    for rate, color, style in curves if reads else curves[-1:]:
        columns = {
            "loss": x, "smoothed_loss": x, "memorization_rate": torch.full_like(x, rate),
            "suspicion": x if over == "suspicion" else torch.full_like(x, middle),
            "observed": torch.ones_like(x),
        }  # fmt: skip
        with torch.no_grad():
            weights = g.learned(torch.stack([columns[name] for name in names], dim=1))
        axes.plot(
            x.cpu().numpy(), weights.cpu().numpy(), color=color, linestyle=style,
            label=f"memorized in {rate:.0%} of epochs" if reads else f"g({over}; ψ)",
        )  # fmt: skip
    axes.set(xlabel=over, ylabel="weight", ylim=(0, 1.02))
    axes.legend()


def draw_weights(axes: Any, denoiser: SelfGuidedDenoiser | Snapshot) -> None:
    """How many interactions have which weight, in M and outside it."""
    axes.set_title("Weights")
    known = _known(denoiser)
    if known.learned is None:
        _say(axes, "all are 1 until the switch" if known.enabled else "all are 1")
        return
    weights, highest = known.weights.astype(np.float32), 1
    kinds = ((known.memorized, CLEAN, "-", "memorized"), (~known.memorized, NOISY, "--", "not"))
    for which, color, style, name in kinds:
        counts, edges = np.histogram(weights[which], bins=40, range=(0.0, 1.0))
        axes.stairs(counts, edges, fill=True, color=color, alpha=0.25, baseline=1e-6)
        axes.stairs(counts, edges, color=color, linestyle=style,
                    label=f"{name}, {which.sum():,}")
        highest = max(highest, counts.max())
    axes.set(xlabel="weight, before division by the batch mean", ylabel="interactions, log scale",
             xlim=(0, 1), yscale="log", ylim=(0.8, 4 * highest))  # room for the legend
    axes.yaxis.set_major_formatter("{x:,.0f}")
    if known.learned.config.variants.weight_normalization == "none":
        axes.set_xlabel("weight")
    axes.legend(loc="upper center", ncols=2)


def draw_guidance(axes: Any, denoiser: SelfGuidedDenoiser | Snapshot) -> None:
    """The scheduler's probability of each memorized interaction over its loss (Eq. 11).

    In units of what it would be were all alike; shown of an evenly drawn part of them.
    """
    axes.set_title("Scheduler")
    known = _known(denoiser)
    learned = known.learned
    if learned is None or learned.weighting is None:
        _say(axes, _BEFORE if learned is None else "none: nothing is learned")
        return
    ids, probabilities = learned.guiding, learned.probabilities
    if len(ids) == 0:
        none = learned.config.variants.denoising_scheduler == "none"
        _say(axes, "none: all guide alike" if none else "comes with the first guidance")
        return
    losses = known.losses[ids]
    times = probabilities * len(ids)
    some = np.flatnonzero(~np.isnan(losses))
    some = some[:: max(1, len(some) // DOTS)]
    axes.plot(losses[some], times[some], ".", color=CLEAN, markersize=1.5, alpha=0.35,
              rasterized=True)
    axes.axhline(1, color="black", linewidth=1, linestyle="--")
    # most of the cloud, with 1 in the middle: a single one far off would flatten the rest
    reach = 1.2 * max(0.02, float(np.quantile(np.abs(times - 1), 0.998)))
    axes.set(xlabel="loss of a memorized interaction", ylabel="probability, 1: all alike",
             ylim=(max(0.0, 1 - reach), 1 + reach))


def _known(denoiser: SelfGuidedDenoiser | Snapshot) -> Snapshot:
    return denoiser if isinstance(denoiser, Snapshot) else denoiser._snapshot()


def _standing(known: Snapshot) -> str:
    """Where the denoiser stands, in a line."""
    n = f"{len(known.interactions):,} interactions"
    if not known.enabled:
        return f"{n}, plain training"
    phase = "Phase I" if known.learned is None else "Phase II"
    epochs = len(known.history)
    return f"{n}, {epochs} epoch{'' if epochs == 1 else 's'}, now in {phase}"


def _say(axes: Any, text: str) -> None:
    """Words in the place of a picture."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", color="#555555", transform=axes.transAxes)
