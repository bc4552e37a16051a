"""Warnings that point at the user's own line, however deep the library is when it doubts."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

from sgdl_wrap.errors import DenoiserWarning

# their frames are not the user's line, their objects are not the user's state
LIBRARIES = sys.stdlib_module_names | {
    "torch", "numpy", "scipy", "sklearn", "pandas", "pyarrow", "polars", "tqdm", "higher",
    "sgdl_wrap", "lightning", "pytorch_lightning", "accelerate", "recbole", "transformers",
    "ignite",
} - {"__main__"}  # fmt: skip


def warn(message: str) -> None:
    """Gives a `DenoiserWarning` at the innermost line that is no library's.

    Warns:
        DenoiserWarning: always.
    """
    frame: FrameType = sys._getframe(1)
    while frame.f_back is not None and _package(frame) in LIBRARIES:
        frame = frame.f_back
    warnings.warn_explicit(
        message,
        DenoiserWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__") or "<unknown module>",
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _package(frame: FrameType) -> str:
    name = frame.f_globals.get("__name__") or ""
    return str(name).partition(".")[0]
