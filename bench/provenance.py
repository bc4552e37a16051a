"""Which code and which versions a result came from."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def current_provenance() -> dict[str, str]:
    """Commit ("-changed" where the working tree differs from it), Python and packages."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "scikit-learn", "higher")},
    }


def _commit() -> str:
    root = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("-changed" if changed else "")
