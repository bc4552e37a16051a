"""Several processes save to one path at once, and one reads it.

Every save reports success, and every load gives what one of them saved, whole. At the end the file
holds the last that one of them saved, and nothing else is left in the folder.
"""

from __future__ import annotations

import os
import random
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sgdl_wrap import load_checkpoint, save_checkpoint
from tests.stress.trials import Trials, Wrong, told

ROUNDS = 60
SAVES = 8  # of each writer in a round


def prepare(seed: int, tries: int | None) -> Trials:
    """Every trial is a round of two to four writers."""

    def trial(number: int) -> None:
        draw = random.Random(f"writers {seed} {number}")
        with tempfile.TemporaryDirectory(prefix="stress-writers-") as folder:
            _round(Path(folder), draw.randrange(2, 5), old=draw.random() < 0.5)

    return Trials(range(ROUNDS if tries is None else tries), trial)


def _round(folder: Path, writers: int, *, old: bool) -> None:
    shared, notes = folder / "shared", folder / "notes"
    shared.mkdir()
    notes.mkdir()
    place = shared / "run.pt"
    if old:
        save_checkpoint(place, **content(writers, 0))
    go, start = os.pipe()  # all begin when its end is closed
    children = [
        _forked(lambda who=who: _write(place, who, go, start), notes / f"writer-{who}")
        for who in range(writers)
    ]
    children.append(_forked(lambda: _read(place, notes, go, start), notes / "reader"))
    os.close(go)
    os.close(start)
    for child in children[:-1]:
        os.waitpid(child, 0)
    (notes / "over").touch()
    os.waitpid(children[-1], 0)
    for note in sorted(notes.glob("*.wrong")):
        kind, what = note.read_text().split("\n", 1)
        raise Wrong(kind, f"{writers} writers: {what}")
    if told_wrong := not_whole(load_checkpoint(place), at_turn=SAVES):
        raise Wrong("the last is not one of the last", told_wrong)
    if litter := sorted(other.name for other in shared.iterdir() if other != place):
        raise Wrong("litter", ", ".join(litter))


def content(who: int, turn: int) -> dict[str, Any]:
    """What a writer saves at a turn: its length tells the writer, its values the turn, too."""
    values = torch.full((500 * (who + 1),), 100.0 * who + turn)
    return {"who": who, "turn": turn, "values": values, "more": {"again": values.double()}}


def not_whole(found: dict[str, Any], at_turn: int | None = None) -> str:
    """What of a content is not of one writer and turn."""
    expected = content(found["who"], found["turn"])
    for name in ("values", "more"):
        one, other = found[name], expected[name]
        if isinstance(one, dict):
            one, other = one["again"], other["again"]  # type: ignore[index]
        if not torch.equal(one, other):
            return f"{name} are not those of writer {found['who']} at turn {found['turn']}"
    if at_turn is not None and found["turn"] != at_turn:
        return f"that of turn {found['turn']} of {at_turn}"
    return ""


def _write(place: Path, who: int, go: int, start: int) -> None:
    os.close(start)
    os.read(go, 1)  # ends when the parent closes the other end
    for turn in range(1, SAVES + 1):
        try:
            save_checkpoint(place, **content(who, turn))
        except Exception as error:
            raise Wrong("a save fails", f"writer {who}, turn {turn}: {told(error)}") from error


def _read(place: Path, notes: Path, go: int, start: int) -> None:
    os.close(start)
    os.read(go, 1)
    seen = False
    while not (notes / "over").exists():
        try:
            found = load_checkpoint(place)
        except FileNotFoundError as error:
            if seen:
                raise Wrong("a load fails", f"the file is gone: {told(error)}") from error
            continue
        except Exception as error:
            raise Wrong("a load fails", told(error)) from error
        seen = True
        if what := not_whole(found):
            raise Wrong("a load mixes", what)


def _forked(work: Callable[[], None], note: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except Wrong as wrong:
            note.with_suffix(".wrong").write_text(f"{wrong.kind}\n{wrong.what}")
        except BaseException as error:
            traceback.print_exc()
            note.with_suffix(".wrong").write_text(f"undocumented\n{error!r}")
        finally:
            os._exit(0)
    return child
