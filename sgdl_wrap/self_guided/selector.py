"""Which memorized samples guide, and how that is learned (Sec. 3.2.2; Eq. 8 for φ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.self_guided.denoising_scheduler import LSTMScheduler, MLPScheduler, top_f
from sgdl_wrap.self_guided.factors import FactorHistory
from sgdl_wrap.self_guided.selection import (
    guidance_shares,
    gumbel_noise,
    negative_entropy_gradient,
    shares_gradient,
    soft_draws,
)


@dataclass(frozen=True)
class Selection:
    """How much each guidance sample counts.

    Attributes:
        shares: c, (n,), summing to 1.
        scheduled: what the scheduler made of the samples it saw; None without one.
    """

    shares: Tensor
    scheduled: Scheduled | None = None


@dataclass(frozen=True)
class Scheduled:
    """The scheduler's choice among the samples that have a history.

    Attributes:
        places: theirs among the guidance samples, (m,) int64; None for all.
        logits: o, (m,), with a graph to φ.
        soft: y of Eq. 12, (draws, m).
    """

    places: Tensor | None
    logits: Tensor
    soft: Tensor


class GuidanceSelector:
    """The denoising scheduler s(·; φ) and the factor history it reads.

    Args:
        memorized: M, sorted interaction ids, (|M|,) int64.
        config: which scheduler, and its settings.
        generator: draws φ's initial values and the Gumbel noise.
        device, dtype: of the losses.
    """

    def __init__(
        self,
        memorized: np.ndarray,
        config: DenoiserConfig,
        *,
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.config = config
        self.generator = generator
        self._device, self._dtype = device, dtype
        self.network: LSTMScheduler | MLPScheduler | None = None
        if config.denoising_scheduler in ("lstm", "mlp"):
            make = LSTMScheduler if config.denoising_scheduler == "lstm" else MLPScheduler
            self.network = make(
                config.denoising_scheduler_hidden,
                generator=generator, device=device, dtype=dtype,
            )
        self.factors: FactorHistory | None = None
        if config.denoising_scheduler != "none":
            kind = np.dtype(str(dtype).removeprefix("torch."))
            self.factors = FactorHistory(memorized, config.factor_history, dtype=kind)

    def record(self, ids: np.ndarray, losses: Tensor, similarities: Tensor) -> None:
        """Notes the factors of one visit of memorized samples, (m,) each."""
        if self.factors is not None and len(ids):
            factors = torch.stack([losses.detach(), similarities], dim=1).to(self._dtype)
            slots = self.factors.slots(ids)
            held = slots >= 0
            self.factors.record(slots[held], factors.cpu().numpy()[held])

    def select(self, ids: np.ndarray) -> Selection:
        """Shares of guidance samples, (n,), given by their ids; -1 for memorized negatives.

        Memorized negatives are drawn anew each epoch and have no history: they share equally, and
        the scheduler divides what is left among the memorized interactions (deviation 13). So do
        interactions that left M at an epoch's end while they waited to guide.
        """
        n = len(ids)
        equal = torch.full((n,), 1.0 / n, device=self._device, dtype=self._dtype)
        if self.factors is None:
            return Selection(equal)
        slots = self.factors.slots(ids)
        rows = np.flatnonzero(slots >= 0)
        if len(rows) == 0:
            return Selection(equal)
        places = None if len(rows) == n else torch.from_numpy(rows).to(self._device)
        sequences = self.factors.sequences(slots[rows])
        factors, visits = (torch.from_numpy(part).to(self._device) for part in sequences)
        scheduled = None
        if self.network is None:
            latest = factors[visits - 1, torch.arange(len(rows), device=self._device)]
            shares = top_f(latest)
        else:
            logits = self.network(factors, visits)
            noise = gumbel_noise(
                (self.config.gumbel_draws, len(rows)), self.generator,
                dtype=logits.dtype, device=logits.device,
            )
            soft = soft_draws(logits, noise, self.config.gumbel_tau)
            scheduled = Scheduled(places, logits, soft)
            shares = guidance_shares(soft)
        if places is not None:
            shares = equal.index_copy(0, places, shares * (len(rows) / n))
        return Selection(shares, scheduled)

    def gradients(self, selection: Selection, guidance_losses: Tensor) -> list[Tensor] | None:
        """d/dφ of Σ_m c_m L_m(θ̂) - λ s H(π), H the entropy of π (Eq. 8); None without φ.

        s is the standard deviation of the guidance losses, so that λ has no unit. The guidance
        loss alone is least when one easy sample gets all: the best π would tell nothing of noise.
        With the entropy it is π ∝ exp(-L/(λ s)): samples far above the others count less
        (deviation 14).

        Args:
            guidance_losses: L(θ̂), (n,), detached.
        """
        scheduled = selection.scheduled
        if self.network is None or scheduled is None:
            return None
        losses, places = guidance_losses.to(selection.shares.dtype), scheduled.places
        seen = losses if places is None else losses[places]
        with torch.no_grad():
            in_logits = shares_gradient(scheduled.soft, seen, self.config.gumbel_tau)
            in_logits *= len(seen) / len(losses)  # the part that these samples divide
            strength = self.config.denoising_scheduler_entropy
            if strength > 0:
                spread = losses.std(unbiased=False)
                in_logits += strength * spread * negative_entropy_gradient(scheduled.logits)
        parameters = list(self.network.parameters())
        return list(torch.autograd.grad(scheduled.logits, parameters, in_logits))

    def state_dict(self) -> dict[str, Any]:
        """φ and the factor history; live tensors."""
        state: dict[str, Any] = {}
        if self.network is not None:
            state["network"] = self.network.state_dict()
        if self.factors is not None:
            state["factor_ring"] = torch.from_numpy(self.factors.ring)
            state["factor_visits"] = torch.from_numpy(self.factors.visits)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        if self.network is not None:
            self.network.load_state_dict(state["network"])
        if self.factors is not None:
            torch.from_numpy(self.factors.ring).copy_(state["factor_ring"])
            torch.from_numpy(self.factors.visits).copy_(state["factor_visits"])
