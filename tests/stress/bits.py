"""Every bit of a checkpoint's headers, and some of its data, flipped one at a time.

`load_checkpoint` either refuses by `StateError`, and no object has changed, or loads exactly what
was saved. The number of a trial is that of the bit: 8 * byte + bit.
"""

from __future__ import annotations

import copy
import os
import random
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sgdl_wrap import StateError, load_checkpoint, save_checkpoint
from tests.stress.short_runs import PER_EPOCH, Setup, ShortRun, difference
from tests.stress.trials import Trials, Wrong
from tests.support.resealed import resealed

DATA_BITS = 3_000
SETUP = Setup(config={"denoising_scheduler": "none", "noise_rate": 0.9})
REST = {"epoch": 2, "best": 0.25, "table": torch.arange(40.0)}


def prepare(seed: int, tries: int | None) -> Trials:
    """All header bits and DATA_BITS of the data; of `tries`, half are of headers."""
    saved, target = trained(2), trained(1)
    generator = torch.Generator().manual_seed(3)
    folder = tempfile.TemporaryDirectory(prefix="stress-bits-")
    place = Path(folder.name) / "whole.pt"
    save_checkpoint(place, **parts(saved), generator=generator, **REST)
    whole = place.read_bytes()
    expected = states(saved, torch.Generator().manual_seed(3))
    spare = torch.Generator().manual_seed(4)
    before = copy.deepcopy(states(target, spare))
    draw = random.Random(f"bits {seed}")
    headers, data = header_bytes(place)
    bits = [8 * byte + bit for byte in headers for bit in range(8)]
    if tries is not None:
        bits = draw.sample(bits, min(tries // 2, len(bits)))
    room = DATA_BITS if tries is None else tries - len(bits)
    bits += [8 * byte + draw.randrange(8) for byte in draw.sample(data, min(room, len(data)))]

    def trial(number: int, folder: Any = folder) -> None:  # the folder lives as long as this does
        damaged = bytearray(whole)
        damaged[number // 8] ^= 1 << number % 8
        place = Path(folder.name) / f"damaged-{os.getpid()}.pt"
        place.write_bytes(damaged)
        try:
            rest = load_checkpoint(place, **parts(target), generator=spare)
        except StateError:
            if told := difference(states(target, spare), before):
                raise Wrong("refused, but changed", told) from None
            return
        told = difference(states(target, spare), expected) or difference(rest, REST)
        restore(target, spare, before)
        if told:
            raise Wrong("loads other values", told)

    return Trials(sorted(bits), trial)


def trained(epochs: int) -> ShortRun:
    run = ShortRun(SETUP)
    for step in range(epochs * PER_EPOCH):
        batch = run.batch(step)
        run.denoiser.before_step(batch)
        run.denoiser.step(batch)
    run.denoiser.load_state_dict(resealed(without_clock(run.denoiser.state_dict())))
    return run


def without_clock(tree: Any) -> Any:
    """The same state in every process: no second has passed."""
    if isinstance(tree, dict):
        clocks = ("seconds", "plain_seconds")
        return {k: 0.0 if k in clocks else without_clock(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(without_clock(value) for value in tree)
    return tree


def parts(run: ShortRun) -> dict[str, Any]:
    return {"denoiser": run.denoiser, "model": run.model, "optimizer": run.optimizer}


def states(run: ShortRun, generator: torch.Generator) -> dict[str, Any]:
    found = without_clock({name: dict(part.state_dict()) for name, part in parts(run).items()})
    denoiser = resealed(found.pop("denoiser"))
    return {"denoiser": denoiser, **found, "generator": generator.get_state()}


def restore(run: ShortRun, generator: torch.Generator, saved: dict[str, Any]) -> None:
    run.denoiser.load_state_dict(copy.deepcopy(saved["denoiser"]))
    run.model.load_state_dict(saved["model"])
    run.optimizer.load_state_dict(copy.deepcopy(saved["optimizer"]))
    generator.set_state(saved["generator"])


def header_bytes(place: Path) -> tuple[list[int], list[int]]:
    """Places of the bytes that say how to read a zip archive, and of those that it holds."""
    whole = place.read_bytes()
    is_data = np.zeros(len(whole), dtype=bool)
    with zipfile.ZipFile(place) as archive:
        for entry in archive.infolist():
            at = entry.header_offset
            name, extra = (int.from_bytes(whole[at + n : at + n + 2], "little") for n in (26, 28))
            begins = at + 30 + name + extra
            is_data[begins : begins + entry.compress_size] = True
    return np.flatnonzero(~is_data).tolist(), np.flatnonzero(is_data).tolist()
