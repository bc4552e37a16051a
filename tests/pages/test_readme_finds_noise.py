"""The README's own example finds its noise and gains by it, whatever the seed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import roc_auc_score

from tests.support.models_zoo import seeded

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("seed", range(5))
def test_the_first_example_weighs_noise_less_and_recommends_better(
    seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    text = README.read_text(encoding="utf-8")
    first, second, *_ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    with seeded(seed):
        exec(first + second, names)
    denoiser = names["denoiser"]
    rows = denoiser.report()
    clean = (rows["item"] - 5 * rows["user"]) % 500 < 50  # the example's taste
    assert roc_auc_score(clean, rows["weight"]) > 0.8
    assert rows["weight"][~clean].mean() < 0.75 * rows["weight"][clean].mean()
    low, high = denoiser.noise_share
    assert low < float((~clean).mean()) < high
    assert re.match(
        r"Denoised from epoch \d+ on: the most suspicious tenth of the interactions counts \d+% "
        r"less than the rest\.\n",
        capsys.readouterr().out,
    )
    liked = names["liked"]
    assert liked(names["model"]) > liked(names["plain"]) + 0.03
