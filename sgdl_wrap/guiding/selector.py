"""Which memorized samples guide, and how that is learned (Sec. 3.2.2; Eq. 8 for φ)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.equations.selection import (
    expected_draw,
    guidance_shares,
    gumbel_noise,
    negative_entropy_gradient,
    shares_gradient,
    soft_draws,
    top_f,
)
from sgdl_wrap.equations.updates import chain_rule
from sgdl_wrap.guiding.factors import FactorHistory
from sgdl_wrap.guiding.scheduler import LSTMScheduler, MLPScheduler
from sgdl_wrap.ranks.ranks import ALONE, Gathered, Ranks


@dataclass(frozen=True)
class Selection:
    """How much each guidance sample counts.

    Attributes:
        shares: c, (n,), summing to 1, over all ranks.
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
        everywhere: o of all ranks, without graph.
        soft: y of Eq. 12, of all ranks, (draws, M).
        tau: τ of them.
    """

    places: Tensor | None
    logits: Tensor
    everywhere: Gathered
    soft: Tensor
    tau: float


class GuidanceSelector:
    """The denoising scheduler s(·; φ) and the factor history it reads.

    Args:
        memorized: M, sorted interaction ids, (|M|,) int64.
        config: which scheduler, and its settings.
        generator: draws φ's initial values and the Gumbel noise.
        device, dtype: of the losses.
        ranks: those whose guidance is divided together; each has some of the samples.
    """

    def __init__(
        self,
        memorized: np.ndarray,
        config: DenoiserConfig,
        *,
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config = config
        self._ranks = ranks
        self.generator = generator
        self._device, self._dtype = device, dtype
        self.network: LSTMScheduler | MLPScheduler | None = None
        if config.variants.denoising_scheduler in ("lstm", "mlp"):
            make = LSTMScheduler if config.variants.denoising_scheduler == "lstm" else MLPScheduler
            self.network = make(
                config.variants.denoising_scheduler_hidden,
                generator=generator, device=device, dtype=dtype,
            )
        self.factors: FactorHistory | None = None
        if config.variants.denoising_scheduler != "none":
            kind = np.dtype(str(dtype).removeprefix("torch."))
            self.factors = FactorHistory(memorized, config.variants.factor_history, dtype=kind)

    def following(self, memorized: np.ndarray) -> GuidanceSelector:
        """That of another M, sorted interaction ids; φ is the same."""
        after = copy.copy(self)
        if self.factors is not None:
            after.factors = self.factors.following(memorized)
        return after

    def record(self, ids: np.ndarray, losses: Tensor, similarities: Tensor) -> None:
        """Notes the factors of one visit of memorized samples, (m,) each."""
        if self.factors is None:
            return
        factors = torch.stack([losses.detach(), similarities], dim=1).to(self._dtype)
        ids, factors = self._ranks.noted(ids, factors)
        if len(ids):
            slots = self.factors.slots(ids)
            held = slots >= 0
            self.factors.record(slots[held], factors.cpu().numpy()[held])

    def select(self, ids: np.ndarray) -> Selection:
        """Shares of guidance samples, (n,), given by their ids; -1 for memorized negatives.

        Memorized negatives are drawn anew each epoch and have no history: they share equally, and
        the scheduler divides what is left among the memorized interactions (deviation 13). So do
        interactions that left M at an epoch's end while they waited to guide.
        """
        (n,) = self._ranks.sums(len(ids))
        equal = torch.full((len(ids),), 1.0 / n, device=self._device, dtype=self._dtype)
        if self.factors is None:
            return Selection(equal)
        slots = self.factors.slots(ids)
        rows = np.flatnonzero(slots >= 0)
        if not self._ranks.any(len(rows) > 0):
            return Selection(equal)
        places = None if len(rows) == len(ids) else torch.from_numpy(rows).to(self._device)
        sequences = self.factors.sequences(slots[rows])
        factors, visits = (torch.from_numpy(part).to(self._device) for part in sequences)
        scheduled = None
        if self.network is None:
            latest = factors[visits - 1, torch.arange(len(rows), device=self._device)]
            everywhere = self._ranks.gather(latest)
            divided = top_f(everywhere.rows)
        else:
            logits = self._logits(self.network, factors, visits)
            everywhere = self._ranks.gather(logits.detach())
            soft, tau, divided = self._drawn(everywhere.rows)
            scheduled = Scheduled(places, logits, everywhere, soft, tau)
        shares = everywhere.own(divided) * (len(everywhere.rows) / n)
        if places is not None:
            shares = equal.index_copy(0, places, shares)
        return Selection(shares, scheduled)

    def _drawn(self, logits: Tensor) -> tuple[Tensor, float, Tensor]:
        """Soft draws, their τ, and the shares, of the logits of all ranks."""
        draws, tau = self.config.variants.gumbel_draws, self.config.variants.gumbel_tau
        if draws is None:
            expected = expected_draw(logits)
            return expected, 1.0, expected[0]
        # on the CPU, so that devices agree
        uniform = torch.rand(draws, len(logits), generator=self.generator, dtype=torch.float32)
        noise = gumbel_noise(uniform).to(device=logits.device, dtype=logits.dtype)
        soft = soft_draws(logits, noise, tau)
        return soft, tau, guidance_shares(soft)

    def probabilities(self) -> tuple[np.ndarray, np.ndarray]:
        """π of Eq. 11 over this rank's memorized interactions that have a history.

        Without an LSTM or MLP, the shares that they would have.

        Returns:
            ids: (m,) int64.
            probabilities: (m,) float64, summing to 1.
        """
        if self.factors is None:
            return np.empty(0, dtype=np.int64), np.empty(0)
        slots = np.flatnonzero(self.factors.visits)
        ids: np.ndarray = self.factors.ids[slots]
        if len(slots) == 0:
            return ids, np.empty(0)
        sequences = self.factors.sequences(slots)
        factors, visits = (torch.from_numpy(part).to(self._device) for part in sequences)
        with torch.no_grad():
            if self.network is None:
                found = top_f(factors[visits - 1, torch.arange(len(slots), device=self._device)])
            else:
                found = self._logits(self.network, factors, visits).softmax(dim=0)
        return ids, found.double().cpu().numpy()

    @staticmethod
    def _logits(network: LSTMScheduler | MLPScheduler, factors: Tensor, visits: Tensor) -> Tensor:
        """o, (m,), with a graph to φ, also where none of this rank's samples has a history."""
        if len(visits) == 0:  # an LSTM takes no empty batch
            return next(network.parameters()).flatten()[:0]
        logits: Tensor = network(factors, visits)
        return logits

    def gradients(self, selection: Selection, guidance_losses: Tensor) -> list[Tensor] | None:
        """d/dφ of Σ_m c_m L_m(θ̂) - λ s H(π), H the entropy of π (Eq. 8); None without φ.

        Of several ranks, this one's part of it: the gradient is the sum of theirs.

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
        losses, seen = (self._ranks.gather(part).rows for part in (losses, seen))
        everywhere = scheduled.everywhere
        with torch.no_grad():
            in_logits = shares_gradient(scheduled.soft, seen, scheduled.tau)
            in_logits *= len(seen) / len(losses)  # the part that these samples divide
            strength = self.config.variants.denoising_scheduler_entropy
            if strength > 0:
                spread = losses.std(unbiased=False)
                in_logits += strength * spread * negative_entropy_gradient(everywhere.rows)
        parameters = list(self.network.parameters())
        return chain_rule(scheduled.logits, parameters, everywhere.own(in_logits))

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
