"""Options that several commands of the bench have."""

from __future__ import annotations

import argparse
import ast
from typing import Any

from sgdl_wrap import DenoiserConfig


def denoiser_setting(text: str) -> tuple[str, Any]:
    """A field of today's DenoiserConfig, or of its variants, and its value."""
    name, value = setting(text)
    if name not in DenoiserConfig().as_dict():
        raise argparse.ArgumentTypeError(
            f"expected FIELD=VALUE with a field of DenoiserConfig, got {text!r}"
        )
    return name, value


def setting(text: str) -> tuple[str, Any]:
    """A name and its value: a Python literal, or else a word."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected FIELD=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value
