"""What the command needs beyond the library itself."""

from __future__ import annotations

from importlib.util import find_spec

from sgdl_wrap.errors import DenoiserError

NEEDED = "pyarrow", "pandas"


class FileRefused(DenoiserError):
    """The file cannot be audited; the message says where it is wrong and what to do."""


def check_installed() -> None:
    """Refuses to begin where the extra is not installed.

    Raises:
        DenoiserError: with the command that installs it.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise DenoiserError(
            f"Expected {' and '.join(NEEDED)}, got no {' and no '.join(missing)}. "
            'Run `pip install "sgdl-wrap[report]"`.'
        )
