"""What names a cell, and what names a run in it."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

METHODS = ("plain", "sgdl", "clean-only")


@dataclass(frozen=True, order=True)
class Cell:
    """A family of recommenders on a data set under a condition."""

    family: str
    data: str
    condition: str

    def run(
        self, method: str, seed: int, point: tuple[float, float], variant: str = ""
    ) -> RunKey:
        """A run in this cell; point is (learning rate, l2)."""
        return RunKey(self.family, self.data, self.condition, method, seed, *point, variant)


@dataclass(frozen=True, order=True)
class RunKey:
    """All that decides a run, except the code. Two equal keys are the same run.

    Attributes:
        method: one of METHODS.
        variant: changed fields of the DenoiserConfig of "sgdl", as `variant_of` writes them.
    """

    family: str
    data: str
    condition: str
    method: str
    seed: int
    learning_rate: float
    l2: float
    variant: str = ""

    @property
    def cell(self) -> Cell:
        """The cell of the run."""
        return Cell(self.family, self.data, self.condition)

    @property
    def label(self) -> str:
        """The method as tables show it: "sgdl", "sgdl[meta_lr=0.01]"."""
        return f"{self.method}[{self.variant}]" if self.variant else self.method

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        """One line for a person."""
        return (
            f"{self.family} {self.data} {self.condition} {self.label} seed {self.seed} "
            f"lr {self.learning_rate:g} l2 {self.l2:g}"
        )


def variant_of(parts: Iterable[str]) -> str:
    """One spelling for equal changes: ["b=1", "a=x"] and ["a=x,b=1"] are both "a=x,b=1".

    Raises:
        ValueError: a part that is not name=value, or a name that comes twice.
    """
    known: dict[str, str] = {}
    for part in filter(None, ",".join(parts).split(",")):
        name, equals, text = part.strip().partition("=")
        if not (name and equals and text):
            raise ValueError(f"Expected name=value, got {part!r}. Write for instance meta_lr=0.01.")
        if name in known:
            raise ValueError(f"Expected each name once, got {name!r} twice. Leave one out.")
        known[name] = text
    return ",".join(f"{name}={known[name]}" for name in sorted(known))


def changes(variant: str) -> dict[str, Any]:
    """The fields of DenoiserConfig that a variant changes.

    Values are Python's: 1, 1e-3, True, None. Anything else is text, so "none" is the choice of
    that name. "loss+observed" and "loss+" are tuples.
    """
    pairs = (part.split("=", 1) for part in filter(None, variant.split(",")))
    return {name: _value(text) for name, text in pairs}


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return tuple(filter(None, text.split("+"))) if "+" in text else text
