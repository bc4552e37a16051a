"""Where training stands: its phase, the epoch under way, and those before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.batches.passes import Bound, doubts_of_a_pass
from sgdl_wrap.batches.samples import are_pointwise
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.equations.memorization import first_stall, majority
from sgdl_wrap.equations.suspicion import share_interval
from sgdl_wrap.errors import NoiseRateError, NonFiniteError, OrderError, SwitchError
from sgdl_wrap.guiding.guide import SelfGuidedPhase
from sgdl_wrap.guiding.loss_scale import loss_scale
from sgdl_wrap.loop.progress import Counts, RunningEpoch
from sgdl_wrap.loop.switch import TransitionDetector, Verdict
from sgdl_wrap.model.calls import UserCode
from sgdl_wrap.model.streams import foreign_streams_kept
from sgdl_wrap.model.untouched import all_or_nothing
from sgdl_wrap.notices import warn
from sgdl_wrap.ranks.ranks import Ranks
from sgdl_wrap.records import EpochRecord, Phase
from sgdl_wrap.report.epoch_display import EpochDisplay, epoch_line
from sgdl_wrap.report.ranking_log import RankingLog
from sgdl_wrap.report.snapshot import Snapshot
from sgdl_wrap.report.summary import Standing, headline
from sgdl_wrap.report.weight_summary import (
    EVEN,
    SURE,
    WeightSummary,
    doubt,
    evenly,
    summary,
)
from sgdl_wrap.saving.header import broken_state_refused
from sgdl_wrap.watching.backlog import Backlog, Reading
from sgdl_wrap.watching.evidence import GATHERED
from sgdl_wrap.watching.notebook import Averages, MemorizationTracker
from sgdl_wrap.watching.sign import LossGap

logger = logging.getLogger("sgdl_wrap")

LEAST_WINDOW = 10  # epochs; what a shorter history says jumps about


@dataclass(frozen=True)
class Ended:
    """What an epoch's end has found and decided, before any of it is taken.

    Attributes:
        record: of the epoch.
        tracker: what is known of each interaction now.
        self_guided: Phase II; None as long as it has not begun.
        memorized: |M_t|, over all ranks.
        gap: how the losses of its memorized pairs lie to the others'; None in Phase II.
        verdict: of Eq. 3; None where nothing was to be decided.
    """

    record: EpochRecord
    tracker: MemorizationTracker
    self_guided: SelfGuidedPhase | None
    memorized: int
    gap: LossGap | None
    verdict: Verdict | None = None


class Epochs:
    """Phase I and II, epoch by epoch: what is watched, and what each epoch's end decides.

    Args:
        interactions: D.
        config: the method's choices.
        ranks: the processes that train together.
        user_code: the model and its scores.
        display: shows epochs as they run and end.
        explicit: whether epochs end by :meth:`end` alone from the first one on.
        on_epoch: is called with the record of each epoch that has ended.

    Attributes:
        tracker: what is known of each interaction, but for the steps in `backlog`.
        backlog: steps that are not yet written down.
        self_guided: Phase II, from the memorization point on.
        running: the epoch under way.
        history: one record an epoch.
        explicit: whether epochs end by :meth:`end` alone, and not when they are full.
    """

    def __init__(
        self,
        interactions: Interactions,
        config: DenoiserConfig,
        ranks: Ranks,
        user_code: UserCode,
        display: EpochDisplay | None = None,
        explicit: bool = False,
        on_epoch: Callable[[EpochRecord], object] | None = None,
    ) -> None:
        self._interactions = interactions
        self._config = config
        self._ranks = ranks
        self._user_code = user_code
        self._display = display
        self._on_epoch = on_epoch
        self._total = ranks.total(len(interactions))
        self._detector = TransitionDetector(config.variants.noise_rate_shift, config.switch_timeout)
        self.tracker = MemorizationTracker(interactions, config, ranks)
        self.backlog = Backlog()
        # what the backlog has shown, while it is written down
        self._read: tuple[Reading, Averages | None, Counts | None] | None = None
        self.self_guided: SelfGuidedPhase | None = None
        self.history: list[EpochRecord] = []
        self._explicit_from_the_first = self.explicit = explicit
        self._said_even = config.audit_only or ranks.rank > 0  # nothing is to be said of weights
        self.running = self._new_epoch(first=True)

    @property
    def phase(self) -> Phase:
        """Phase.MEMORIZATION, then Phase.SELF_GUIDED."""
        return Phase.MEMORIZATION if self.self_guided is None else Phase.SELF_GUIDED

    @property
    def memorization_point(self) -> int | None:
        """t_m: the epoch, counted from 1, at whose end Phase II began; None before."""
        if self.self_guided is None:
            return None
        return sum(record.phase is Phase.MEMORIZATION for record in self.history)

    @property
    def noise_rate(self) -> float | None:
        """σ̂ of the last epoch of Phase I; None before the first estimate."""
        return self._noise_rate_of(self.tracker)

    @property
    def first_switch(self) -> int:
        """The first epoch at whose end Phase II may begin (Eq. 1 and 3)."""
        first, timeout = majority(self._config.history_length), self._config.switch_timeout
        return first if timeout is None else min(first, timeout)

    def say_if_even(self) -> None:
        """Says once, as weights are asked for, that Phase I goes on and all of them are one."""
        if self._said_even or self.phase is not Phase.MEMORIZATION:
            return
        self._said_even = True
        logger.warning(
            "Phase I goes on, so that all weights are 1. Phase II may begin after epoch %d at the "
            "earliest; %d have ended.", self.first_switch, len(self.history),
        )

    @property
    def noise_share(self) -> tuple[float, float] | None:
        """The interval around the last epoch's share; None before any evidence."""
        share = self.history[-1].noise_share if self.history else None
        return None if share is None else share_interval(share)

    def _noise_rate_of(self, tracker: MemorizationTracker) -> float | None:
        if self._config.noise_rate is not None:
            return self._config.noise_rate
        return None if tracker.mixture is None else tracker.mixture.value

    def where(self) -> str:
        """Names the batch in hand in messages."""
        return f"batch {self.batches + self.running.skipped + 1} of epoch {len(self.history) + 1}"

    @property
    def batches(self) -> int:
        """Batches of the epoch under way that were trained on."""
        return self.running.batches + len(self.backlog.steps)

    def start_clocks(self) -> None:
        """Starts the epoch's clocks at its first batch.

        Says then what is doubtful of the epoch before, as end_epoch would have been called by now.
        """
        if self.running.start_clock():
            self._user_code.added.take()
            doubts, self.running.doubts = self.running.doubts, []
            for doubt in [] if self.explicit else doubts:
                warn(doubt)

    def write_down(self) -> None:
        """Notes the steps of the backlog.

        After an interrupt the next call goes on with what was read: noting it twice is as noting
        it once.

        Raises:
            BatchError, InteractionsError: batches whose pairs are unknown.
        """
        while self.backlog.steps:
            if self._read is None:
                reading = self.backlog.read(self._interactions)
                averages = self.tracker.averages_before(reading.visits)
                self._read = reading, averages, self.running.counted(reading)
            reading, averages, counts = self._read
            self.tracker.note(reading.visits, averages)
            self.running.note(counts)
            running, backlog = self.running.after(reading), self.backlog.after(reading)
            self.running, self.backlog, self._read = running, backlog, None
            reading.refuse()
        if self._display is not None and self.running.observed:
            self._display.show(len(self.history) + 1, self.phase, self.running.observed)

    def snapshot(self, *, enabled: bool) -> Snapshot:
        """What is known by now, the steps of the backlog included.

        Raises:
            BatchError, InteractionsError: as :meth:`write_down`.
        """
        self.write_down()
        return Snapshot.of(self.tracker, self.self_guided, self.history, enabled=enabled)

    # ------------------------------------------------------------------ ends

    def end(self) -> EpochRecord:
        """Ends the epoch by a call; from the first one on, epochs end by calls alone.

        Raises:
            NoiseRateError, ScoreError, SwitchError, OrderError, NonFiniteError, BatchError,
                InteractionsError: as :meth:`SelfGuidedDenoiser.end_epoch`.
        """
        confirms = not self.explicit and bool(self.history)  # an epoch that ended by itself
        with self._ranks.together():
            self.write_down()
        self._refuse_without_observed()
        if not self._ranks.any(self.running.samples > 0):
            if not confirms and self._ranks.any(self.running.skipped > 0):
                raise NonFiniteError(
                    f"Expected a batch with finite losses and gradients in epoch "
                    f"{len(self.history) + 1}, got all {self.running.skipped} left out. Go on "
                    "from a checkpoint before it, at a lower learning rate."
                )
            if self.history:
                self.explicit = True
                return self.history[-1]
            raise OrderError(
                f"Expected end_epoch after some batches, got {self.running.what_came()}"
            )
        self.explicit = True
        return self._end()

    def _refuse_without_observed(self) -> None:
        if self.phase is not Phase.MEMORIZATION or self._config.noise_rate is not None:
            return
        samples, observed = self._ranks.sums(self.running.samples, self.running.observed)
        if samples and not observed:
            raise NoiseRateError(
                f"Expected observed pairs in epoch {len(self.history) + 1} to estimate a noise "
                f"rate, got {self.running.what_came()}"
            )

    def doubt_lone_negatives(self) -> None:
        """Says once that as many samples as pairs have come, and none of them is observed."""
        running = self.running
        if running.observed or running.said or running.samples < self._interactions.rows:
            return
        running.said = True
        warn(
            f"Expected observed pairs in epoch {len(self.history) + 1}, got "
            f"{running.what_came()} Without observed pairs no epoch ends by itself, and "
            "switch_timeout never comes."
        )

    def end_if_full(self) -> None:
        """Ends the epoch if a pass over the pairs is over, as their visits tell."""
        # the backlog may hold negatives too, but no more observed samples than this
        most = self.running.observed + self.backlog.samples
        if self.explicit or most < self.running.ends_at:
            return
        self.write_down()
        running, repeats = self.running, self._interactions.repeats
        if running.observed < running.ends_at:
            return
        self._ranks.refuse_own_epoch_end()
        if not running.is_over(None if repeats is None else repeats.numpy()):
            return
        doubts = [] if running.put_off else doubts_of_a_pass(
            running.counts, running.observed, running.bound, rows=self._interactions.rows,
            dropped=(1 + running.skipped) * running.observed / running.batches,
        )
        try:
            self._end(doubts)
        except Exception:
            # the error comes once, and the next try an epoch later
            running.put_off += running.bound.at
            raise

    def _end(self, doubts: Sequence[str] = ()) -> EpochRecord:
        # what an epoch's end finds is made out first, and then taken in one statement
        with all_or_nothing(self, self._user_code.streams):
            ended = self._ended()
            history = [*self.history, ended.record]
            suspect = ended.gap is not None and ended.gap.suspect
            doubted = self.running.sign_doubted
            running = replace(
                self._new_epoch(first=False), doubts=[*doubts], sign_doubted=doubted or suspect
            )
            self.tracker, self.history, self.running, self.self_guided = (
                ended.tracker, history, running, ended.self_guided
            )  # fmt: skip
        record = ended.record
        try:
            self._tell(ended, new_suspect=suspect and not doubted)
        finally:  # the user's own is called whatever is said, and last: all is done by then
            if self._on_epoch is not None:
                self._on_epoch(record)
        return record

    def _tell(self, ended: Ended, *, new_suspect: bool) -> None:
        """Tells a person of an epoch that has ended.

        Raises:
            SwitchError: as :meth:`_say`.
        """
        record = ended.record
        logger.info("%s", epoch_line(record))
        if self._display is not None:
            self._display.end(record)
            if self._is_news():
                self._display.say(headline(self.standing()))
        self._say(ended)
        if ended.gap is not None and new_suspect and self._ranks.rank == 0:
            warn(
                f"Expected memorized pairs to have lower losses than the others, got them "
                f"{ended.gap.effect:.1f} standard deviations higher in epoch {record.epoch}: "
                "score_fn or forward may return distances. Return scores that are higher for "
                "better items (-distance)."
            )

    def _ended(self) -> Ended:
        """All that the end of the epoch finds and decides; nothing is changed."""
        phase, self_guided = self.phase, self.self_guided
        with foreign_streams_kept():  # scikit-learn draws from them when it is first imported
            findings = self.tracker.examine(
                self._user_code.score,
                with_noise_rate=phase is Phase.MEMORIZATION,
                on_ranked=RankingLog(),
            )
        tracker = self.tracker.ended(findings)
        memorized = tracker.memorized()
        noise_rate = self._noise_rate_of(tracker)
        epoch, added = self.running, self._user_code.added.take()
        on_cpu = self._user_code.device.type == "cpu"
        samples, observed, negatives, loss_sum, weight_sum = self._ranks.sums(
            epoch.samples, epoch.observed, epoch.negatives, epoch.loss_sum, epoch.weight_sum
        )
        weights = self._weight_summary(tracker)
        record = EpochRecord(
            epoch=len(self.history) + 1,
            phase=phase,
            memorized_ratio=memorized / self._total,
            clean_ratio=None if noise_rate is None else self._detector.clean_ratio(noise_rate),
            noise_rate=noise_rate,
            loss=loss_sum / samples,
            mean_weight=weight_sum / samples,
            seconds=epoch.seconds(),
            skipped=epoch.skipped,
            plain_seconds=epoch.plain_seconds(added) if on_cpu else None,
            noise_share=tracker.evidence.mean,
            confidence=tracker.evidence.confidence(),
            effective_share=weights.effective,
            suspicious_weight=weights.suspicious,
            rare_weight=weights.rare,
            guidance_coverage=None if self_guided is None else self_guided.guidance_coverage(),
        )
        ended = Ended(record, tracker, self_guided, memorized, findings.gap)
        if self_guided is not None:
            guiding = self_guided.memorized
            if self_guided.config.variants.memorized_data != "switch":
                steady = self_guided.config.variants.memorized_data == "steady"
                guiding = tracker.memorized_ids(steady=steady)
            return replace(ended, self_guided=self_guided.following(guiding))
        if noise_rate is None or self._config.audit_only:
            return ended
        verdict = self._detector.decide(
            epoch=record.epoch, memorized=memorized, total=self._total, noise_rate=noise_rate
        )
        ended = replace(ended, verdict=verdict)
        if verdict is Verdict.STAY or memorized == 0:
            return ended
        pointwise = are_pointwise(int(samples), int(observed), int(negatives))
        self_guided = self._new_phase(
            tracker.memorized_ids(), self._config.settled(pointwise=pointwise),
            [*self.history, record],
        )  # fmt: skip
        tracker.note_switch(findings)
        return replace(ended, self_guided=self_guided)

    def standing(self, *, enabled: bool = True) -> Standing:
        """Where training stands, to be summed up."""
        config = self._config
        return Standing(
            tuple(self.history), self.memorization_point, self.noise_share, self.first_switch,
            switch_timeout=config.switch_timeout, audit_only=config.audit_only,
            evidence_weights=config.evidence_weights, enabled=enabled,
        )  # fmt: skip

    def _is_news(self) -> bool:
        """Whether Phase II has just begun, or just gathered all of its evidence."""
        guided = sum(record.phase is Phase.SELF_GUIDED for record in self.history)
        return self.self_guided is not None and guided in (0, GATHERED)

    def _say_what_weights_do(self) -> None:
        """Once, when all evidence is gathered: that there is nothing to find, or what is wrong."""
        guided = [r for r in self.history if r.phase is Phase.SELF_GUIDED]
        if len(guided) != GATHERED or self._ranks.rank != 0:
            return
        last, found = guided[-1], None
        if (last.confidence or 0.0) > SURE:  # else suspicion is nothing that weights should follow
            found = doubt(
                WeightSummary(last.effective_share, last.suspicious_weight, last.rare_weight)
            )
        if found is not None:
            warn(found)
        elif last.effective_share > EVEN:
            logger.info(
                "No noise was found that is sure (share up to %.2f): weights are even, as in plain "
                "training.", share_interval(last.noise_share or 0.0)[1],
            )

    def _weight_summary(self, tracker: MemorizationTracker) -> WeightSummary:
        """Of the weights that Phase II has now given; `tracker` is that of the epoch's end."""
        if self.self_guided is None:
            return WeightSummary(1.0, 1.0, 1.0)
        ids = evenly(len(self._interactions))
        return summary(
            self.self_guided.interaction_weights(tracker, ids),
            tracker.evidence.suspicion[ids], tracker.evidence.fifths_of(ids), ranks=self._ranks,
        )

    def _say(self, ended: Ended) -> None:
        """Tells of the switch, of one by time-out, or of one that may never come.

        Raises:
            SwitchError: the time is out, and there is nothing memorized to begin Phase II with.
        """
        record = ended.record
        if ended.record.phase is Phase.SELF_GUIDED:
            self._say_what_weights_do()
        if ended.verdict is Verdict.STAY:
            self._say_where_stalled(record)
            return
        if ended.verdict is None:
            return
        if ended.self_guided is None:
            raise SwitchError(
                f"Expected memorized interactions at the forced switch after epoch "
                f"{record.epoch}, got none. Raise switch_timeout above history_length / 2 = "
                f"{self._config.history_length / 2:g} epochs, or train at a higher rate."
            )
        logger.info(
            "Phase II begins after epoch %d: %d memorized, a %s loss", record.epoch,
            ended.memorized, ended.self_guided.config.loss_kind,
        )  # fmt: skip
        if ended.verdict is Verdict.TIMED_OUT:
            warn(
                f"Expected the memorized ratio to reach the clean ratio within "
                f"{self._config.switch_timeout} epochs, got {record.memorized_ratio:.3f} of "
                f"{record.clean_ratio:.3f}. Phase II begins by time-out."
            )

    def _say_where_stalled(self, record: EpochRecord) -> None:
        """Tells at one epoch of a run, the first that shows it, that the switch may never come."""
        if self._config.switch_timeout is not None or self._ranks.rank > 0:
            return
        window = max(self._config.history_length, LEAST_WINDOW)
        ratios = [(past.clean_ratio, past.memorized_ratio) for past in self.history]
        gaps = [clean - memorized for clean, memorized in ratios if clean is not None]
        if first_stall(gaps, window) == len(self.history):
            remedy = (
                "Look first whether scores are higher for better items: memorized pairs had higher "
                "losses than the others."
                if self.running.sign_doubted
                else "Set switch_timeout, or noise_rate if it is known; a higher learning rate or "
                "a shorter history_length may help, too."
            )
            logger.warning(
                "Phase I may never end: after epoch %d the memorized ratio is %.3f and the clean "
                "ratio %.3f, no nearer than %d epochs before. %s",
                record.epoch, record.memorized_ratio, record.clean_ratio, window, remedy,
            )

    def _new_phase(
        self,
        memorized: np.ndarray,
        config: DenoiserConfig,
        history: Sequence[EpochRecord],
    ) -> SelfGuidedPhase:
        kind = next(self._user_code.model.parameters()).dtype
        return SelfGuidedPhase(
            memorized,
            len(self._interactions),
            config,
            device=self._user_code.device,
            dtype=torch.promote_types(kind, torch.float32),
            ranks=self._ranks,
            loss_scale=loss_scale(history),
        )

    def _new_epoch(self, *, first: bool) -> RunningEpoch:
        if self._ranks.several:  # they end epochs by calls alone, and wait two passes for one
            return RunningEpoch(Bound(2 * self._interactions.rows, settled=True))
        if self.explicit:
            return RunningEpoch(Bound(self._interactions.rows, settled=True))
        if first:
            return RunningEpoch.first(self._interactions)
        return RunningEpoch(self.running.bound)  # later passes are as long as the first

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """All of it, in tensors and plain values; the backlog must be written down."""
        return {
            "history": [record.as_dict() for record in self.history],
            "tracker": self.tracker.state_dict(),
            "self_guided": None if self.self_guided is None else self.self_guided.state_dict(),
            "epoch": self.running.state_dict(),
            "explicit_epochs": self.explicit,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave.

        Raises:
            StateError: something is missing or of another shape; nothing was changed.
        """
        with broken_state_refused():  # all is built before any of it is taken
            tracker = MemorizationTracker(self._interactions, self._config, self._ranks)
            tracker.load_state_dict(state["tracker"])
            history = [EpochRecord.from_dict(values) for values in state["history"]]
            self_guided = None
            if state["self_guided"] is not None:
                guided = state["self_guided"]
                self_guided = self._new_phase(
                    guided["memorized"].cpu().numpy(),
                    self._config.but(**guided["settled"]),
                    history,
                )
                self_guided.load_state_dict(guided)
            running = RunningEpoch.from_state(state["epoch"], len(self._interactions))
            explicit = self._explicit_from_the_first or bool(state["explicit_epochs"])
        self.tracker, self.self_guided, self.history = tracker, self_guided, history
        self.running, self.explicit = running, explicit
        self.backlog, self._read = Backlog(), None
