"""The weight of a sample, and what guides it (Eq. 5 and 16; deviations 19, 21 to 23).

g_k is what the weighting function gives sample k, w_k its weight, b_k in [0, 1] the belief that it
is no noise, p_k = <ḡ, ∇L_k(θ)> its alignment with the guidance, B the number of samples.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LEAST_BELIEF = 1e-3  # its logarithm is finite


def weighting(features: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]
              ) -> Tensor:  # fmt: skip
    """g(x; ψ) = sigmoid(W2 relu(W1 x + b1) + b2)   (Eq. 5).

    Args:
        features: x, (B, F).
        first: W1, (H, F), and b1, (H,).
        second: W2, (1, H), and b2, (1,).

    Returns:
        (B,) in (0, 1).

    Source: Sec. 3.2.1, Eq. 5.

    >>> first = torch.tensor([[1.0], [-1.0]]), torch.zeros(2)
    >>> second = torch.tensor([[2.0, 0.0]]), torch.zeros(1)
    >>> weighting(torch.tensor([[0.0], [1.0], [-1.0]]), first, second).round(decimals=2).tolist()
    [0.5, 0.8799999952316284, 0.5]
    """
    hidden = torch.relu(functional.linear(features, *first))
    return torch.sigmoid(functional.linear(hidden, *second)).squeeze(-1)


def believed(learned: Tensor, belief: Tensor) -> Tensor:
    """w = b^(2 g): b at g = 1/2, 1 for all at g = 0, b² at g = 1 (deviation 23).

    Args:
        learned: g, (B,) in (0, 1).
        belief: b, (B,) in [0, 1]; below 1/1000 it counts as that.

    Source: ours, in the place of w = g in Eq. 5.

    >>> believed(torch.tensor([0.5, 1.0, 0.0]), torch.tensor([0.5, 0.5, 0.5])).tolist()
    [0.5, 0.25, 1.0]
    """
    weights: Tensor = belief.clamp_min(LEAST_BELIEF) ** (2 * learned)
    return weights


def input_scale(loss: float) -> float:
    """max(1, |mean loss|): what g's losses are divided by (deviation 21).

    g is drawn for losses of the order of one. A negative log-likelihood of 7, or 700 if it is
    summed over a row, lies where its sigmoid is flat: all weights are alike or zero. Losses
    below one, as BPR's and BCE's soon are, stay as they are.

    Args:
        loss: the mean loss of the last epoch of Phase I.

    Source: ours; Eq. 5 reads the loss as it is.

    >>> input_scale(7.0), input_scale(0.4)
    (7.0, 1.0)
    """
    return max(1.0, abs(loss))


def guided_gradient(alignments: Tensor, step: float) -> Tensor:
    """d/dw_k of the guidance loss at the assumed parameters: -(η1/B) p_k   (Eq. 16).

    The assumed update moves θ by -(η1/B) Σ_k w_k ∇L_k(θ), so the guidance loss changes by
    -(η1/B) Σ_k w_k <ḡ, ∇L_k(θ)>, to first order.

    Args:
        alignments: p, (B,).
        step: η1/B.

    Source: Eq. 16.

    >>> guided_gradient(torch.tensor([2.0, -1.0]), 0.5).tolist()
    [-1.0, 0.5]
    """
    return -step * alignments


def negative_entropy_gradient(weights: Tensor) -> Tensor:
    """d(Σ_k w_k log w_k)/dw = 1 + log w, (B,); where w underflowed to 0, that of the smallest
    number.

    Source: ours, for deviation 22.

    >>> negative_entropy_gradient(torch.tensor([1.0])).tolist()
    [1.0]
    """
    return 1 + weights.clamp_min(torch.finfo(weights.dtype).tiny).log()


def evenness_gradient(
    relative: Tensor, strength: float | Tensor, belief: Tensor | None = None
) -> Tensor:
    """d/dv_k of λ Σ_k v_k log(v_k / b_k): what keeps weights even (deviation 22).

    The guidance loss alone is least where what aligns best has all the weight, however little it is
    ahead: a g that learns for long becomes a threshold. With this term it is least at
    v ∝ b exp(E[p | x] / λ), x what g reads.

    Args:
        relative: v = g / mean(g), (B,).
        strength: λ, in units of the alignments.
        belief: b, (B,): even is what follows it; None is 1.

    Source: ours; Eq. 16 has the guidance loss alone.

    >>> evenness_gradient(torch.tensor([1.0, 1.0]), 0.5).tolist()
    [0.5, 0.5]
    """
    slope = negative_entropy_gradient(relative)
    if belief is not None:
        slope = slope - belief.clamp_min(LEAST_BELIEF).log()
    return strength * slope


def before_division(gradient: Tensor, mean: Tensor, average: Tensor) -> Tensor:
    """df/dg_k of f(w) with w_k = g_k / mean(g): (df/dw_k - (1/B) Σ_j w_j df/dw_j) / mean(g).

    Weights are divided by their mean before they count (deviation 19).

    Args:
        gradient: df/dw, (B,).
        mean: of g over the batch, ().
        average: (1/B) Σ_j w_j df/dw_j over the batch, ().

    Source: ours; Eq. 7 and 9 weigh by g itself.

    >>> g, pull = torch.tensor([0.2, 0.6]), torch.tensor([1.0, -1.0])
    >>> w = g / g.mean()
    >>> [round(x, 2) for x in before_division(pull, g.mean(), (w * pull).mean()).tolist()]
    [3.75, -1.25]
    """
    return (gradient - average) / mean
