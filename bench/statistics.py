"""What may be said of a few seeds: mean and spread, a paired test, a recovered share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import ttest_rel  # type: ignore[import-untyped]

WORTH_RECOVERING = 0.02
"""Where clean-only is above plain by less than this share, there is nothing to recover."""


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation of the sample (n - 1); the latter is None for one value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired_p_value(values: Sequence[float], reference: Sequence[float]) -> float | None:
    """Two-sided p-value of the paired t-test; None with fewer than two pairs or equal ones.

    Args:
        values, reference: one entry a seed, in the same order.
    """
    differences = np.subtract(values, reference)
    if len(differences) < 2 or np.ptp(differences) == 0:
        return None
    return float(ttest_rel(values, reference).pvalue)


def recovered_share(value: float, plain: float, clean_only: float) -> float | None:
    """(value - plain) / (clean-only - plain): how much of noise's damage a method undoes.

    None where clean-only is not above plain by WORTH_RECOVERING of it.
    """
    if clean_only < plain * (1 + WORTH_RECOVERING):
        return None
    return (value - plain) / (clean_only - plain)
