"""What came of a run, in words: a whole text for each case."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sgdl_wrap import EpochRecord, Phase
from sgdl_wrap.report.summary import Standing, headline, summary

WATCHED = EpochRecord(
    epoch=1, phase=Phase.MEMORIZATION, memorized_ratio=0.6234, clean_ratio=0.7111, noise_rate=0.29,
    loss=0.31, mean_weight=1.0, seconds=1.0, plain_seconds=0.9,
)  # fmt: skip
SWITCHED = dataclasses.replace(WATCHED, memorized_ratio=0.7123)
GUIDED = dataclasses.replace(
    SWITCHED, phase=Phase.SELF_GUIDED, memorized_ratio=0.75, mean_weight=0.9, seconds=2.0,
    noise_share=0.32, confidence=0.8, effective_share=0.79, suspicious_weight=0.19, rare_weight=1.0,
)  # fmt: skip
COMPARE = "train once more with enabled=False and the same seed, and compare on held-out data"


def history(*parts: tuple[int, EpochRecord]) -> tuple[EpochRecord, ...]:
    """So many epochs like each record, numbered from 1."""
    records = [record for count, record in parts for _ in range(count)]
    return tuple(dataclasses.replace(r, epoch=n) for n, r in enumerate(records, 1))


def standing(*parts: tuple[int, EpochRecord], **changes: Any) -> Standing:
    """After these epochs, of which those of Phase I ended with the switch."""
    records = history(*parts)
    watched = sum(record.phase is Phase.MEMORIZATION for record in records)
    switched = watched if watched < len(records) else None
    given: dict[str, Any] = {
        "memorization_point": switched, "noise_share": (0.22, 0.47), "first_switch": 11,
    }  # fmt: skip
    return Standing(records, **{**given, **changes})


def after_switch(count: int = 17, **changes: Any) -> Standing:
    guided = dataclasses.replace(GUIDED, **changes)
    return standing((12, WATCHED), (1, SWITCHED), (count, guided))


def test_weights_that_follow_suspicion() -> None:
    assert summary(after_switch()) == (
        "Denoised from epoch 14 on: the most suspicious tenth of the interactions counts 81% less "
        "than the rest.\n"
        "  phase    II from epoch 14 on, 30 so far; then 71.2% memorized, 71.1% estimated clean\n"
        "  noise    22% to 47% of the interactions look like nobody's choice; noise like taste is "
        "not seen\n"
        "  weights  effective sample size 79%; the fifth with the rarest items counts as much as "
        "the rest\n"
        "  cost     47.0 s in 30 epochs, plain training about 27.0 s\n"
        f"  next     {COMPARE}"
    )


def test_before_any_epoch_has_ended() -> None:
    assert summary(standing(noise_share=None)) == (
        "Not yet switched: 0 of at least 11 epochs of Phase I have ended, training is plain "
        "training so far.\n"
        "  next     go on training; if your model needs fewer epochs, set history_length lower"
    )


def test_before_the_first_possible_switch() -> None:
    early = dataclasses.replace(WATCHED, memorized_ratio=0.0)
    assert summary(standing((1, early), noise_share=None)) == (
        "Not yet switched: 1 of at least 11 epochs of Phase I have ended, training is plain "
        "training so far.\n"
        "  phase    I; nothing counts as memorized before epoch 11\n"
        "  noise    not known: no evidence is gathered yet\n"
        "  weights  all one until Phase II\n"
        "  cost     1.0 s in 1 epoch, plain training about 0.9 s\n"
        "  next     go on training; if your model needs fewer epochs, set history_length lower"
    )


def test_held_back_by_what_is_not_memorized() -> None:
    assert summary(standing((25, WATCHED), noise_share=(0.0, 0.15))) == (
        "Not yet switched after 25 epochs: training is plain training so far.\n"
        "  phase    I; 62.3% memorized, 71.1% estimated clean: II begins when the first reaches "
        "the second\n"
        "  noise    at most 15% of the interactions look like nobody's choice; noise like taste is "
        "not seen\n"
        "  weights  all one until Phase II\n"
        "  cost     25.0 s in 25 epochs, plain training about 22.5 s\n"
        "  next     go on training; if the memorized share no longer rises, set switch_timeout"
    )


@pytest.mark.parametrize(
    ("timeout", "says"),
    [
        (40, "go on training; switch_timeout ends Phase I after epoch 40"),
        # the time is out, and nothing is memorized to begin Phase II with
        (25, "go on training; if the memorized share no longer rises, set switch_timeout"),
    ],
)
def test_a_time_out_to_come_is_named(timeout: int, says: str) -> None:
    assert lines(standing((25, WATCHED), switch_timeout=timeout))["next"] == says


def test_the_switch_has_just_come() -> None:
    found = standing((12, WATCHED), (1, SWITCHED), memorization_point=13)
    assert headline(found) == (
        "Switched after epoch 13: from now on each sample has a weight of its own."
    )
    assert lines(found)["phase"] == (
        "II from epoch 14 on, 13 so far; then 71.2% memorized, 71.1% estimated clean"
    )
    assert lines(found)["next"] == "go on training; each epoch of Phase II moves the weights"


EVEN = {"effective_share": 1.0, "suspicious_weight": 1.0, "rare_weight": 1.0, "confidence": 0.0}


@pytest.mark.parametrize(
    ("count", "to_try"),
    [
        (1, "go on training: 9 epochs more can add evidence"),
        (9, "go on training: 1 epoch more can add evidence"),
        (10, "train plainly, which costs less; denoiser.report() ranks the interactions anyway"),
    ],
)
def test_nothing_sure_was_found(count: int, to_try: str) -> None:
    found = after_switch(count, **EVEN)
    assert headline(found) == (
        "Nothing sure was found from epoch 14 on, so that weights are one: training is plain "
        "training."
    )
    assert lines(found)["next"] == to_try


def test_even_weights_by_the_guidance_alone_are_no_evidence() -> None:
    found = dataclasses.replace(after_switch(**EVEN), evidence_weights=False)
    assert headline(found) == (
        "All weights are nearly equal from epoch 14 on: training is nearly plain."
    )
    assert lines(found)["next"] == COMPARE


def test_weights_that_rise_with_suspicion() -> None:
    found = after_switch(suspicious_weight=1.2)
    assert headline(found) == (
        "Denoised from epoch 14 on: the most suspicious tenth of the interactions counts 20% more "
        "than the rest."
    )
    assert lines(found)["next"].startswith(
        "Expected the most suspicious tenth to have lower weights than the rest, got 1.20 of"
    )
    unsure = after_switch(suspicious_weight=1.2, confidence=None)  # suspicion is nothing to follow
    assert lines(unsure)["next"] == COMPARE


def test_weights_that_follow_popularity() -> None:
    found = lines(after_switch(suspicious_weight=0.95, rare_weight=0.3))
    assert found["weights"].endswith("with the rarest items counts 70% less than the rest")
    assert found["next"].startswith("Expected weights to follow suspicion, got the least popular")


def test_watched_only() -> None:
    found = standing((20, WATCHED), audit_only=True)
    assert headline(found) == (
        "Watched only: training is plain training (audit_only=True), 20 epochs so far."
    )
    assert lines(found)["phase"] == "I for good; 62.3% memorized, 71.1% estimated clean"
    assert lines(found)["next"].startswith("denoiser.report() lists all interactions")


def test_switched_off() -> None:
    assert summary(standing(enabled=False)) == (
        "Plain training: the denoiser is off (enabled=False).\n"
        "  next     build it with enabled=True, and compare the two on held-out data"
    )


def test_what_is_not_known_is_said() -> None:
    blind = dataclasses.replace(WATCHED, clean_ratio=None, plain_seconds=None, skipped=2)
    found = lines(standing((12, blind), noise_share=None))
    assert found["phase"].startswith("I; 62.3% memorized, no noise rate estimated: II begins")
    assert found["cost"] == (
        "12.0 s in 12 epochs; what plain training takes is not known here; 24 batches with NaN or "
        "Inf were skipped"
    )
    resumed = lines(standing((1, blind), (1, WATCHED)))  # the first began in another process
    assert resumed["cost"] == (
        "2.0 s in 2 epochs; 1.0 s in the 1 that were timed whole, plain training about 0.9 s; "
        "2 batches with NaN or Inf were skipped"
    )


def lines(found: Standing) -> dict[str, str]:
    """The labelled lines, by their label."""
    _, *labelled = summary(found).splitlines()
    return {line[2:11].strip(): line[11:] for line in labelled}
