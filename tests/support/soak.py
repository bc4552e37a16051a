"""Many steps of Phase II, and what they leave in memory; used by test_soak.py.

    python -m tests.support.soak CASE [STEPS]

trains CASE (neumf, lightgcn, or higher: its functional model alone) through STEPS steps that learn,
2,000 by default, with an epoch's end every hundred, and prints as JSON by how many MB the resident
memory and by how many the Python objects have grown since the first fifth. Linux alone tells.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.models.lightgcn import bpr_loss
from bench.models.neumf import bce_loss
from sgdl_wrap import DenoiserConfig, Phase, SelfGuidedDenoiser
from sgdl_wrap.model.gradients import ascent_direction, assumed_update, gradient_at
from sgdl_wrap.model.twin import Lookahead
from tests.support.models_zoo import (
    labelled_epoch,
    tiny_data,
    tiny_lightgcn,
    tiny_neumf,
    triple_epoch,
)

STEPS = 2_000
EPOCH = 100  # steps


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def higher() -> Iterator[int]:
    """The functional model at parameters anew, forward and backward, and its release."""
    data = tiny_data()
    model = tiny_neumf(data)
    lookahead = Lookahead(model, bce_loss)
    batches = labelled_epoch(data, 0)
    step = 0
    while True:
        batch = batches[step % len(batches)]
        lookahead.follow()
        losses = bce_loss(model, batch)
        ascent = ascent_direction(losses, lookahead.parameters, {}, torch.ones_like(losses))
        virtual = assumed_update(lookahead.parameters, ascent, 0.01)
        gradient_at(lookahead.losses(virtual, batch).sum(), virtual)
        lookahead.release()
        step += 1
        yield step


def training(kind: str) -> Iterator[int]:
    """A denoiser in Phase II that learns at every step."""
    data = tiny_data()
    model = tiny_neumf(data, dropout=0.2) if kind == "neumf" else tiny_lightgcn(data)
    batches_of: Callable[..., list[Any]] = labelled_epoch if kind == "neumf" else triple_epoch
    loss_fn: Callable[..., Tensor] = bce_loss if kind == "neumf" else bpr_loss
    denoiser = SelfGuidedDenoiser(
        model, torch.optim.Adam(model.parameters(), lr=0.001), loss_fn,
        interactions=data.tensors(), n_items=data.n_items,
        config=DenoiserConfig(history_length=1, noise_rate=0.9, guidance_interval=1),
    )  # fmt: skip
    step, epoch = 0, 0
    batches = batches_of(data, 0)
    while True:
        batch = batches[step % len(batches)]
        denoiser.before_step(batch)
        denoiser.step(batch)
        if denoiser.phase is Phase.SELF_GUIDED:
            step += 1
            yield step
        if denoiser.phase is Phase.MEMORIZATION or step % EPOCH == 0:
            denoiser.end_epoch()
            epoch += 1
            batches = batches_of(data, epoch)


def measure(case: str, steps: int = STEPS) -> dict[str, float]:
    """Growth since the first fifth: {"megabytes": ..., "objects": ...}."""
    found = []
    for step in higher() if case == "higher" else training(case):
        if step in (steps // 5, steps):
            gc.collect()
            found.append((resident() / 1e6, len(gc.get_objects())))
        if step == steps:
            break
    (memory, objects), (memory_after, objects_after) = found
    return {"megabytes": memory_after - memory, "objects": objects_after - objects}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:3]))))
