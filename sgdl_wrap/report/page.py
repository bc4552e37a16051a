"""A page to look at: one HTML file that opens offline and fetches nothing."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any, Literal

Kind = Literal["text", "time", "count", "decimal", "share"]


@dataclass(frozen=True)
class Table:
    """A table that sorts and searches.

    Attributes:
        name: of the section, for links to it.
        title, caption: above it.
        search: what the field says in which one searches.
        columns: their names and kinds.
        rows: a value a column each; None is unknown, a share is (share, low, high).
        sorted_by: the column by which rows come sorted, highest first.
    """

    name: str
    title: str
    caption: str
    search: str
    columns: Sequence[tuple[str, Kind]]
    rows: Sequence[Sequence[Any]]
    sorted_by: int

    def plain(self) -> dict[str, Any]:
        """As the page's script reads it."""
        return {
            "id": self.name, "title": self.title, "caption": self.caption, "search": self.search,
            "columns": [{"name": name, "kind": kind} for name, kind in self.columns],
            "rows": [[_plain(value) for value in row] for row in self.rows],
            "sorted": self.sorted_by,
        }  # fmt: skip


@dataclass(frozen=True)
class Page:
    """What a page says, in its order. Words are text, whatever they hold; only `charts` are HTML.

    Attributes:
        title: of the browser's tab.
        kicker: a quiet line above the headline.
        headline: the answer, in words.
        interval: of the share of noise, and its middle; None where nothing is known.
        lead: paragraphs below.
        facts: names and values.
        charts: HTML, as `report.charts` draws them.
        unseen: what the answer does not see.
        tables: at the end.
        colophon: how it was made.
    """

    title: str
    kicker: str
    headline: str
    interval: tuple[float, float, float] | None
    lead: Sequence[str]
    facts: Sequence[tuple[str, str]]
    charts: Sequence[str]
    unseen: Sequence[str]
    tables: Sequence[Table]
    colophon: str

    def html(self) -> str:
        """The whole file."""
        facts = "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
            for name, value in self.facts
        )
        return Template(_part("page.html")).substitute(
            title=html.escape(self.title),
            style=_part("page.css"),
            kicker=html.escape(self.kicker),
            headline=html.escape(self.headline),
            scale="" if self.interval is None else _scale(*self.interval),
            lead="\n".join(f"<p>{html.escape(text)}</p>" for text in self.lead),
            facts=f'<dl class="facts">{facts}</dl>' if facts else "",
            charts="\n".join(self.charts),
            unseen="\n".join(f"<li>{html.escape(text)}</li>" for text in self.unseen),
            colophon=html.escape(self.colophon),
            data=_json([table.plain() for table in self.tables]),
            script=_part("page.js"),
        )


def in_words(interval: tuple[float, float], what: str) -> str:
    """A headline: how noisy, and how sure.

    Args:
        interval: where the share of noise lies.
        what: that is counted, as "clicks".
    """
    low, high = interval
    if round(low, 2) > 0:
        return f"Between {low:.0%} and {high:.0%} of these {what} look as if nobody chose them."
    return f"At most {high:.0%} of these {what} look as if nobody chose them, and perhaps none."


def _part(name: str) -> str:
    return (resources.files("sgdl_wrap.report") / "template" / name).read_text("utf-8")


def _scale(low: float, high: float, middle: float) -> str:
    words = f"Noise share between {low:.0%} and {high:.0%}, middle {middle:.0%}"
    return (
        f'<div class="scale" role="img" aria-label="{words}"><div class="track">'
        f'<div class="reach" style="left:{low:.1%};width:{high - low:.1%}"></div>'
        f'<div class="middle" style="left:{middle:.1%}"></div></div>'
        '<div class="ends"><span>no noise</span><span>all noise</span></div></div>'
    )


def _json(value: Any) -> str:
    """JSON that no browser takes for the end of a script, whatever it holds."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        found = [_plain(one) for one in value]
        return None if None in found else found
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value
