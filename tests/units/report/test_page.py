"""The page as a file: whole in itself, with every word as text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from sgdl_wrap import DenoiserConfig, OrderError
from sgdl_wrap.report.charts import Frame, curves, histogram
from sgdl_wrap.report.page import Page, Table, in_words
from sgdl_wrap.report.run_page import write_page
from tests.support.models_zoo import SWITCHING, WATCHING, build, train

HOSTILE = "</script><script>alert('x')</script>&\"<b>"
FRAME = Frame(HOSTILE, HOSTILE, [(0.0, HOSTILE)], HOSTILE)


def page(**changes: object) -> Page:
    """A page that says something hostile wherever it says something."""
    given: dict[str, object] = {
        "title": HOSTILE, "kicker": HOSTILE, "headline": HOSTILE, "interval": (0.1, 0.35, 0.2),
        "lead": [HOSTILE], "facts": [(HOSTILE, HOSTILE)],
        "charts": [
            curves(FRAME, np.arange(3.0), [("noise", HOSTILE, np.arange(3.0))]),
            histogram(FRAME, np.array([3, 1]), np.array([1, 1]), key=(HOSTILE, HOSTILE),
                      labels=[HOSTILE, HOSTILE]),
        ],
        "unseen": [HOSTILE], "colophon": HOSTILE,
        "tables": [
            Table("rows", HOSTILE, HOSTILE, HOSTILE, [(HOSTILE, "text"), ("x", "share")],
                  [(HOSTILE, (np.float64(0.5), 0.25, 1.0)), (HOSTILE, (np.nan, np.nan, np.nan))], 1)
        ],
    }  # fmt: skip
    return Page(**{**given, **changes})  # type: ignore[arg-type]


def test_whatever_words_hold_they_are_text() -> None:
    text = page().html()
    assert "<script>alert" not in text
    assert "<b>" not in re.sub(r"<script>.*", "", text, flags=re.DOTALL)
    assert text.count("</script>") == 2  # of the data and of the page's own


def test_data_come_back_as_they_were_and_nan_is_unknown() -> None:
    found = re.search(r'id="data">(.*?)</script>', page().html(), re.DOTALL)
    assert found is not None
    (table,) = json.loads(found[1])
    assert table["title"] == HOSTILE
    assert table["rows"] == [[HOSTILE, [0.5, 0.25, 1.0]], [HOSTILE, None]]


def test_nothing_is_fetched_from_elsewhere() -> None:
    text = page().html()
    assert not re.findall(r"https?://|@import|url\(|\bsrc=\"(?!data:)", text)
    assert "default-src 'none'" in text


@pytest.mark.parametrize(
    ("interval", "says"),
    [
        ((0.02, 0.27), "Between 2% and 27% of these clicks look as if nobody chose them."),
        ((0.004, 0.15), "At most 15% of these clicks look as if nobody chose them, and perhaps "
         "none."),
    ],
)  # fmt: skip
def test_the_headline_says_how_noisy_and_how_sure(interval: tuple[float, float], says: str) -> None:
    assert in_words(interval, "clicks") == says


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (DenoiserConfig(audit_only=True), "Training was left as it is, and watched."),
        (SWITCHING, "Phase II began after epoch 1"),
        (WATCHING, "Phase I goes on"),
    ],
)
def test_a_run_has_a_page(tmp_path: Path, config: DenoiserConfig, says: str) -> None:
    denoiser = build(config=config)
    train(denoiser, epochs=3)
    write_page(denoiser, tmp_path / "page.html", title="Mine & yours")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert says in text
    assert "Mine &amp; yours" in text
    assert "Memorized, epoch by epoch" in text
    rows = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])[0]["rows"]  # type: ignore[index]
    report = denoiser.report()
    assert [row[:2] for row in rows] == [[str(r["user"]), str(r["item"])] for r in report]


def test_a_run_without_an_epoch_has_no_page(tmp_path: Path) -> None:
    denoiser = build()
    with pytest.raises(OrderError, match=r"Expected report after some batches, got none\."):
        write_page(denoiser, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
