"""Interrupts at a chosen line of this library, as Ctrl-C may come at any."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import sgdl_wrap

PACKAGE = str(Path(sgdl_wrap.__file__).parent)


class Interrupt:
    """Raises KeyboardInterrupt at the n-th line that runs in files of ours.

    Args:
        at: n, counted from 1.
        names: of the files; none means all of the library.

    Attributes:
        lines: how many have run.
    """

    def __init__(self, at: int, *names: str) -> None:
        self._at = at
        self._names = names
        self.lines = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        path = frame.f_code.co_filename
        if not path.startswith(PACKAGE) or (self._names and not path.endswith(self._names)):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self._at:
                raise KeyboardInterrupt
        return self

    def __enter__(self) -> Interrupt:
        sys.settrace(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        sys.settrace(None)
        return kind is KeyboardInterrupt
