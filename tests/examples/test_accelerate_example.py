from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.support.models_zoo import seeded

pytest.importorskip("accelerate")

from examples import accelerate_example
from tests.integrations.accelerate_runs import reset


@pytest.fixture(autouse=True)
def _one_accelerator() -> Iterator[None]:
    reset()
    yield
    reset()


def test_it_is_saved_half_way_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with seeded(0):  # the example seeds the global streams, as users do
        accelerate_example.main(["--epochs", "8", "--history-length", "4"])
    said = capsys.readouterr().out
    assert [int(n) for n in re.findall(r"^epoch (\d+):", said, flags=re.MULTILINE)] == [
        *range(1, 9)
    ]
    assert re.search(r"^memorization point: [3-7]$", said, flags=re.MULTILINE)
    assert re.search(r"with AUC 0\.\d+$", said, flags=re.MULTILINE)
