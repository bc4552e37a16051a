"""docs/audit.md: its generator, its command and its judge, as they stand there, on fewer rows."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sgdl_wrap.command.cli import main
from tests.support.models_zoo import build, train

PAGE = (Path(__file__).parents[3] / "docs" / "audit.md").read_text(encoding="utf-8")


def blocks() -> list[str]:
    """The Python blocks: the generator, the judge, and the page of a run."""
    return re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_page_finds_the_noise_that_it_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, judge, _ = blocks()
    monkeypatch.chdir(tmp_path)
    small = [sys.executable, "-c", generator, "20000", "800", "0.15"]
    subprocess.run(small, check=True)
    (command,) = {line for line in PAGE.splitlines() if line.startswith("sgdl-wrap audit clicks")}
    assert main(shlex.split(command)[1:]) == 0
    judged = [sys.executable, "-c", judge]
    told = subprocess.run(judged, check=True, capture_output=True, text=True).stdout
    found = {name: float(value) for name, value in re.findall(r"(\w+) (\.?\d*\.?\d+)", told)}
    assert found["precision"] > 2 * found["noise"]
    assert found["recall"] > 0.15


def test_the_page_of_a_run_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    denoiser = build()
    train(denoiser, epochs=2)
    exec(compile(blocks()[-1], "docs/audit.md", "exec"), {"denoiser": denoiser})
    assert "Memorized, epoch by epoch" in (tmp_path / "page.html").read_text(encoding="utf-8")
