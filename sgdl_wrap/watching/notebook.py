"""All that Phase I remembers: this epoch's losses, the memorization history, the last ranking."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.equations.memorization import majority
from sgdl_wrap.equations.noise_rate import NoiseRate
from sgdl_wrap.errors import OrderError
from sgdl_wrap.model.scores import ScorePairs
from sgdl_wrap.ranks.layout import own_users
from sgdl_wrap.ranks.ranks import ALONE, Ranks
from sgdl_wrap.saving.header import same_shape
from sgdl_wrap.watching.evidence import (
    GATHERED,
    MOST_ITEMS,
    SOON,
    NoiseEvidence,
    Strangeness,
)
from sgdl_wrap.watching.noise_rate import estimate_noise_rate
from sgdl_wrap.watching.ranking import RankedEpoch, Ranking
from sgdl_wrap.watching.ring import MemorizationBuffer, count_bits
from sgdl_wrap.watching.sign import LossGap, compared_users, gap_sums, loss_gap

Averages = tuple[np.ndarray, np.ndarray]  # interactions and their smoothed losses
Visits = Sequence[tuple[np.ndarray, np.ndarray]]  # of each step: interactions, their losses


@dataclass(frozen=True)
class EpochFindings:
    """What the end of an epoch found, before any of it is written down.

    Attributes:
        ranked: m_t of every interaction.
        noise_rate: the mixture's estimate; None where the rate is known or no longer asked for.
        generator: draws the next epoch's candidates.
        gap: how the losses of this epoch's memorized pairs lie to the others'; None in Phase II.
        strangeness: evidence on noise; None where no more is gathered.
    """

    ranked: RankedEpoch
    noise_rate: NoiseRate | None
    generator: torch.Generator
    gap: LossGap | None
    strangeness: Strangeness | None


def smoothed(past: np.ndarray, losses: np.ndarray, share: float) -> np.ndarray:
    """λ s + (1 - λ) L, λ the share of the past; a first visit (s is NaN) is taken as it is."""
    found: np.ndarray = np.where(np.isnan(past), losses, share * past + (1 - share) * losses)
    return found


class MemorizationTracker:
    """Losses, memorization and evidence on every interaction, h/8 + 8 bytes each.

    Smoothed losses, 4 bytes more, begin with Phase II, or at once with `audit_only`: while Phase I
    decides, nothing reads them.

    The losses are those of the epoch under way or, until its first step is written down, of the
    one before.

    Args:
        interactions: D.
        config: history length, ranking, noise-rate settings.
        ranks: those that watch together; what each finds of its users, all come to know.

    Attributes:
        evidence: what is known of noise.
    """

    def __init__(
        self, interactions: Interactions, config: DenoiserConfig, ranks: Ranks = ALONE
    ) -> None:
        self.interactions = interactions
        self.config = config
        self._ranks = ranks
        self.buffer = MemorizationBuffer(len(interactions), config.history_length)
        self.losses = np.full(len(interactions), np.nan, dtype=np.float32)  # NaN: not yet seen
        self.evidence = NoiseEvidence(interactions, ranks)
        self._guided: int | None = None  # epochs of Phase II; None before it
        self.at_switch: np.ndarray | None = None  # packed bits of M then
        self._epoch_ended = False
        self.smoothed: np.ndarray | None = None
        if "smoothed_loss" in (config.variants.weight_inputs or ()) or config.audit_only:
            self.smoothed = self.losses.copy()
        # score of each user's last ranked candidate, by place; NaN before the first ranking
        self.cut = torch.full((interactions.n_users,), torch.nan, dtype=torch.float32)
        self.mixture: NoiseRate | None = None  # of the last epoch that asked for it
        self._generator = torch.Generator().manual_seed(config.seed)

    def record(self, ids: np.ndarray, losses: np.ndarray) -> None:
        """Writes down losses seen in one step; of an id named twice the last one counts.

        Args:
            ids: (B,) int64, all >= 0.
            losses: (B,).
        """
        visits = [(ids, losses)]
        self.note(visits, self.averages_before(visits))

    def averages_before(self, visits: Visits) -> Averages | None:
        """The interactions visited and their smoothed losses now; None where none are kept.

        Args:
            visits: the interactions of each step, all >= 0, and their losses.
        """
        if self.smoothed is None or not visits:
            return None
        ids = np.concatenate([some for some, _ in visits])
        return ids, self.smoothed[ids]

    def note(self, visits: Visits, averages: Averages | None) -> None:
        """Writes visits down; done twice, it is as done once.

        Args:
            visits: as of :meth:`averages_before`.
            averages: what that gave before the visits were noted for the first time.
        """
        if not any(len(ids) for ids, _ in visits):  # of batches of sampled negatives
            return
        self._forget_last_epoch()
        if self.smoothed is not None and averages is not None:
            self.smoothed[averages[0]] = averages[1]
        for ids, losses in visits:  # every visit of an interaction counts, one after the other
            self.losses[ids] = losses
            if self.smoothed is not None:
                past = self.config.variants.loss_smoothing
                now = smoothed(self.smoothed[ids], losses.astype(np.float32), past)
                self.smoothed[ids] = now

    def features(self, ids: np.ndarray, losses: Tensor, names: Sequence[str]) -> Tensor:
        """What g reads of each sample, (B, F) on the device of `losses`, without graph.

        The losses are detached (deviation 9). For ranking losses g reads suspicion instead
        (deviation 18).

        Args:
            ids: (B,) int64; -1 where unobserved or unknown.
            losses: of this visit, (B,).
            names: which, as `weight_inputs` names them; the averages must have begun.

        The smoothed loss is the one that :meth:`record` writes down of this visit. Unobserved
        samples (id -1) have no history: their smoothed loss is the loss itself, their suspicion
        and memorization rate are 0, their belief is 1.
        """
        losses = losses.detach()
        known = ids >= 0
        places = ids[known]
        columns, share = [], self.config.variants.loss_smoothing
        for name in names:
            if name == "loss":
                columns.append(losses)
                continue
            column = np.zeros(len(ids), dtype=np.float32)
            if name == "smoothed_loss":
                column[:] = losses.float().cpu().numpy()
                past = _begun(self.smoothed, name)[places]
                column[known] = smoothed(past, column[known], share)
            elif name == "suspicion":  # none without evidence
                column[known] = np.nan_to_num(self.evidence.suspicion[places])
            elif name == "belief":
                column[:] = 1.0
                column[known] = self.evidence.belief(places)
            elif name == "memorization_rate":
                column[known] = self.buffer.rates(places)
            else:
                column[known] = 1.0  # observed
            columns.append(torch.from_numpy(column).to(losses))
        return torch.stack(columns, dim=1)

    def examine(
        self,
        score: ScorePairs,
        *,
        with_noise_rate: bool,
        on_ranked: Callable[[int, int], None] | None = None,
    ) -> EpochFindings:
        """Ranks the epoch and estimates its noise rate; may be done again, with the same result.

        Raises:
            ScoreError: scores of a wrong shape, or NaN or +inf among them.
            NoiseRateError: losses from which no rate can be estimated.
        """
        self._forget_last_epoch()
        ranks = self._ranks
        if ranks.replicated:
            self._share_losses()
        users = own_users(ranks, self.interactions)
        own = slice(*self.interactions.starts[list(users)].tolist())
        noise_rate = None
        if with_noise_rate and self.config.noise_rate is None:
            noise_rate = estimate_noise_rate(
                self.losses[own],
                self.interactions.places(own).numpy(),
                normalization=self.config.variants.loss_normalization,
                max_fitted=self.config.variants.noise_rate_sample,
                start=self.mixture,
                ranks=ranks,
            )
        generator = torch.Generator()
        generator.set_state(self._generator.get_state())
        with ranks.together():
            ranked = Ranking(self.config.ranking, self.config.ranking_chunk).epoch(
                self.interactions,
                score,
                generator=ranks.generator(generator, self.buffer.epochs),
                on_ranked=on_ranked,
                among=users,
            )
        gap = None
        if with_noise_rate:  # weights bend the losses of Phase II
            memorized = np.unpackbits(ranked.packed, count=len(self.losses)).view(bool)
            starts, sums = self.interactions.starts.numpy(), np.zeros(6)
            for first, last in compared_users(starts, users):
                some = slice(int(starts[first]), int(starts[last]))
                of = self.interactions.places(some).numpy()
                sums += gap_sums(self.losses[some], of, memorized[some])
            gap = loss_gap(*ranks.sums(*sums.tolist()))
        strangeness = None
        if self._gathers():
            strangeness = self.evidence.gathered(score, users, self.config, self.buffer.epochs)
        if ranks.replicated:
            cut = torch.from_numpy(ranks.known(ranked.cut.numpy()))
            ranked = RankedEpoch(ranks.joined_bits(ranked.packed), cut)
        return EpochFindings(ranked, noise_rate, generator, gap, strangeness)

    def _gathers(self) -> bool:
        """Whether the epoch that ends adds evidence: from shortly before Phase II may begin."""
        if self.interactions.n_items > MOST_ITEMS:
            return False
        if self._guided is not None:
            return self._guided < GATHERED
        soon = self.buffer.epochs + 1 >= majority(self.config.history_length) - SOON
        return soon or self.config.audit_only

    def _share_losses(self) -> None:
        """Every rank learns of the losses that the others have seen in this epoch."""
        ranks = self._ranks
        if self.smoothed is not None:
            seen = np.where(np.isnan(self.losses), np.float32(np.nan), self.smoothed)
            known = ranks.known(seen)
            self.smoothed = np.where(np.isnan(known), self.smoothed, known)
        self.losses = ranks.known(self.losses)

    def ended(self, findings: EpochFindings) -> MemorizationTracker:
        """The tracker after the epoch, with what was found; this one stays as it is."""
        after = copy.copy(self)
        after.buffer = self.buffer.pushed(findings.ranked.packed)
        after.cut = findings.ranked.cut
        after.mixture = findings.noise_rate or self.mixture
        after._generator = findings.generator
        if findings.strangeness is not None:
            after.evidence = self.evidence.with_epoch(findings.strangeness)
        if self._guided is not None:
            after._guided = self._guided + 1
        after._epoch_ended = True
        return after

    def memorized(self) -> int:
        """|M_t|, over all ranks."""
        return self._ranks.total(count_bits(self.buffer.memorized()))

    def latest_losses(self) -> np.ndarray:
        """The losses, (N,); where none was seen in the epoch under way, their average over visits.

        NaN where there is none either, as in Phase I.
        """
        if self.smoothed is None:
            return self.losses
        return np.where(np.isnan(self.losses), self.smoothed, self.losses)

    def _forget_last_epoch(self) -> None:
        if self._epoch_ended:  # each epoch's losses are those seen during it
            self.losses.fill(np.nan)
            self._epoch_ended = False

    def note_switch(self, findings: EpochFindings) -> None:
        """Keeps M_t as it is now, and begins the averages with the epoch that has just ended.

        What this tracker shares with the one before the epoch's end is not written to.
        """
        if self.at_switch is None:
            self.at_switch = self.buffer.memorized()
        if self.smoothed is None:
            self.smoothed = self.losses.copy()
        self._guided = 0

    def memorized_ids(self, *, steady: bool = False) -> np.ndarray:
        """M_t as sorted interaction ids, int64.

        Args:
            steady: those alone that were memorized in nearly every epoch of the history; all of
                M_t where, on all ranks, there are none of them.
        """
        packed = self.buffer.steady() if steady else self.buffer.memorized()
        if steady and self._ranks.total(count_bits(packed)) == 0:
            packed = self.buffer.memorized()
        bits = np.unpackbits(packed, count=len(self.interactions))
        return np.flatnonzero(bits).astype(np.int64, copy=False)

    def state_dict(self) -> dict[str, Any]:
        """The history ring, the losses, the averages and the generator, as tensors."""
        rows, epochs = self.buffer.state()
        return {
            "ring": torch.from_numpy(rows),
            "epochs": epochs,
            "losses": torch.from_numpy(self.losses.copy()),
            "epoch_ended": self._epoch_ended,
            "evidence": self.evidence.state_dict(),
            "guided": self._guided,
            "smoothed": _copied(self.smoothed),
            "at_switch": _copied(self.at_switch),
            "cut": self.cut.clone(),
            "mixture": None if self.mixture is None else asdict(self.mixture),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave, for the same interactions and config."""
        ring = torch.from_numpy(self.buffer.state()[0])
        self.buffer.restore(same_shape(state["ring"], ring, "ring").numpy(), int(state["epochs"]))
        losses = torch.from_numpy(self.losses)
        self.losses = same_shape(state["losses"], losses, "losses").numpy().copy()
        self._epoch_ended = bool(state["epoch_ended"])
        self.evidence = NoiseEvidence(self.interactions, self._ranks)
        self.evidence.load_state_dict(state["evidence"])
        self._guided = None if state["guided"] is None else int(state["guided"])
        if state["smoothed"] is not None:
            self.smoothed = same_shape(state["smoothed"], losses, "smoothed").numpy().copy()
        if state["at_switch"] is not None:
            at_switch = same_shape(state["at_switch"], ring[0], "at_switch")
            self.at_switch = at_switch.numpy().copy()
        self.cut = same_shape(state["cut"], self.cut, "cut").clone()
        self.mixture = None if state["mixture"] is None else NoiseRate(**state["mixture"])
        self._generator.set_state(state["generator"].cpu())


def _begun(average: np.ndarray | None, name: str) -> np.ndarray:
    if average is None:
        raise OrderError(
            f"Expected {name} to be averaged by now, got Phase I without audit_only. "
            "Ask for it from the switch on."
        )
    return average


def _copied(values: np.ndarray | None) -> Tensor | None:
    return None if values is None else torch.from_numpy(values.copy())
