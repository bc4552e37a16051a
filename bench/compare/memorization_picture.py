"""The picture of the memorization curve: when the model has memorized what is clean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sgdl_wrap import SelfGuidedDenoiser
from sgdl_wrap.report.pictures import draw_memory_curve


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
        draw_memory_curve(panel, denoiser, true_clean_ratio=true_clean_ratio)
        panel.set_title(title)
    figure.savefig(path, dpi=150)
