from __future__ import annotations

import re

import pytest
import torch.distributed as dist

from tests.examples.conftest import Run

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def test_two_processes_denoise_one_model(run_alone: Run) -> None:
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this torch is built without gloo")
    printed = run_alone("ddp", "--epochs", "8", "--history-length", "6", launcher=TWO)
    epochs = [line for line in printed.splitlines() if line.startswith("epoch ")]
    assert [int(line.split()[1].rstrip(":")) for line in epochs] == list(range(1, 9))
    assert "self_guided" in epochs[-1]
    assert re.search(r"^NDCG@20 0\.\d+$", printed, re.M)
    assert re.search(r"^memorization point: [3-7]$", printed, re.M)
    auc = re.search(r"with AUC (0\.\d+)$", printed, re.M)
    assert auc is not None
    assert float(auc[1]) > 0.6


def test_one_process_needs_no_launcher(run_alone: Run) -> None:
    printed = run_alone("ddp", "--epochs", "5", "--history-length", "2")
    assert "epoch 5: self_guided" in printed
