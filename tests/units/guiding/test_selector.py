"""Shares of what has a history, and of what has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sgdl_wrap.guiding.selector import GuidanceSelector
from tests.support.models_zoo import settled

MEMORIZED = np.array([2, 5, 9])


def selector(scheduler: str) -> GuidanceSelector:
    return GuidanceSelector(
        MEMORIZED, settled(denoising_scheduler=scheduler),  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(0), device=torch.device("cpu"),
        dtype=torch.float64,
    )  # fmt: skip


@pytest.mark.parametrize("scheduler", ["lstm", "mlp", "top_f"])
def test_negatives_and_interactions_that_left_m_share_equally(scheduler: str) -> None:
    found = selector(scheduler)
    found.record(
        np.array([2, 7, 9]),  # 7 is none of M: nothing is noted of it
        torch.tensor([1.0, 100.0, 3.0], dtype=torch.float64),
        torch.tensor([0.5, 100.0, -0.5], dtype=torch.float64),
    )
    assert found.factors is not None
    assert found.factors.visits.tolist() == [1, 0, 1]
    assert found.factors.ring[:, 0].tolist() == [[1.0, 0.5], [0.0, 0.0], [3.0, -0.5]]
    shares = found.select(np.array([2, 7, -1, 9, 30])).shares
    assert shares[[1, 2, 4]].tolist() == pytest.approx([0.2, 0.2, 0.2])
    assert float(shares.sum()) == pytest.approx(1.0)


def test_where_nothing_has_a_history_all_share_equally_and_nothing_is_learned() -> None:
    found = selector("lstm")
    selection = found.select(np.array([7, -1]))
    assert selection.shares.tolist() == [0.5, 0.5]
    assert found.gradients(selection, torch.ones(2, dtype=torch.float64)) is None
