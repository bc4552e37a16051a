"""Plain: ordinary training, on everything that was observed ("Normal" in the paper's Table 2)."""

from __future__ import annotations

from dataclasses import dataclass

from bench.methods.method import Method


@dataclass(frozen=True)
class Plain(Method):
    """Ordinary training."""
