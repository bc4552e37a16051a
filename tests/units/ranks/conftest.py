"""Two processes are started once, go through all cases, and leave what came of them in files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.units.ranks.runs import Run

Told = Callable[[str], list[Any]]


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the two have left what came of each case."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch is built without gloo")
    folder = tmp_path_factory.mktemp("two_ranks")
    one = Run()
    one.train(13)
    torch.save(one.checkpoint(), folder / "one.pt")
    commands = [
        [sys.executable, "-W", "error", "-m", "tests.units.ranks.two_ranks", str(folder), rank]
        for rank in "01"
    ]
    root = Path(__file__).parents[3]
    both = [
        subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=root, text=True)
        for c in commands
    ]
    try:
        said = [process.communicate(timeout=600)[0] for process in both]
    finally:
        for process in both:
            process.kill()  # where it still runs
    assert [process.returncode for process in both] == [0, 0], "\n".join(said)
    return folder


@pytest.fixture
def told(folder: Path) -> Told:
    """What came of a case on rank 0 and on rank 1."""

    def load(case: str) -> list[Any]:
        paths = [folder / f"{case}-{rank}.pt" for rank in (0, 1)]
        found = [torch.load(path, weights_only=True) for path in paths]
        errors = [one["error"] for one in found if isinstance(one, dict) and "error" in one]
        assert not errors, "\n".join(errors)
        return found

    return load
