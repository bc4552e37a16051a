"""Figures 1, 3, 4 and 5 of the paper, drawn from traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Traces = Mapping[str, Mapping[str, Any]]
"""What `make_trace` found, by the name of the model."""
_CLEAN, _NOISY = "#1f77b4", "#d62728"


def memory_rates(traces: Traces) -> Figure:
    """Fig. 1: the memorized share of clean and of noisy interactions, plainly and with SGDL."""
    figure, panels = _panels(len(traces), 2)
    for row, (model, trace) in zip(panels, traces.items(), strict=True):
        for panel, way, name in zip(row, ("plain", "sgdl"), ("plain", "SGDL"), strict=True):
            epochs = np.arange(1, len(trace[way]["clean"]) + 1)
            panel.plot(epochs, trace[way]["clean"], color=_CLEAN, label="clean")
            panel.plot(epochs, trace[way]["noisy"], color=_NOISY, label="noisy")
            _mark(panel, trace["switch"], "memorization point", ":")
            panel.set(title=f"{model}, {name}", xlabel="epoch", ylabel="memory rate", ylim=(0, 1))
            panel.legend(loc=(0.5, 0.48), fontsize=8)
    return figure


def precision_and_recall(traces: Traces) -> Figure:
    """Fig. 3: memorization precision and recall in plain training, and where they meet."""
    figure, panels = _panels(1, len(traces))
    for panel, (model, trace) in zip(panels[0], traces.items(), strict=True):
        precision = np.array(trace["plain"]["precision"], dtype=float)  # None is NaN
        epochs = np.arange(1, len(precision) + 1)
        panel.plot(epochs, precision, color=_CLEAN, label="MP")
        panel.plot(epochs, trace["plain"]["clean"], color=_NOISY, label="MR")
        _mark(panel, trace["crossing"], "MP = MR", "--")
        _mark(panel, trace["switch"], "switch", ":")
        panel.set(title=model, xlabel="epoch", ylabel="MP, MR", ylim=(0, 1.02))
        panel.legend(loc="lower right", fontsize=8)
    return figure


def loss_distribution(traces: Traces) -> Figure:
    """Fig. 4: losses at the switch, scaled per user, with the mixture that was fitted to them."""
    figure, panels = _panels(1, len(traces))
    for panel, (model, trace) in zip(panels[0], traces.items(), strict=True):
        losses, mixture = trace["losses"], trace["losses"]["mixture"]
        total = sum(losses["clean"]) + sum(losses["noisy"])
        edges, highest = np.array(losses["edges"]), 1.0
        for name, colour in (("clean", _CLEAN), ("noisy", _NOISY)):
            heights = np.array(losses[name]) / (total * np.diff(edges))
            highest = max(highest, heights.max())
            panel.stairs(heights, edges, fill=True, alpha=0.4, color=colour, label=name)
        places = np.linspace(0, 1, 400)
        for colour, name, mean, variance, weight in zip(
            (_CLEAN, _NOISY), ("low component", "high component"),
            mixture["means"], mixture["variances"], mixture["weights"], strict=True,
        ):  # fmt: skip
            density = np.exp(-((places - mean) ** 2) / (2 * variance)) / np.sqrt(
                2 * np.pi * variance
            )
            panel.plot(places, weight * density, color=colour, label=name)
        panel.set(
            title=f"{model}: σ̂ {trace['noise_rate']:.3f}, true {trace['true_noise_rate']:.3f}",
            xlabel="loss, scaled per user", ylabel="density", yscale="log",
        )  # fmt: skip
        panel.set_ylim(0.01, 3 * highest)
        panel.legend(loc="upper right", fontsize=8)
    return figure


def weights(traces: Traces) -> Figure:
    """Fig. 5: the weights of clean and noisy interactions, and the weighting function."""
    figure, panels = _panels(len(traces), 2)
    for row, (model, trace) in zip(panels, traces.items(), strict=True):
        found = trace["weights"]
        edges = np.array(found["edges"])
        for name, colour in (("clean", _CLEAN), ("noisy", _NOISY)):
            shares = np.array(found[name]) / max(sum(found[name]), 1)
            row[0].stairs(shares, edges, fill=True, alpha=0.4, color=colour, label=name)
        row[0].set(title=f"{model}: weights", xlabel="weight", ylabel="share of its kind")
        row[0].legend(fontsize=8)
        row[1].plot(found["loss"], found["middle"], color="black", label="median")
        row[1].fill_between(
            found["loss"], found["low"], found["high"], color="grey", alpha=0.3,
            label="80 % of interactions", linewidth=0,
        )  # fmt: skip
        row[1].set(title=f"{model}: weighting function", xlabel="loss", ylabel="weight")
        row[1].set_ylim(bottom=0)
        row[1].legend(fontsize=8)
    return figure


FIGURES = {
    "figure1": memory_rates,
    "figure3": precision_and_recall,
    "figure4": loss_distribution,
    "figure5": weights,
}


def _panels(n_rows: int, n_columns: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.6 * n_columns, 3.2 * n_rows), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False)


def _mark(panel: Axes, epoch: int | None, label: str, style: str) -> None:
    if epoch is not None:
        panel.axvline(epoch, color="black", linestyle=style, linewidth=1, label=f"{label}: {epoch}")
