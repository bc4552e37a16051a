"""What a saved state says of itself, so that a foreign one is refused before anything changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.errors import StateError
from sgdl_wrap.saving.seal import digest_of

FORMAT = 11
_KEYS = {
    "format", "interactions", "config", "enabled", "parameters", "history", "tracker",
    "self_guided", "user", "epoch", "explicit_epochs",
}  # fmt: skip
_MACHINE = {"max_guidance_batch"}  # what suits the machine, which may be another one


def header(
    interactions: Interactions, config: DenoiserConfig, model: nn.Module, *, enabled: bool
) -> dict[str, Any]:
    """Format, data set, configuration and parameter shapes of a state."""
    return {
        "format": FORMAT,
        "interactions": interactions.fingerprint(),
        "config": config.as_dict(),
        "enabled": enabled,
        "parameters": {name: list(p.shape) for name, p in model.named_parameters()},
    }


def sealed(state: dict[str, Any]) -> dict[str, Any]:
    """The state with a digest of all that it holds, by which :func:`check_seal` knows it again."""
    return {**state, "seal": _digest(state)}


def check_seal(state: Any) -> None:
    """Refuses what is no state, a state of another format, and one that was changed or damaged.

    Raises:
        StateError: the message says which.
    """
    if not isinstance(state, dict) or _KEYS - set(state):
        missing = sorted(_KEYS - set(state)) if isinstance(state, dict) else "everything"
        raise StateError(
            f"Expected a state_dict of SelfGuidedDenoiser, got one without {missing}. "
            "Pass what denoiser.state_dict() returned."
        )
    found = state["format"]
    if type(found) is not int or found != FORMAT:
        raise StateError(
            f"Expected state format {FORMAT}, got {found!r:.20}. "
            "Load it with the version of sgdl-wrap that wrote it."
        )
    try:
        whole = state.get("seal") == _digest(state)
    except Exception:  # of what no state holds: other objects, a list that holds itself
        whole = False
    if not whole:
        raise StateError(
            "Expected a state as state_dict() returned it, got one that was changed or damaged "
            "since. Load another checkpoint."
        )


def _digest(state: dict[str, Any]) -> str:
    return digest_of({name: value for name, value in state.items() if name != "seal"})


def check_header(
    state: dict[str, Any],
    interactions: Interactions,
    config: DenoiserConfig,
    model: nn.Module,
    *,
    enabled: bool,
) -> None:
    """Refuses a state of another data set, configuration or model.

    Args:
        state: a rank's state, of one that :func:`check_seal` has passed.

    Raises:
        StateError: the message says which, and what differs.
    """
    ours = header(interactions, config, model, enabled=enabled)
    if state["interactions"] != ours["interactions"]:
        raise StateError(
            "Expected the state of these interactions, got that of another data set. "
            "Build the denoiser with the interactions it was saved with."
        )
    theirs, here = state["config"], ours["config"]
    names = (theirs.keys() | here.keys()) - _MACHINE
    differing = sorted(
        name for name in names
        if name not in theirs or name not in here or theirs[name] != here[name]
    )
    if differing:
        raise StateError(
            f"Expected the state of this configuration, got one that differs in "
            f"{', '.join(differing)}. Build the denoiser with the config it was saved with."
        )
    if state["enabled"] != enabled:
        raise StateError(
            f"Expected the state of a denoiser with enabled={enabled}, got one with "
            f"enabled={state['enabled']}. Build the denoiser as it was saved."
        )
    if state["parameters"] != ours["parameters"]:
        raise StateError(
            "Expected the state of this model, got one with other parameters or shapes. "
            "Build the denoiser around the model it was saved with."
        )


@contextmanager
def broken_state_refused() -> Iterator[None]:
    """Turns whatever a torn or altered state causes into one clear error.

    Raises:
        StateError: anything else than a state error came up inside.
    """
    try:
        yield
    except StateError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise StateError(
            f"Expected a whole state, got a broken one ({type(error).__name__}: {error}). "
            "Load another checkpoint."
        ) from error


def same_shape(found: Tensor, expected: Tensor, name: str) -> Tensor:
    """The tensor found in a state, on the CPU, if it is of the shape and type expected.

    Raises:
        StateError: it is not.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise StateError(
            f"Expected {name} as {expected.dtype} of shape {tuple(expected.shape)}, got "
            f"{found.dtype} of shape {tuple(found.shape)}. Load another checkpoint."
        )
    return found.cpu()
