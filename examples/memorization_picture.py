"""The picture of the memorization curve: when the model has memorized what is clean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sgdl_wrap import SelfGuidedDenoiser


def save_memorization_picture(
    denoisers: Mapping[str, SelfGuidedDenoiser],
    path: str | Path,
    *,
    true_clean_ratio: float | None = None,
) -> None:
    """Saves one panel per denoiser: memorized and clean ratio per epoch, and the switch.

    Args:
        denoisers: the denoisers after training, by the title of their panel.
        path: file to write; its ending chooses the format.
        true_clean_ratio: drawn as a dotted line where it is known.

    Raises:
        ImportError: matplotlib is not installed.

    Source: after Fig. 4 of the SGDL paper.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Expected matplotlib to draw the picture, got none. "
            "Run `pip install matplotlib`, or leave out --out."
        ) from error

    figure = Figure(figsize=(5.2 * len(denoisers), 3.8), layout="constrained")
    panels = figure.subplots(1, len(denoisers), squeeze=False)[0]
    for panel, (title, denoiser) in zip(panels, denoisers.items(), strict=True):
        epochs = [record.epoch for record in denoiser.history]
        panel.plot(
            epochs, [record.memorized_ratio for record in denoiser.history], label="memorized"
        )
        estimates = [record for record in denoiser.history if record.clean_ratio is not None]
        panel.plot(
            [record.epoch for record in estimates],
            [record.clean_ratio for record in estimates],
            label="clean, estimated",
        )
        if true_clean_ratio is not None:
            panel.axhline(true_clean_ratio, color="grey", linestyle=":", label="clean, true")
        if denoiser.memorization_point is not None:
            panel.axvline(
                denoiser.memorization_point,
                color="black",
                linestyle="--",
                linewidth=1,
                label="switch",
            )
        panel.set(title=title, xlabel="epoch", ylabel="share of train interactions", ylim=(0, 1))
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.legend(loc="lower right")
    figure.savefig(path, dpi=150)
