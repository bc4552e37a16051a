"""The page of a run: ``write_page(denoiser, path)``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sgdl_wrap.errors import OrderError
from sgdl_wrap.records import Phase
from sgdl_wrap.report.charts import Frame, Ticks, curves, histogram
from sgdl_wrap.report.page import Page, Table, in_words

if TYPE_CHECKING:
    from sgdl_wrap.denoiser import SelfGuidedDenoiser

MOST_ROWS = 2_000  # of the table
BINS = 40
UNSEEN = (
    "Clicks that look like preference: a click on what people of the same taste would have liked. "
    "No method sees from clicks alone that such a click was not meant.",
    "Whether a strange click is wrong. Some tastes are rare, and some are new. Look at rows before "
    "you delete them.",
    "Deliberate attacks, if many false users agree with each other: they look like a taste.",
    "Noise that a model has memorized by then: in a long training, the interval comes out too low.",
)


def write_page(
    denoiser: SelfGuidedDenoiser, path: str | os.PathLike[str], *, title: str | None = None
) -> None:
    """Writes the page of a run: one HTML file, which opens offline and fetches nothing.

    How noisy the interactions are, in words first; the curves of the run; the most suspicious
    interactions, to sort and to search. `draw_page` draws more of the method, as a picture.

    Args:
        denoiser: after an epoch.
        path: of the file; one that is there is replaced.
        title: a line above the headline.

    Raises:
        OrderError: no epoch has ended, or the denoiser is disabled.
    """
    report, records = denoiser.report(), denoiser.history
    if not records:
        raise OrderError("Expected a page after an epoch, got none ended. Call end_epoch first.")
    share, middle = denoiser.noise_share, records[-1].noise_share
    epochs = np.array([record.epoch for record in records], dtype=np.float64)
    ticks = _epochs(len(records))
    charts = []
    suspicion = report["suspicion"]
    known = ~np.isnan(suspicion)
    if known.any():
        charts.append(suspicion_chart(suspicion[known], report["memorized"][known]))
    clean = np.array([_nan(record.clean_ratio) for record in records])
    memorized = np.array([record.memorized_ratio for record in records])
    charts.append(
        curves(
            Frame(
                "Memorized, epoch by epoch",
                "The share of interactions that the model ranks among each user's first. Phase II "
                "begins when it meets the share that is estimated to be clean.",
                ticks, "epoch",
            ),
            epochs,
            [("calm", "memorized", memorized), ("noise", "clean, estimated", clean)],
            top=1.0, percent=True,
        )
    )  # fmt: skip
    losses = np.array([record.loss for record in records])
    charts.append(
        curves(
            Frame(
                "Loss, epoch by epoch", "The mean of the losses, without weights.", ticks, "epoch",
            ),
            epochs, [("calm", "loss", losses)],
        )
    )  # fmt: skip
    phase = "Phase I" if denoiser.phase is Phase.MEMORIZATION else "Phase II"
    page = Page(
        title=title or "A run of sgdl-wrap",
        kicker=title or "A run of sgdl-wrap",
        headline=(
            "How many interactions are noise is not known yet."
            if share is None
            else in_words(share, "interactions")
        ),
        interval=None if share is None or middle is None else (*share, middle),
        lead=[_phase_in_words(denoiser)],
        facts=[
            ("interactions", f"{len(report):,}"), ("users", f"{len(np.unique(report['user'])):,}"),
            ("items", f"{len(np.unique(report['item'])):,}"), ("epochs", f"{len(records)}"),
            ("phase", phase),
        ],
        charts=charts,
        unseen=UNSEEN,
        tables=[
            Table(
                "rows", "Most suspicious interactions",
                f"The first {min(MOST_ROWS, len(report)):,} of {len(report):,}; denoiser.report() "
                "has all of them.",
                "Find a user or an item",
                [
                    ("user", "text"), ("item", "text"), ("suspicion", "decimal"),
                    ("probability of noise", "decimal"), ("weight", "decimal"), ("loss", "decimal"),
                ],
                [
                    (str(row["user"]), str(row["item"]), row["suspicion"], row["noise_posterior"],
                     row["weight"], row["loss"])
                    for row in report.rows[:MOST_ROWS]
                ],
                2,
            )
        ],
        colophon="Written by sgdl-wrap, from denoiser.report() and denoiser.history.",
    )  # fmt: skip
    Path(path).write_text(page.html(), encoding="utf-8")


def suspicion_chart(suspicion: np.ndarray, memorized: np.ndarray) -> str:
    """How suspicious interactions are, those that the model has not memorized marked."""
    edges = np.linspace(0, 1, BINS + 1)
    counts, _ = np.histogram(suspicion, edges)
    marked, _ = np.histogram(suspicion[~memorized], edges)
    return histogram(
        Frame(
            "How suspicious interactions are",
            "Each bar holds the interactions of one suspicion, from 0, like a preference, to 1, "
            "like one that nobody chose.",
            [(n / 4, f"{n / 4:g}") for n in range(5)], "suspicion",
        ),
        counts, marked, key=("memorized", "not memorized"),
        labels=[f"{low:.2f} to {high:.2f}: {count:,}" for low, high, count in
                zip(edges[:-1], edges[1:], counts, strict=True)],
    )  # fmt: skip


def _phase_in_words(denoiser: SelfGuidedDenoiser) -> str:
    if denoiser.config.audit_only:
        return "Training was left as it is, and watched."
    if denoiser.phase is Phase.MEMORIZATION:
        return (
            "Phase I goes on: the model trains as without the denoiser, which watches. All weights "
            "are one."
        )
    return (
        f"Phase II began after epoch {denoiser.memorization_point}: since then, suspicious "
        "interactions count less."
    )


def _epochs(count: int) -> Ticks:
    step = max(1, round(count / 6))
    return [((n - 1) / max(count - 1, 1), f"{n}") for n in range(1, count + 1, step)]


def _nan(value: float | None) -> float:
    return np.nan if value is None else value
