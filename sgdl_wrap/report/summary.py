"""What came of a run, in a few lines of plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgdl_wrap.records import EpochRecord, Phase
from sgdl_wrap.report.weight_summary import EVEN, SURE, WeightSummary, doubt
from sgdl_wrap.watching.evidence import GATHERED


@dataclass(frozen=True)
class Standing:
    """Where a denoiser stands: all that a summary is made of.

    Attributes:
        history: one record an epoch, oldest first.
        memorization_point, noise_share, enabled: as of the denoiser.
        first_switch: the first epoch at whose end Phase II may begin.
        switch_timeout, audit_only, evidence_weights: as of its config.
    """

    history: Sequence[EpochRecord]
    memorization_point: int | None
    noise_share: tuple[float, float] | None
    first_switch: int
    switch_timeout: int | None = None
    audit_only: bool = False
    evidence_weights: bool = True
    enabled: bool = True

    @property
    def guided(self) -> list[EpochRecord]:
        """The epochs of Phase II."""
        return [record for record in self.history if record.phase is Phase.SELF_GUIDED]


def summary(standing: Standing) -> str:
    """What happened in a sentence; then phase, noise, weights and cost; then what to try next.

    The gain is not among them: one run cannot know it. The last line says how to find it out.

    Args:
        standing: the snapshot that is summed up.
    """
    sentence, to_try = _verdict(standing)
    lines = {"next": to_try}
    if standing.enabled and standing.history:
        lines = {
            "phase": _phase(standing),
            "noise": _noise(standing),
            "weights": _weights(standing),
            "cost": _cost(standing.history),
            **lines,
        }
    return "\n".join([sentence, *(f"  {name:<8} {text}" for name, text in lines.items())])


def headline(standing: Standing) -> str:
    """The sentence that says what happened, the first of :func:`summary`."""
    return _verdict(standing)[0]


def _verdict(standing: Standing) -> tuple[str, str]:
    """What happened, and what to try next."""
    if not standing.enabled:
        return (
            "Plain training: the denoiser is off (enabled=False).",
            "build it with enabled=True, and compare the two on held-out data",
        )
    if standing.audit_only:
        return (
            f"Watched only: training is plain training (audit_only=True), "
            f"{_epochs(len(standing.history))} so far.",
            "denoiser.report() lists all interactions, the most suspicious first",
        )
    if standing.memorization_point is None:
        return _not_switched(standing)
    if not standing.guided:
        return (
            f"Switched after epoch {standing.memorization_point}: from now on each sample has a "
            "weight of its own.",
            "go on training; each epoch of Phase II moves the weights",
        )
    return _switched(standing)


def _not_switched(standing: Standing) -> tuple[str, str]:
    ended, first = len(standing.history), standing.first_switch
    if ended < first:
        return (
            f"Not yet switched: {ended} of at least {first} epochs of Phase I have ended, "
            "training is plain training so far.",
            "go on training; if your model needs fewer epochs, set history_length lower",
        )
    to_try = "go on training; if the memorized share no longer rises, set switch_timeout"
    timeout = standing.switch_timeout
    if timeout is not None and timeout > ended:
        to_try = f"go on training; switch_timeout ends Phase I after epoch {timeout}"
    return (
        f"Not yet switched after {_epochs(ended)}: training is plain training so far.",
        to_try,
    )


def _switched(standing: Standing) -> tuple[str, str]:
    last = standing.guided[-1]
    since = f"from epoch {standing.guided[0].epoch} on"
    compare = "train once more with enabled=False and the same seed, and compare on held-out data"
    if last.effective_share > EVEN:
        if not standing.evidence_weights:
            return f"All weights are nearly equal {since}: training is nearly plain.", compare
        to_come = GATHERED - len(standing.guided)
        return (
            f"Nothing sure was found {since}, so that weights are one: training is plain training.",
            f"go on training: {_epochs(to_come)} more can add evidence" if to_come > 0
            else "train plainly, which costs less; denoiser.report() ranks the interactions anyway",
        )  # fmt: skip
    found = doubt(WeightSummary(last.effective_share, last.suspicious_weight, last.rare_weight))
    return (
        f"Denoised {since}: the most suspicious tenth of the interactions counts "
        f"{_beside_rest(last.suspicious_weight)}.",
        found if found is not None and (last.confidence or 0.0) > SURE else compare,
    )


def _phase(standing: Standing) -> str:
    switch, ended = standing.memorization_point, len(standing.history)
    if switch is None and ended < standing.first_switch:
        return f"I; nothing counts as memorized before epoch {standing.first_switch}"
    last = standing.history[-1 if switch is None else switch - 1]
    memorized, clean = f"{last.memorized_ratio:.1%} memorized", "no noise rate estimated"
    if last.clean_ratio is not None:
        clean = f"{last.clean_ratio:.1%} estimated clean"
    if switch is not None:
        return f"II from epoch {switch + 1} on, {ended} so far; then {memorized}, {clean}"
    if standing.audit_only:
        return f"I for good; {memorized}, {clean}"
    return f"I; {memorized}, {clean}: II begins when the first reaches the second"


def _noise(standing: Standing) -> str:
    if standing.noise_share is None:
        return "not known: no evidence is gathered yet"
    low, high = standing.noise_share
    between = f"{low:.0%} to {high:.0%}" if low > 0 else f"at most {high:.0%}"
    return f"{between} of the interactions look like nobody's choice; noise like taste is not seen"


def _weights(standing: Standing) -> str:
    if not standing.guided:
        return "all one until Phase II"
    last = standing.guided[-1]
    return (
        f"effective sample size {last.effective_share:.0%}; the fifth with the rarest items counts "
        f"{_beside_rest(last.rare_weight)}"
    )


def _cost(history: Sequence[EpochRecord]) -> str:
    known = [(r.seconds, r.plain_seconds) for r in history if r.plain_seconds is not None]
    text = f"{sum(record.seconds for record in history):,.1f} s in {_epochs(len(history))}"
    if 0 < len(known) < len(history):
        timed = sum(seconds for seconds, _ in known)
        text += f"; {timed:,.1f} s in the {len(known)} that were timed whole"
    if known:
        text += f", plain training about {sum(plain for _, plain in known):,.1f} s"
    else:
        text += "; what plain training takes is not known here"
    skipped = sum(record.skipped for record in history)
    return text + (f"; {skipped} batches with NaN or Inf were skipped" if skipped else "")


def _beside_rest(ratio: float) -> str:
    """A ratio of mean weights in words: 0.38 is "62% less than the rest"."""
    change = ratio - 1
    if abs(change) < 0.005:
        return "as much as the rest"
    return f"{abs(change):.0%} {'less' if change < 0 else 'more'} than the rest"


def _epochs(count: int) -> str:
    return f"{count} epoch{'' if count == 1 else 's'}"
