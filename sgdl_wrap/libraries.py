"""Packages that are no user's own: their frames are not the user's line, their objects no state."""

from __future__ import annotations

import sys

LIBRARIES = sys.stdlib_module_names | {
    "torch", "numpy", "scipy", "sklearn", "pandas", "pyarrow", "polars", "tqdm", "higher",
    "sgdl_wrap", "lightning", "pytorch_lightning", "accelerate", "recbole", "transformers",
    "ignite",
} - {"__main__"}  # fmt: skip
