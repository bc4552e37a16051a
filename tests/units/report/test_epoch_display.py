"""One line an epoch: silent unless asked for, on terminals and in files, with tqdm or without."""

from __future__ import annotations

import io
import logging
import re
import sys
from typing import Any

import pytest
import tqdm as tqdm_module

from sgdl_wrap import EpochRecord, Phase
from sgdl_wrap.report.epoch_display import EpochDisplay, epoch_line
from tests.support.models_zoo import SWITCHING, tiny_data, tiny_denoiser, train

DATA = tiny_data()
FIRST = EpochRecord(
    epoch=3, phase=Phase.MEMORIZATION, memorized_ratio=0.25, clean_ratio=0.78, noise_rate=0.22,
    loss=0.312, mean_weight=1.0, seconds=0.521, plain_seconds=0.4,
)  # fmt: skip
LATER = EpochRecord(
    epoch=21, phase=Phase.SELF_GUIDED, memorized_ratio=0.8, clean_ratio=0.78, noise_rate=0.22,
    loss=0.2, mean_weight=0.951, seconds=2.0, skipped=2, noise_share=0.12,
    suspicious_weight=0.41, rare_weight=0.93, effective_share=0.87,
)  # fmt: skip
LINE = (
    "epoch 3, memorization: memorized 0.250 of 0.780 clean, σ̂ 0.220, loss 0.3120, 0.52 s, "
    "1.3x plain"
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_says_what_is_known_of_an_epoch() -> None:
    assert epoch_line(FIRST) == LINE
    assert epoch_line(LATER) == (
        "epoch 21, self-guided: memorized 0.800 of 0.780 clean, σ̂ 0.220, noise share 0.12, "
        "weights of the suspicious tenth 0.41 of the rest's, of the rare fifth 0.93, effective "
        "0.87, loss 0.2000, 2.00 s, 2 batches left out"
    )


def test_silent_by_default(capfd: pytest.CaptureFixture[str]) -> None:
    train(tiny_denoiser(DATA, "lightgcn", config=SWITCHING), epochs=3)
    assert capfd.readouterr() == ("", "")


def test_disabled_there_is_nothing_to_show(capfd: pytest.CaptureFixture[str]) -> None:
    train(tiny_denoiser(DATA, "lightgcn", enabled=False, progress=True), epochs=3)
    assert capfd.readouterr() == ("", "")


def test_the_log_has_a_line_an_epoch(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sgdl_wrap")
    denoiser = tiny_denoiser(DATA, "lightgcn", config=SWITCHING)
    train(denoiser, epochs=3)
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("epoch ")]
    assert lines == [epoch_line(record) for record in denoiser.history]
    assert {r.name for r in caplog.records} == {"sgdl_wrap"}


@pytest.mark.parametrize("installed", [True, False])
def test_asked_for_a_file_gets_a_line_an_epoch_and_no_bars(
    installed: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    denoiser = tiny_denoiser(DATA, "lightgcn", config=SWITCHING, progress=True)
    train(denoiser, epochs=3)
    out, err = capfd.readouterr()
    assert out == ""
    first, *others = map(epoch_line, denoiser.history)
    sentence = "Switched after epoch 1: from now on each sample has a weight of its own."
    assert err.splitlines() == [first, sentence, *others]


def test_when_all_evidence_is_gathered_a_sentence_says_what_came_of_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    denoiser = tiny_denoiser(DATA, "lightgcn", config=SWITCHING, progress=True)
    train(denoiser, epochs=12)
    *_, eleventh, sentence, twelfth = capfd.readouterr().err.splitlines()
    assert [eleventh, twelfth] == [epoch_line(record) for record in denoiser.history[-2:]]
    assert sentence.startswith("Denoised from epoch 2 on: the most suspicious tenth of the ")


def test_a_terminal_gets_a_bar_that_the_line_replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tqdm_module.tqdm, "monitor_interval", 0)  # no thread
    terminal = Terminal()
    display = EpochDisplay(1_000, file=terminal)
    for observed in (300, 1_000):
        display.show(3, Phase.MEMORIZATION, observed)
        display._bar.refresh()  # tqdm draws at most every tenth of a second
    display.end(FIRST)
    display.show(4, Phase.SELF_GUIDED, 10)
    drawn = terminal.getvalue()
    assert re.search(r"epoch 3, memorization: +30%.* 300/1000 ", drawn)
    assert "1000/1000" in drawn
    end = drawn.rindex("\n")
    assert visible(drawn[:end]) == LINE
    assert "epoch 4, self-guided:" in drawn[end:]
    display._bar.close()


def visible(written: str) -> str:
    """What stands on a terminal's line when all of it was written."""
    line: list[str] = []
    at = 0
    for character in written:
        if character == "\r":
            at = 0
            continue
        line[at : at + 1] = [character]
        at += 1
    return "".join(line).rstrip()


def test_without_tqdm_a_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    terminal: Any = Terminal()
    display = EpochDisplay(1_000, file=terminal)
    display.show(3, Phase.MEMORIZATION, 300)
    display.end(FIRST)
    assert terminal.getvalue() == f"{LINE}\n"


def test_showing_progress_changes_no_parameter(capfd: pytest.CaptureFixture[str]) -> None:
    quiet, shown = (
        tiny_denoiser(DATA, "lightgcn", config=SWITCHING, progress=progress)
        for progress in (False, True)
    )
    train(quiet, epochs=3)
    train(shown, epochs=3)
    for one, other in zip(quiet.model.parameters(), shown.model.parameters(), strict=True):
        assert one.equal(other)
    assert capfd.readouterr().err
