from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., str]


@pytest.fixture
def run_alone(tmp_path: Path) -> Run:
    """Runs a copy of an example in an empty folder, with the package and nothing else of ours.

    Its first argument is the name of the example, the others are the command line; `launcher` is
    what starts it, Python if not given. It returns what was printed.
    """
    package = tmp_path / "package"
    package.mkdir()
    (package / "sgdl_wrap").symlink_to(ROOT / "sgdl_wrap", target_is_directory=True)
    folder = tmp_path / "empty"
    folder.mkdir()

    def run(name: str, *arguments: str, launcher: tuple[str, ...] = ()) -> str:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package)}
        shutil.copy(ROOT / "examples" / f"{name}.py", folder)
        ran = subprocess.run(
            [sys.executable, *launcher, f"{name}.py", *arguments],
            capture_output=True, text=True, timeout=300, check=False, cwd=folder, env=environment,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-3000:]
        return ran.stdout

    return run
