"""Which memorized samples guide: straight-through Gumbel-softmax and its gradient (Eq. 11, 12).

o_m is what the scheduler gives memorized sample m, π = softmax(o), c_m how much of the guidance the
sample gives, L_m its loss at the assumed parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gumbel_noise(uniform: Tensor) -> Tensor:
    """ε = -log(-log u), of the shape of u.

    Args:
        uniform: u in [0, 1), float32; 0 counts as the smallest number.

    Source: Eq. 12.

    >>> gumbel_noise(torch.tensor([0.5])).round(decimals=3)
    tensor([0.3670])
    """
    drawn = uniform.clamp_min(torch.finfo(torch.float32).tiny)
    return drawn.log_().neg_().log_().neg_()


def soft_draws(logits: Tensor, noise: Tensor, tau: float) -> Tensor:
    """y = softmax((log π + ε) / τ), π = softmax(o), (draws, n)   (Eq. 11, 12).

    The Gumbel noise stands inside the bracket: the printed bracket is a slip (deviation 6). Without
    graph.

    Args:
        logits: o, (n,).
        noise: ε, (draws, n), Gumbel.
        tau: τ.

    Source: Eq. 11 and 12.

    >>> logits, noise = torch.tensor([0.0, 1.0]), torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    >>> soft_draws(logits, noise, 1.0).round(decimals=3)
    tensor([[0.2690, 0.7310],
            [0.7310, 0.2690]])
    """
    with torch.no_grad():
        return torch.softmax((torch.log_softmax(logits, dim=0) + noise) / tau, dim=1)


def guidance_shares(soft: Tensor) -> Tensor:
    """c_m: how much of the guidance each sample gives, (n,), summing to 1.

    The mean of the draws, each of them one-hot at the largest y; :func:`shares_gradient` takes
    them for y (straight-through).

    Args:
        soft: y, (draws, n).

    Source: Eq. 12.

    >>> guidance_shares(torch.tensor([[0.3, 0.7], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8]])).tolist()
    [0.25, 0.75]
    """
    draws, n = soft.shape
    wins = torch.bincount(soft.argmax(dim=1), minlength=n)
    return wins.to(soft.dtype) / draws


def expected_draw(logits: Tensor) -> Tensor:
    """π = softmax(o), (1, n), without graph: the mean of all one-hot draws (Eq. 11; deviation 7).

    The largest log π_m + ε_m is m's with probability π_m (Eq. 12). π is its own soft draw, with
    τ = 1: :func:`shares_gradient` then gives d(Σ_m π_m L_m)/do.

    Args:
        logits: o, (n,).

    Source: Eq. 11; the expectation is ours.

    >>> expected_draw(torch.tensor([0.0, 1.0])).round(decimals=3)
    tensor([[0.2690, 0.7310]])
    """
    return torch.softmax(logits.detach(), dim=0)[None]


def shares_gradient(soft: Tensor, losses: Tensor, tau: float) -> Tensor:
    """d(Σ_m c_m L_m)/do = (1/D) Σ_d y_d (L - <y_d, L>) / τ, (n,); D draws   (Eq. 8 for φ).

    From dy_dm/dlog π_j = y_dm (δ_mj - y_dj) / τ; as these add up to 0, the gradient in log π is the
    gradient in o.

    Args:
        soft: y, (D, n).
        losses: L, (n,).

    Source: Eq. 8 and 12.

    >>> shares_gradient(torch.tensor([[0.5, 0.5]]), torch.tensor([1.0, 3.0]), 1.0).tolist()
    [-0.5, 0.5]
    """
    centred = losses - losses.mean()  # changes nothing but the rounding
    gradient: Tensor = (soft * (centred - (soft @ centred)[:, None])).mean(dim=0) / tau
    return gradient


def negative_entropy_gradient(logits: Tensor) -> Tensor:
    """d(Σ_m π_m log π_m)/do = π (log π + H), (n,); H the entropy of π = softmax(o) (deviation 14).

    Args:
        logits: o, (n,).

    Source: ours.

    >>> negative_entropy_gradient(torch.tensor([0.0, 0.0])).tolist()
    [0.0, 0.0]
    """
    log_probabilities = torch.log_softmax(logits, dim=0)
    terms = log_probabilities.exp() * log_probabilities
    gradient: Tensor = terms - log_probabilities.exp() * terms.sum()
    return gradient


def top_f(factors: Tensor) -> Tensor:
    """Equal shares for the better half by the sum of the two standardised factors.

    Args:
        factors: (n, 2), of the last visit: loss and similarity.

    Returns:
        (n,): 1/F for the F = ceil(n/2) largest sums, 0 else; earlier samples win ties. Sums are
        compared to five decimals, so that rounding decides nothing: where one sample alone has
        factors, [0.6, -0.8] among [0, 0], all sums are zero but for that.

    Source: Sec. 4.3.3, Table 5.

    >>> top_f(torch.tensor([[0.1, 0.0], [0.9, 0.5], [0.5, 0.4]])).tolist()
    [0.0, 0.5, 0.5]
    """
    spread = factors.std(dim=0, unbiased=False)
    scores = ((factors - factors.mean(dim=0)) / torch.where(spread > 0, spread, 1)).sum(dim=1)
    scores = scores.round(decimals=5)
    chosen = torch.argsort(scores, descending=True, stable=True)[: (len(scores) + 1) // 2]
    shares = torch.zeros_like(scores)
    shares[chosen] = 1.0 / len(chosen)
    return shares
