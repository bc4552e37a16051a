from __future__ import annotations

import re

import pytest

from tests.examples.conftest import Run

pytest.importorskip("transformers")


# a BERT learns from fewer items an epoch
@pytest.mark.parametrize(("model", "epochs"), [("gpt", "10"), ("bert", "25")])
def test_both_runs_end_and_the_noise_is_found(
    run_alone: Run, monkeypatch: pytest.MonkeyPatch, model: str, epochs: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # nothing is asked of the network
    said = run_alone(
        "huggingface_example", "--model", model, "--epochs", epochs, "--history-length", "6"
    )
    plain, denoised = re.findall(r"hit rate@10 (0\.\d+)", said)
    assert min(float(plain), float(denoised)) > 0.1
    assert re.search(r"^noise share 0\.\d+ to 0\.\d+, in truth 0\.\d+$", said, re.MULTILINE)
    auc = re.search(r"with AUC (0\.\d+)$", said, flags=re.MULTILINE)
    assert auc is not None
    assert float(auc[1]) > 0.7
