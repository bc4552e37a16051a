"""A log is told how long the command will go on; a terminal has a bar."""

from __future__ import annotations

import io

import pytest

from sgdl_wrap.command.progress import Progress


def test_a_log_has_a_few_lines_with_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, *(100.0 + 2 * n for n in range(1, 100))])  # the first step loads much
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    log = io.StringIO()
    progress = Progress(log)
    for done in range(1, 101):
        progress(done, 100)
    progress.close()
    assert log.getvalue().splitlines() == [
        "training: 5%, about 190 s to go",
        "training: 25%, about 150 s to go",
        "training: 50%, about 100 s to go",
        "training: 75%, about 50 s to go",
    ]


def test_a_terminal_has_a_bar() -> None:
    pytest.importorskip("tqdm")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    progress = Progress(terminal)
    for done in range(1, 4):
        progress(done, 3)
    progress.close()
    assert "training:" in terminal.getvalue()
    assert "about" not in terminal.getvalue()
