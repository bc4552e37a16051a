"""What is refused of the arguments that a denoiser is built with, before anything is tried."""

from __future__ import annotations

from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.errors import DenoiserError, NoiseRateError
from sgdl_wrap.notices import warn
from sgdl_wrap.watching.evidence import MOST_ITEMS


def check_kinds(
    loss_fn: object, score_fn: object, pair_fn: object, config: object, on_epoch: object = None
) -> None:
    """Refuses arguments of the wrong kind.

    Raises:
        DenoiserError: functions that cannot be called, a config of another type.
    """
    functions = {
        "loss_fn": loss_fn, "score_fn": score_fn, "pair_fn": pair_fn, "on_epoch": on_epoch,
    }  # fmt: skip
    for name, function in functions.items():
        if not callable(function) and (function is not None or name == "loss_fn"):
            raise DenoiserError(
                f"Expected {name} to be a function, got {type(function).__name__}. "
                "Pass what can be called."
            )
    if not isinstance(config, DenoiserConfig):
        raise DenoiserError(
            f"Expected a DenoiserConfig, got {type(config).__name__}. "
            "Pass config=DenoiserConfig(...)."
        )


def check_evidence(interactions: Interactions, config: DenoiserConfig) -> None:
    """Refuses data from which no noise rate can ever be estimated.

    Warns where no evidence on noise is gathered that weights are to follow.

    Raises:
        NoiseRateError: per-user scaling of losses where every user has a single interaction.
    """
    if interactions.n_items > MOST_ITEMS and config.evidence_weights and not config.audit_only:
        warn(
            f"Expected at most {MOST_ITEMS} items to gather evidence on noise, got "
            f"{interactions.n_items}: all weights stay at one. Set evidence_weights=False for "
            "weights by the guidance alone, or hash rare items together."
        )
    by_user = config.noise_rate is None and config.variants.loss_normalization == "user"
    if by_user and interactions.counts.max() < 2:
        raise NoiseRateError(
            "Expected users with two or more interactions, got one each: per-user scaling maps "
            "every loss to 0. Set Variants(loss_normalization='global'), or noise_rate."
        )
