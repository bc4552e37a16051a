"""The short scripts, each run as its reader would run it, on fewer epochs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from examples import lightgcn, neumf, resume, wrap_your_own


@pytest.fixture(autouse=True)
def _streams_kept() -> Iterator[None]:
    with torch.random.fork_rng():  # examples seed the global stream, as users do
        yield


@pytest.mark.parametrize(("script", "epochs"), [(neumf, 7), (lightgcn, 11)])
def test_a_model_is_denoised_and_evaluated(
    script: object, epochs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(["--epochs", str(epochs)])  # type: ignore[attr-defined]
    printed = capsys.readouterr().out
    assert printed.count("validation NDCG@20 0.") == epochs
    assert f"epoch {epochs}: self_guided" in printed
    assert re.search(r"^test: recall@5 0\.\d+", printed, flags=re.MULTILINE)
    switch = re.search(r"^switch after epoch (\d+), noise share \(low, high\) \(0\.", printed, re.M)
    assert switch is not None
    assert 4 <= int(switch.group(1)) < epochs  # no sooner than half a history


@pytest.mark.parametrize("script", [neumf, lightgcn])
def test_plain_training_has_the_epochs_of_phase_i(
    script: object, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for options in ([], ["--plain"]):
        script.main(["--epochs", "2", *options])  # type: ignore[attr-defined]
        found.append(re.findall(r"NDCG@20 (0\.\d+)", capsys.readouterr().out))
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_ones_own_model_finds_more_noise_than_chance(capsys: pytest.CaptureFixture[str]) -> None:
    wrap_your_own.main(["--epochs", "8"])
    printed = capsys.readouterr().out
    assert "epoch 8: self_guided" in printed
    found = re.search(r"most suspicious: (0\.\d+), among all: (0\.\d+)", printed)
    assert found is not None
    first, all_ = map(float, found.groups())
    assert first > all_ + 0.15  # models of seeds 1 and 2: .64 and .63, against .25


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume.main(["--checkpoint", str(tmp_path / "whole.pt"), "--epochs", "9"])
    whole = re.findall(r"epoch \d+: .*", capsys.readouterr().out)
    assert "self_guided" in whole[-1]
    cut = ["--checkpoint", str(tmp_path / "cut.pt"), "--epochs"]
    resume.main([*cut, "7"])
    first = re.findall(r"epoch \d+: .*", capsys.readouterr().out)
    command = [sys.executable, "-m", "examples.resume", *cut, "9"]
    rest = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert "goes on after epoch 7" in rest.stdout
    assert first + re.findall(r"epoch \d+: .*", rest.stdout) == whole
