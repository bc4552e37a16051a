"""One batch's way from before_step to step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sgdl_wrap import Phase
from sgdl_wrap.interactions import Interactions
from tests.models_zoo import SWITCHING, tiny_data, tiny_denoiser, triple_epoch

DATA = tiny_data()
INPUTS = ("loss", "smoothed_loss", "memorization_rate")


def test_a_batch_of_the_second_phase_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guidance, ψ's step, the weights and what is written down all read the same answer."""
    sizes: list[int] = []
    find = Interactions.find

    def listening(self: Interactions, users: np.ndarray, items: np.ndarray, **more: Any) -> Any:
        sizes.append(len(users))
        return find(self, users, items, **more)

    monkeypatch.setattr(Interactions, "find", listening)
    denoiser = tiny_denoiser(DATA, config=SWITCHING.but(weight_inputs=INPUTS))
    for epoch in range(3):
        second = denoiser.phase is Phase.SELF_GUIDED
        if second:
            sizes.clear()
        batches = triple_epoch(DATA, epoch)
        for batch in batches:
            denoiser.before_step(batch)
            denoiser.step(batch)
        denoiser.state_dict()  # writes the last step down
        if second:
            assert sizes == [len(batch[0]) for batch in batches]
    assert denoiser.phase is Phase.SELF_GUIDED
