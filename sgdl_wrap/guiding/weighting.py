"""The weighting function g(L_k; ψ): one weight a sample (Sec. 3.2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sgdl_wrap.equations.weighting import (
    before_division,
    believed,
    evenness_gradient,
    guided_gradient,
    weighting,
)
from sgdl_wrap.ranks.ranks import Gathered, Ranks


class WeightingFunction(nn.Module):
    """w = g(x; ψ) = sigmoid(W2 relu(W1 (x / u) + b1) + b2), one hidden layer (Sec. 3.2.1), Eq. 5.

    With a belief b in [0, 1], which is known without g (deviation 23), w = b^(2 g(x; ψ)). W2 then
    begins with zeros, so that w = b at first: ψ learns how far weights follow what is known,
    between not at all and twice. Where b is 1, w is 1 whatever g gives.

    Args:
        n_inputs: features a sample, 1 for the paper's loss alone.
        hidden: units of the hidden layer.
        generator: draws the initial weights.
        device, dtype: where and in what precision it computes.
        believes: whether there is a last feature b, in [0, 1].
        input_units: u, the unit of each feature; None is 1 for all. Not learned, and no part of
            the state.
    """

    def __init__(
        self,
        n_inputs: int,
        hidden: int,
        *,
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype,
        believes: bool = False,
        input_units: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.input_units: Tensor | None
        units = None
        if input_units is not None:
            units = torch.tensor(input_units, device=device, dtype=dtype)
        self.register_buffer("input_units", units, persistent=False)
        self.hidden = linear(n_inputs, hidden, generator, device, dtype)
        self.output = linear(hidden, 1, generator, device, dtype)
        self.believes = believes
        if believes:
            nn.init.zeros_(self.output.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Weights in [0, 1], (B,), of features (B, n_inputs), and b after them if it counts."""
        if self.believes:
            return believed(self.learned(features[:, :-1]), features[:, -1])
        return self.learned(features)

    def learned(self, features: Tensor) -> Tensor:
        """g(x; ψ) alone, (B,) in (0, 1), of features (B, n_inputs)."""
        if self.input_units is not None:
            features = features / self.input_units
        first, second = self.hidden, self.output
        return weighting(features, (first.weight, first.bias), (second.weight, second.bias))


def mean_weight(weights: Tensor, ranks: Ranks) -> Tensor:
    """What `weight_normalization="mean"` divides by: (1/B) Σ_k w_k, of several ranks the mean of
    theirs, as the loss is; a scalar > 0, without graph."""
    mean = weights.detach().mean() / ranks.size
    ranks.sum_([mean])
    return mean.clamp_min(torch.finfo(mean.dtype).tiny)


def gradient_before_division(
    gradient: Tensor, weights: Tensor, mean: Tensor, ranks: Ranks
) -> Tensor:
    """:func:`~sgdl_wrap.equations.weighting.before_division` over the batches of all ranks.

    Args:
        gradient: df/dw, (B,).
        weights: w, (B,), divided.
        mean: as :func:`mean_weight` gave it, (); B samples on each of the ranks.
    """
    overall = (gradient * weights).sum()
    ranks.sum_([overall])
    return before_division(gradient, mean, overall / (ranks.size * len(weights)))


@dataclass(frozen=True)
class Objective:
    """Σ_k (η1/B) (-w_k p_k + λ s m v_k log(v_k / b_k)), v = g / m, m = mean(g), which ψ minimises.

    The first term is the guidance loss's (Eq. 16), the second keeps weights even (deviation 22).

    Attributes:
        scale: η1/B, of several ranks this one's, divided by their number.
        entropy: λ.
        divides: whether w is v, as weights are divided by their mean; the m of the second term is
            then 1. Else w is g.
    """

    scale: float
    entropy: float
    divides: bool

    def gradient(
        self,
        relative: Tensor,
        mean: Tensor,
        alignments: Gathered,
        ranks: Ranks,
        *,
        belief: Tensor | None = None,
    ) -> Tensor:
        """Its gradient in g, (B,).

        Args:
            relative: v, (B,).
            mean: m, as :func:`mean_weight` gave it, ().
            alignments: p = <ḡ, ∇L_k(θ)> of all ranks; s is their standard deviation.
            belief: b of what is known without g, (B,): even is what follows it; None is 1.
        """
        products = alignments.own(alignments.rows)
        guided = guided_gradient(products, self.scale).to(relative.dtype)
        if not self.divides and not self.entropy:
            return guided
        even = torch.zeros_like(guided)
        if self.entropy:
            spread = alignments.rows.double().std(unbiased=False).to(relative.dtype)
            even = evenness_gradient(relative, self.scale * self.entropy * spread, belief)
        if self.divides:
            return gradient_before_division(guided + even, relative, mean, ranks)
        return guided + mean * gradient_before_division(even, relative, mean, ranks)


def linear(
    n_inputs: int, n_outputs: int, generator: torch.Generator, device: torch.device,
    dtype: torch.dtype,
) -> nn.Linear:
    """A Linear with Xavier weights and zero bias, drawn without the global random state."""
    # made on no device, so that its own initialisation draws nothing
    blank = nn.Linear(n_inputs, n_outputs, device=torch.device("meta"), dtype=dtype)
    layer: nn.Linear = blank.to_empty(device=device)
    draw_xavier_(layer.weight, generator)
    nn.init.zeros_(layer.bias)
    return layer


@torch.no_grad()
def draw_xavier_(weight: Tensor, generator: torch.Generator) -> None:
    """Fills a 2-D weight by the Xavier uniform law; drawn on the CPU, so that devices agree."""
    bound = (6.0 / (weight.shape[0] + weight.shape[1])) ** 0.5
    drawn = torch.rand(weight.shape, generator=generator, dtype=torch.float64)
    weight.copy_((2 * drawn - 1) * bound)
