"""The page of an audit: what the file's rows, users and items look like."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdl_wrap.command.clicks import Clicks
from sgdl_wrap.command.columns import Columns
from sgdl_wrap.command.source import Source
from sgdl_wrap.command.verdict import Verdict, share_and_interval
from sgdl_wrap.report.charts import Frame, curves, histogram
from sgdl_wrap.report.page import Kind, Page, Table, in_words

MOST_ROWS, MOST_GROUPS = 2_000, 1_000  # of the tables
BINS, MOMENTS = 40, 48
UNSEEN = (
    "Clicks that look like preference: a click on what people of the same taste would have liked. "
    "Nothing in the clicks themselves tells that such a click was not meant. So a low share is no "
    "proof of clean data.",
    "Whether a strange click is wrong. Some tastes are rare, and some are new. Look at rows before "
    "you delete them.",
    "Deliberate attacks, if many false users agree with each other: they look like a taste.",
    "Anything beyond who clicked what: the kept columns and the time are shown, and not used.",
)


def audit_page(
    source: Source,
    columns: Columns,
    clicks: Clicks,
    verdict: Verdict,
    users: dict[str, NDArray[Any]],
    items: dict[str, NDArray[Any]],
) -> str:
    """The HTML file.

    Args:
        source, columns, clicks: of the file.
        verdict: on its rows.
        users, items: as :func:`~sgdl_wrap.command.answer.grouped` gives them.
    """
    charts = [_distribution(verdict)]
    over_time = _over_time(clicks, verdict)
    charts += [over_time] if over_time else []
    suspect_rows = int(verdict.suspect.sum())
    page = Page(
        title=f"Audit of {source.path.name}",
        kicker=f"Audit of {source.path.name}",
        headline=in_words(verdict.interval, "clicks"),
        interval=(*verdict.interval, verdict.share),
        lead=_lead(clicks, verdict, suspect_rows),
        facts=[
            ("rows", f"{clicks.rows:,}"),
            ("users", f"{len(clicks.users):,}"),
            ("items", f"{len(clicks.items):,}"),
            ("repeated", f"{clicks.repeats:,}"),
            ("without evidence", f"{int((~verdict.known).sum()):,}"),
            ("suspects", f"{suspect_rows:,}"),
        ],
        charts=charts,
        unseen=UNSEEN,
        tables=[
            _groups("users", users, "user", verdict.share),
            _groups("items", items, "item", verdict.share),
            _rows(source, columns, clicks, verdict, suspect_rows),
        ],
        colophon=_colophon(source, columns, clicks, verdict),
    )
    return page.html()


def _lead(clicks: Clicks, verdict: Verdict, suspects: int) -> list[str]:
    found = [
        "Such a click comes from a user who is no more like the item’s other users than a stranger "
        "is. The interval is as wide as the error that was measured on data whose noise is known: "
        "some real preferences look just as strange.",
    ]
    if suspects:
        found.append(
            f"{suspects:,} of {clicks.rows:,} rows are marked as suspects: as many as the middle "
            f"of the interval, {verdict.share:.1%}, supports, those with the highest probability "
            "of noise. Single rows are less sure than their number."
        )
    else:
        found.append("Nothing is sure enough to mark, so that no row is a suspect.")
    return found


def _distribution(verdict: Verdict) -> str:
    edges = np.linspace(0, 1, BINS + 1)
    counts, _ = np.histogram(verdict.suspicion[verdict.known], edges)
    marked, _ = np.histogram(verdict.suspicion[verdict.suspect], edges)
    return histogram(
        Frame(
            "How suspicious the clicks are",
            "Each bar holds the clicks of one suspicion, from 0, like a preference, to 1, like a "
            "click that nobody chose.",
            [(n / 4, f"{n / 4:g}") for n in range(5)], "suspicion",
        ),
        counts, marked, key=("other clicks", "suspects"),
        labels=[
            f"{low:.3f} to {high:.3f}: {count:,} clicks, {part:,} suspects"
            for low, high, count, part in zip(edges[:-1], edges[1:], counts, marked, strict=True)
        ],
    )  # fmt: skip


def _over_time(clicks: Clicks, verdict: Verdict) -> str | None:
    """The share of suspects by time, in parts of equal length; None without times."""
    if clicks.seconds is None:
        return None
    usable = verdict.known & ~np.isnan(clicks.seconds)
    times = clicks.seconds[usable]
    if len(times) == 0 or times.min() == times.max():
        return None
    # a few stray dates would press all others into one part
    low, high = np.quantile(times, [0.001, 0.999])
    low, high = (low, high) if low < high else (times.min(), times.max())
    edges = np.linspace(low, high, min(MOMENTS, max(4, len(times) // 100)) + 1)
    counts, _ = np.histogram(times, edges)
    marked, _ = np.histogram(times[verdict.suspect[usable]], edges)
    share, least, most = share_and_interval(marked.astype(np.float64), counts.astype(np.float64))
    middles = (edges[:-1] + edges[1:]) / 2
    return curves(
        Frame(
            "Suspects over time",
            "The share of suspects among the clicks of each moment. The band is how far it may be "
            "off by the number of clicks alone (95%).",
            [(n / 3, _day(low + (high - low) * n / 3, high - low)) for n in range(4)], "time, UTC",
        ),
        middles, [("noise", "share of suspects", share)],
        band=("how far it may be off", least, most), percent=True,
    )  # fmt: skip


def _groups(name: str, groups: dict[str, NDArray[Any]], what: str, share: float) -> Table:
    with_suspects = int((groups["suspects"] > 0).sum())
    shown = min(MOST_GROUPS, with_suspects)
    rows = [
        (str(one), clicks, suspects, (part, low, high))
        for one, clicks, suspects, part, low, high in zip(
            *(groups[key][:shown] for key in (what, "clicks", "suspects", "share", "low", "high")),
            strict=True,
        )
    ]
    return Table(
        name, f"{name.capitalize()} that stand out",
        f"The share of suspects among the clicks of each {what}; {share:.0%} is the share of all. "
        "The band is how sure that is, by the number of clicks alone (95%). Those whose share is "
        f"surely high come first: {shown:,} of {len(groups[what]):,}. All are in {name}.csv.",
        f"Find {'an' if what == 'item' else 'a'} {what}",
        [(what, "text"), ("clicks", "count"), ("suspects", "count"),
         ("share of suspects", "share")],
        rows, 3,
    )  # fmt: skip


def _rows(
    source: Source, columns: Columns, clicks: Clicks, verdict: Verdict, suspects: int
) -> Table:
    """The most suspicious rows, with the columns kept."""
    known = np.flatnonzero(verdict.known)
    order = np.lexsort((-verdict.suspicion[known], -verdict.probability[known]))
    first = np.sort(known[order[:MOST_ROWS]])
    kept = _kept(source, columns, first)
    with_time = clicks.seconds is not None
    span = np.nanmax(clicks.seconds) - np.nanmin(clicks.seconds) if (
        clicks.seconds is not None and not np.isnan(clicks.seconds).all()
    ) else 0.0
    rows = []
    for n, place in enumerate(first.tolist()):
        row: list[Any] = [place + 1, clicks.users[clicks.user[place]],
                          clicks.items[clicks.item[place]]]  # fmt: skip
        if with_time and clicks.seconds is not None:
            at = clicks.seconds[place]
            row.append(None if np.isnan(at) else _day(at, min(span, 86_400.0)))
        row += [values[n] for values in kept]
        rows.append([*row, verdict.suspicion[place], verdict.probability[place]])
    names: list[tuple[str, Kind]] = [("row", "count"), ("user", "text"), ("item", "text")]
    names += [("time", "time")] if with_time else []
    names += [(name, "text") for name in columns.keep]
    names += [("suspicion", "decimal"), ("probability of noise", "decimal")]
    return Table(
        "rows", "Most suspicious rows",
        f"The first {len(rows):,} rows by probability of noise, of {clicks.rows:,}; {suspects:,} "
        f"are suspects. All are in audit.{'parquet' if source.parquet else 'csv'}. Row 1 is the "
        "first one below the header.",
        "Find a user, an item or a word",
        names, rows, len(names) - 1,
    )  # fmt: skip


def _kept(source: Source, columns: Columns, rows: NDArray[np.int64]) -> list[list[str | None]]:
    """The kept columns of some rows, as text."""
    if not columns.keep:
        return []
    found: list[list[str | None]] = [[] for _ in columns.keep]
    done = 0
    for batch in source.batches(list(dict.fromkeys(columns.keep))):
        low, high = np.searchsorted(rows, [done, done + len(batch)])
        places = rows[low:high] - done
        done += len(batch)
        for values, name in zip(found, columns.keep, strict=True):
            some = batch.column(name).take(places).to_pylist()
            values += [None if value is None else str(value) for value in some]
    return found


def _colophon(source: Source, columns: Columns, clicks: Clicks, verdict: Verdict) -> str:
    broken = f" {clicks.broken:,} broken lines are left out." if clicks.broken else ""
    return (
        f"Written by sgdl-wrap from {source.path.name}: user is {columns.user!r}, item is "
        f"{columns.item!r}, time is {columns.time!r}.{broken} {verdict.pairs:,} distinct pairs "
        f"have evidence. The instrument was trained for {verdict.seconds:.0f} s; it is a small "
        "matrix factorization, or the model that --model names."
    )


def _day(seconds: float, span: float) -> str:
    """A moment, as finely as the span asks for."""
    moment = str(np.datetime64(int(seconds), "s"))
    return moment[:10] if span > 3 * 86_400 else moment[:16].replace("T", " ")
