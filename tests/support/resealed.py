"""States changed on purpose, with a seal that fits; used by tests of what is checked after it."""

from __future__ import annotations

from typing import Any

from sgdl_wrap.saving.header import sealed


def resealed(state: dict[str, Any]) -> dict[str, Any]:
    """As if `state_dict()` had returned the state as it is now."""
    return sealed({name: value for name, value in state.items() if name != "seal"})
