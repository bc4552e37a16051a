"""What is flagged as noise, in the order of an audit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.data.interaction_data import InteractionData
from sgdl_wrap.report.audit import Audit


def noisy_rows(audit: Audit, data: InteractionData) -> NDArray[np.bool_]:
    """Which rows of the audit are flagged as noise, (N,)."""
    assert data.train_clean is not None
    keys = data.train_users.astype(np.int64) * data.n_items + data.train_items
    order = np.argsort(keys)
    places = np.searchsorted(keys[order], audit["user"] * data.n_items + audit["item"])
    return ~data.train_clean[order][places].astype(bool)
