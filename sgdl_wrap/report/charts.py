"""Charts as HTML: shapes that stretch with the page, words that do not."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ticks = Sequence[tuple[float, str]]  # places in [0, 1], and words
Key = Sequence[tuple[str, str]]  # classes of colour, and words


@dataclass(frozen=True)
class Frame:
    """What stands around a chart.

    Attributes:
        title, caption: above it.
        x, x_name: marks and name of the axis below.
    """

    title: str
    caption: str
    x: Ticks
    x_name: str


def histogram(
    frame: Frame,
    counts: NDArray[np.int64],
    marked: NDArray[np.int64],
    *,
    key: tuple[str, str],
    labels: Sequence[str],
) -> str:
    """Bars of counts, a part of each marked.

    Args:
        frame: around it.
        counts: of each bar, (bars,).
        marked: of those, (bars,).
        key: words for what is not marked, and for what is.
        labels: of each bar, shown when one points at it.
    """
    highest = max(int(counts.max()), 1)
    bars, width = [], 100 / len(counts)
    for n, (count, part, label) in enumerate(zip(counts, marked, labels, strict=True)):
        tall, low = 100 * count / highest, 100 * part / highest
        words = f"<title>{html.escape(label)}</title>"
        place = f'x="{n * width + width * 0.06:.3f}" width="{width * 0.88:.3f}"'
        bars.append(
            f'<rect class="calm" {place} y="{100 - tall:.3f}" height="{tall - low:.3f}">'
            f'{words}</rect><rect class="noise" {place} y="{100 - low:.3f}" height="{low:.3f}">'
            f"{words}</rect>"
        )
    colours = [("calm", key[0]), ("noise", key[1])]
    return _chart(frame, "".join(bars), _marks(highest), colours)


def curves(
    frame: Frame,
    x: NDArray[np.float64],
    lines: Sequence[tuple[str, str, NDArray[np.float64]]],
    *,
    band: tuple[str, NDArray[np.float64], NDArray[np.float64]] | None = None,
    top: float | None = None,
    percent: bool = False,
) -> str:
    """Lines over x, and a band.

    Args:
        frame: around it.
        x: places of the points, (points,), ascending.
        lines: colour ("noise" or "calm"), words, and values >= 0, (points,), each; NaN has none.
        band: words, lowest and highest values, (points,) each.
        top: of the axis; None is the highest value.
        percent: whether values are shares.
    """
    values = [line for _, _, line in lines] + ([band[2]] if band else [])
    highest = float(np.nanmax(np.concatenate(values))) if top is None else top
    highest = highest if highest > 0 else 1.0
    places = 100 * (x - x[0]) / ((x[-1] - x[0]) or 1.0)

    def points(y: NDArray[np.float64]) -> list[str]:
        known = ~np.isnan(y)
        up = 100 - 100 * np.minimum(y[known] / highest, 1)
        return [f"{a:.2f},{b:.2f}" for a, b in zip(places[known], up, strict=True)]

    shapes, key = [], []
    if band is not None:
        words, low, high = band
        outline = " ".join(points(high) + points(low)[::-1])
        shapes.append(f'<polygon points="{outline}"><title>{html.escape(words)}</title></polygon>')
    for colour, words, line in lines:
        shapes.append(f'<polyline class="{colour}" points="{" ".join(points(line))}"/>')
        key.append(("focus" if colour == "calm" else "noise", words))
    if band is not None:
        key.append(("band", band[0]))
    scale = _marks(highest, percent=percent)
    return _chart(frame, "".join(shapes), scale, key)


def _marks(highest: float, *, percent: bool = False) -> Ticks:
    """Marks of an axis from 0, at round numbers, two to six of them."""
    power = 10.0 ** np.floor(np.log10(highest))
    step = next(power * part for part in (0.2, 0.5, 1, 2) if highest / (power * part) <= 5)
    digits = max(0, -int(np.floor(np.log10(step) + 1e-9)))
    values = [n * step for n in range(int(highest / step + 1e-9) + 1)]
    if percent:
        return [(value / highest, f"{value:.{max(0, digits - 2)}%}") for value in values]
    return [(value / highest, f"{value:,.{digits}f}") for value in values]


def _chart(frame: Frame, shapes: str, y: Ticks, key: Key) -> str:
    title, caption = html.escape(frame.title), html.escape(frame.caption)
    grid = "".join(
        f'<line x1="0" x2="100" y1="{100 - 100 * place:.2f}" y2="{100 - 100 * place:.2f}"/>'
        for place, _ in y
        if place > 0
    )
    up = "".join(
        f'<span style="top:{100 - 100 * place:.2f}%">{html.escape(word)}</span>'
        for place, word in y
    )
    across = "".join(
        f'<span class="{_kind(place, word)}" style="left:{100 * place:.2f}%">'
        f"{html.escape(word)}</span>"
        for place, word in frame.x
    )
    colours = "".join(
        f'<span><i class="{colour}"></i>{html.escape(word)}</span>' for colour, word in key
    )
    return (
        f'<section><h2>{title}</h2><p class="caption">{caption}</p>'
        f'<div class="axis key">{colours}</div><div class="plot axis"><div class="y">{up}</div>'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{title}">{grid}{shapes}</svg><div class="x">{across}</div>'
        f'</div><div class="axis axis-name">{html.escape(frame.x_name)}</div></section>'
    )


def _kind(place: float, word: str) -> str:
    """Where words end with the axis, and which ones leave when there is little room."""
    return f"{'last' if place > 0.97 else ''}{' long' if len(word) > 6 else ''}"
