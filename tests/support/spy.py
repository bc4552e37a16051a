"""What a function was called with, noted where nothing is put back after an evaluation."""

from __future__ import annotations

from typing import Any


class Spy:
    """A list without attributes: plain state of the user's is looked for in attributes."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def note(self, value: Any) -> None:
        self.seen.append(value)

    def __len__(self) -> int:
        return len(self.seen)
