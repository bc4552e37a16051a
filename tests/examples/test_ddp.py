from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from examples import ddp


def test_two_processes_started_by_torchrun_denoise_one_model() -> None:
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch is built without gloo")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "examples.ddp", "--epochs", "8", "--history-length", "6",
    ]  # fmt: skip
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False,
        cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    epochs = [line for line in ran.stdout.splitlines() if line.startswith("epoch ")]
    assert [int(line.split()[1].rstrip(":")) for line in epochs] == list(range(1, 9))
    assert "self_guided" in epochs[-1]
    assert re.search(r"^memorization point: [3-7]$", ran.stdout, flags=re.MULTILINE)
    auc = re.search(r"with AUC (0\.\d+)$", ran.stdout, flags=re.MULTILINE)
    assert auc is not None
    assert float(auc.group(1)) != 0.5  # the weights differ


def test_one_process_needs_no_launcher(capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng():  # the example seeds the global stream, as users do
        ddp.main(["--epochs", "3", "--history-length", "2"])
    said = capsys.readouterr().out
    assert "epoch 3: self_guided" in said
    assert "memorization point: 2" in said
    assert not dist.is_initialized()
