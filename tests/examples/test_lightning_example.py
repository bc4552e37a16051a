from __future__ import annotations

import re

import pytest

from tests.support.models_zoo import seeded

pytest.importorskip("lightning")

from examples import lightning_example


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_both_runs_end_and_the_denoised_one_switches(capsys: pytest.CaptureFixture[str]) -> None:
    with seeded(0):  # the example seeds the global streams, as users do
        lightning_example.main(["--epochs", "5", "--history-length", "4"])
    said = capsys.readouterr().out
    plain, denoised = re.findall(r"ndcg@20 (0\.\d+)", said)
    assert float(plain) > 0.05
    assert float(denoised) > 0.05
    assert plain != denoised
    assert re.search(r"^memorization point: [2-4]$", said, flags=re.MULTILINE)
    assert re.search(r"with AUC 0\.\d+$", said, flags=re.MULTILINE)
