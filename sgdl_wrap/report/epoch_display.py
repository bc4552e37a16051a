"""One line an epoch: in the log, and on the terminal where that is asked for."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from sgdl_wrap.records import EpochRecord, Phase


def epoch_line(record: EpochRecord) -> str:
    """An epoch in one line.

    "epoch 21, self-guided: memorized .777 of .780 clean, σ̂ .220, noise share .18, weights of the
    suspicious tenth .41 of the rest's, of the rare fifth .95, effective .87, loss .3120, 0.52 s,
    1.6x plain"; what is not known is left out.
    """
    clean = "" if record.clean_ratio is None else f" of {record.clean_ratio:.3f} clean"
    phase = _named(record.phase)
    parts = [f"epoch {record.epoch}, {phase}: memorized {record.memorized_ratio:.3f}{clean}"]
    if record.noise_rate is not None:
        parts.append(f"σ̂ {record.noise_rate:.3f}")
    if record.noise_share is not None:
        parts.append(f"noise share {record.noise_share:.2f}")
    if record.phase is Phase.SELF_GUIDED:
        parts.append(
            f"weights of the suspicious tenth {record.suspicious_weight:.2f} of the rest's, of the "
            f"rare fifth {record.rare_weight:.2f}, effective {record.effective_share:.2f}"
        )
    parts += [f"loss {record.loss:.4f}", f"{record.seconds:.2f} s"]
    if record.cost is not None:
        parts.append(f"{record.cost:.1f}x plain")
    if record.skipped:
        parts.append(f"{record.skipped} batches left out")
    return ", ".join(parts)


def _named(phase: Phase) -> str:
    return phase.value.replace("_", "-")


class EpochDisplay:
    """Writes the line of each epoch, and shows a bar while it runs.

    The bar needs tqdm and a terminal; elsewhere the lines come alone, so that a log file holds
    nothing but them. tqdm writes the lines above other bars of its own.

    Args:
        interactions: N, of which a bar shows how many were seen.
        file: where to; standard error as it is at the first epoch, if None.
    """

    def __init__(self, interactions: int, file: TextIO | None = None) -> None:
        self._total = interactions
        self._file = file
        self._bar: Any = None
        try:
            from tqdm import tqdm
        except ImportError:
            self._tqdm: Any = None
        else:
            self._tqdm = tqdm

    def show(self, epoch: int, phase: Phase, observed: int) -> None:
        """Moves the bar of the epoch under way.

        Args:
            epoch: counted from 1.
            observed: interactions seen in it so far.
        """
        if self._tqdm is None:
            return
        if self._bar is None:
            self._bar = self._tqdm(
                total=self._total,
                desc=f"epoch {epoch}, {_named(phase)}",
                unit=" interactions",
                leave=False,  # the line takes its place
                disable=None,  # where there is no terminal
                file=self._stream(),
            )
        self._bar.update(observed - self._bar.n)

    def end(self, record: EpochRecord) -> None:
        """Writes the epoch's line in the place of its bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self.say(epoch_line(record))

    def say(self, line: str) -> None:
        """Writes a line."""
        stream = self._stream()
        if self._tqdm is not None:
            self._tqdm.write(line, file=stream)
        else:
            stream.write(f"{line}\n")
        stream.flush()

    def _stream(self) -> TextIO:
        return sys.stderr if self._file is None else self._file
