"""When an interaction is memorized, and when enough of them are (Eq. 1 and 3).

N_u is the number of a user's observed items, h the length of the history, M_t the memorized
interactions after epoch t, N their number in all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

STEADY = 95  # per cent of the epochs seen in which steady interactions are memorized


def ranked_within(users: Tensor, scores: Tensor, observed: Tensor) -> Tensor:
    """Rank of each candidate among its user's, from 0, best first.

    An interaction is memorized in an epoch, m_t(u, i) = 1, if its rank is below N_u.

    An unobserved candidate goes before an observed one of equal score (deviation 2): a model that
    scores everything alike memorizes nothing. Among equals of one kind the order given holds.

    Args:
        users: of each candidate, (K,) int64.
        scores: (K,), finite or -inf, which is ranked behind all that are finite.
        observed: (K,) bool.

    Returns:
        (K,) int64.

    Source: Sec. 3.1.1.

    >>> users, scores = torch.tensor([4, 4, 4, 9]), torch.tensor([0.5, 0.7, 0.5, 0.1])
    >>> ranked_within(users, scores, torch.tensor([True, True, False, True])).tolist()
    [2, 0, 1, 0]
    """
    # user, score from the top, observed last: one integer a candidate, sorted once
    from_top = ~ordinals(scores) + 2**31
    keys: Tensor = (users - users.min() << 33) | (from_top << 1) | observed
    order = torch.argsort(keys, stable=True)
    by_user = users[order]
    _, sizes = torch.unique_consecutive(by_user, return_counts=True)
    starts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order)) - starts
    return ranks


def ordinals(scores: Tensor) -> Tensor:
    """Integers of the same order and the same ties, int64 in [-2**31, 2**31).

    Args:
        scores: (K,), finite or -inf.

    Source: ours, for :func:`ranked_within`.

    >>> low, zero, other_zero, one = ordinals(torch.tensor([-2.0, 0.0, -0.0, 1.0])).tolist()
    >>> low < zero == other_zero < one
    True
    """
    if scores.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        _, places = torch.unique(scores, return_inverse=True)
        return torch.as_tensor(places)
    # the bits of a float count up with it, those of a negative one down; + 0 makes -0 equal to 0
    bits = (scores.float() + 0.0).view(torch.int32)
    return torch.bitwise_xor(bits, (bits >> 31) & 0x7FFFFFFF).long()


def memorization_rates(counts: np.ndarray, history_length: int) -> np.ndarray:
    """m^h_t(k) = (1/h) Σ_{j=t-h+1..t} m_j(k)   (Eq. 1); missing epochs count as 0.

    Args:
        counts: Σ_j m_j(k), (B,) int32.
        history_length: h.

    Returns:
        (B,) float32 in [0, 1].

    Source: Eq. 1.

    >>> memorization_rates(np.array([0, 3, 4]), 4).tolist()
    [0.0, 0.75, 1.0]
    """
    rates: np.ndarray = counts / np.float32(history_length)
    return rates.astype(np.float32)


def majority(history_length: int) -> int:
    """The fewest epochs that are more than half of a history: m^h_t(k) > 0.5 is k in M_t.

    Exactly half is no majority. No switch comes before as many epochs.

    Source: Eq. 1.

    >>> majority(4), majority(5)
    (3, 3)
    """
    return history_length // 2 + 1


def steady_majority(epochs: int, history_length: int) -> int:
    """The fewest epochs in which a steady interaction is memorized (deviation 16).

    0.95 min(h, t) of them, and no fewer than the majority.

    Args:
        epochs: t, those that have ended.
        history_length: h.

    Source: ours, stricter than Eq. 1.

    >>> steady_majority(20, 20), steady_majority(19, 20), steady_majority(2, 20)
    (19, 19, 11)
    """
    seen = min(epochs, history_length)
    return max(-(-STEADY * seen // 100), majority(history_length))


def clean_ratio(noise_rate: float, shift: float = 0.0) -> float:
    """1 - σ̂ - shift, kept within [0, 1]: the memorized ratio to be reached (Eq. 3).

    Args:
        noise_rate: σ̂ in [0, 1].
        shift: added to σ̂; a positive one switches earlier (Table 4).

    Source: Eq. 3.

    >>> clean_ratio(0.25), clean_ratio(0.25, 0.25), clean_ratio(0.75, 0.5)
    (0.75, 0.5, 0.0)
    """
    return min(max(1.0 - noise_rate - shift, 0.0), 1.0)


def is_reached(memorized: int, total: int, ratio: float) -> bool:
    """|M_t| >= ratio N, `ratio` the :func:`clean_ratio` (Eq. 3); never with an empty M_t.

    Args:
        memorized: |M_t|.
        total: N.

    Source: Sec. 3.1.2, Eq. 3.

    >>> is_reached(12, 16, 0.75), is_reached(11, 16, 0.75), is_reached(0, 16, 0.0)
    (True, False, False)
    """
    # An empty M_t reaches nothing, whatever the noise rate says.
    return memorized > 0 and memorized >= ratio * total


def first_stall(gaps: Sequence[float], window: int) -> int | None:
    """The first epoch, counted from 1, that is no nearer to the switch than `window` epochs before.

    None as long as there is none. No epoch before number `window` counts: while the history fills,
    the memorized ratio says little.

    Args:
        gaps: clean ratio - memorized ratio at the end of each epoch of Phase I.
        window: epochs.

    Source: ours; Eq. 3 alone may wait for ever.

    >>> first_stall([5, 4, 3, 4, 3], window=2)
    4
    """
    for epoch in range(2 * window, len(gaps) + 1):
        if gaps[epoch - 1] >= gaps[epoch - 1 - window]:
            return epoch
    return None
