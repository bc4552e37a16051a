from __future__ import annotations

import os
import re

import pytest

from tests.support.models_zoo import seeded

pytest.importorskip("transformers")
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is asked of the network

from examples import huggingface_example


# a BERT learns from fewer items an epoch
@pytest.mark.parametrize(("model", "epochs"), [("gpt", "10"), ("bert", "25")])
def test_both_runs_end_and_the_noise_is_found(
    model: str, epochs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with seeded(0):  # the example seeds the global streams, as users do
        huggingface_example.main(["--model", model, "--epochs", epochs, "--history-length", "6"])
    said = capsys.readouterr().out
    plain, denoised = re.findall(r"hit rate@10 (0\.\d+)", said)
    assert min(float(plain), float(denoised)) > 0.1
    assert re.search(r"^noise share 0\.\d+ to 0\.\d+, in truth 0\.\d+$", said, re.MULTILINE)
    assert float(re.search(r"with AUC (0\.\d+)$", said, flags=re.MULTILINE)[1]) > 0.7
