"""Lines about a long ranking, none about a short one."""

from __future__ import annotations

import logging

import pytest

from sgdl_wrap.report import ranking_log
from sgdl_wrap.report.ranking_log import RankingLog


def test_a_line_comes_at_most_every_few_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 101.0, 105.0, 109.0, 111.0])
    monkeypatch.setattr(ranking_log.time, "monotonic", lambda: next(clock))
    caplog.set_level(logging.INFO, logger="sgdl_wrap")
    log = RankingLog()
    for done in (1_000, 2_000, 3_000, 4_000):
        log(done, 20_000_000)
    assert [record.getMessage() for record in caplog.records] == [
        "ranked 2,000 of 20,000,000 interactions",
        "ranked 4,000 of 20,000,000 interactions",
    ]
