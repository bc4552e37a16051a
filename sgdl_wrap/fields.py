"""Settings that are checked by their own annotations: choices, ranges, whole numbers, None."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache, wraps
from numbers import Integral, Real
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from sgdl_wrap.errors import DenoiserError

_Settings = TypeVar("_Settings")


@dataclass(frozen=True)
class Range:
    """The numbers a field may have, ``Annotated[float, Range(0, 1)]``: [low, high), or [low, high].

    Args:
        low: the least.
        high: what it is below.
        closed: whether `high` itself is allowed.
    """

    low: float
    high: float = math.inf
    closed: bool = False

    def __contains__(self, value: float) -> bool:  # False for NaN
        return self.low <= value < self.high or (self.closed and value == self.high)

    def __str__(self) -> str:
        return f"[{self.low}, {self.high}{']' if self.closed else ')'}"


@dataclass(frozen=True)
class Kind:
    """What a field may be, as its annotation says.

    Attributes:
        choices: of a Literal or a bool; empty for numbers.
        numbers: of a number.
        whole: whether it is an int.
        optional: whether None is allowed.
        several: whether it is a tuple of distinct choices.
        nested: the class of settings that it is.
    """

    choices: tuple[Any, ...] = ()
    numbers: Range = Range(-math.inf)
    whole: bool = False
    optional: bool = False
    several: bool = False
    nested: type | None = None

    def checked(self, name: str, value: Any) -> Any:
        """The value as the settings keep it: a choice itself, Python's number, a tuple.

        Raises:
            DenoiserError: a value that the annotation does not allow.
        """
        if value is None and self.optional:
            return None
        if self.nested is not None:
            return self._settings(name, value, self.nested)
        if self.several:
            return self._names(name, value)
        return self._choice(name, value) if self.choices else self._number(name, value)

    @property
    def _or_none(self) -> str:
        return " or None" if self.optional else ""

    def _settings(self, name: str, value: Any, nested: type) -> Any:
        if not isinstance(value, nested):
            raise DenoiserError(
                f"Expected {name} to be {nested.__name__}(...), got {value!r}. Write "
                f"{name}={nested.__name__}(field=value)."
            )
        return value

    def _choice(self, name: str, value: Any) -> Any:
        try:  # the choice itself: a state dict holds none of numpy's strings and bools
            return self.choices[self.choices.index(value)]
        except ValueError:
            listed = map(repr, (*self.choices, None) if self.optional else self.choices)
            raise DenoiserError(
                f"Expected {name} to be one of {', '.join(listed)}, got {value!r}. Choose one of "
                "them."
            ) from None

    def _names(self, name: str, value: Any) -> tuple[Any, ...]:
        if (
            isinstance(value, str)
            or not isinstance(value, Sequence)
            or not value
            or any(one not in self.choices for one in value)
            or len(set(value)) < len(value)
        ):
            raise DenoiserError(
                f"Expected {name} to be distinct names out of {self.choices}{self._or_none}, got "
                f"{value!r}. Name at least one, each once."
            )
        return tuple(map(str, value))

    def _number(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise DenoiserError(
                f"Expected {name} to be a number{self._or_none}, got {value!r}. Give one."
            )
        # numpy's numbers become Python's: a state dict holds plain values only. A real number
        # is a float even where it was written as 0, as stored text is compared, too.
        plain: float
        if self.whole:
            if not isinstance(value, Integral):
                raise DenoiserError(
                    f"Expected {name} to be a whole number{self._or_none}, got {value!r}. "
                    "Give an int."
                )
            plain = int(value)
        else:
            try:
                plain = float(value)
            except OverflowError:
                plain = math.inf
        if plain not in self.numbers:
            raise DenoiserError(
                f"Expected {name} in {self.numbers}, got {value!r}. Give a value in that range."
            )
        return plain


@cache
def kinds(settings: type) -> dict[str, Kind]:
    """What each field of a class of settings may be, by its name."""
    hints = get_type_hints(settings, include_extras=True)
    return {field.name: _kind(hints[field.name]) for field in fields(settings)}


def _kind(hint: Any) -> Kind:
    parts = get_args(hint)
    if get_origin(hint) is Annotated:
        found = _kind(parts[0])
        return Kind(numbers=parts[1], whole=found.whole, optional=found.optional)
    if get_origin(hint) is Literal:
        return Kind(choices=parts)
    if get_origin(hint) is tuple:
        return Kind(choices=_kind(parts[0]).choices, several=True)
    if NoneType in parts:
        (alone,) = (part for part in parts if part is not NoneType)
        found = _kind(alone)
        return Kind(
            found.choices, found.numbers, found.whole, optional=True, several=found.several
        )
    if hint is bool:
        return Kind(choices=(True, False))
    if hint in (int, float):
        return Kind(whole=hint is int)
    return Kind(nested=hint)


def check(settings: object) -> None:
    """Checks each field of frozen settings, and keeps it as plain values are kept.

    Raises:
        DenoiserError: a value that the field's annotation does not allow.
    """
    of_class: type = type(settings)
    for name, kind in kinds(of_class).items():
        object.__setattr__(settings, name, kind.checked(name, getattr(settings, name)))


def refusing_unknown_names(settings: type[_Settings]) -> type[_Settings]:
    """The dataclass, which now answers a name that is no field of it with what to write.

    Its signature stays the one that `dataclass` wrote, for editors and type checkers.
    """
    made_by_dataclass = settings.__init__

    @wraps(made_by_dataclass)
    def init(self: _Settings, *unnamed: Any, **given: Any) -> None:
        if unnamed:
            raise DenoiserError(
                f"Expected fields of {settings.__name__} by name, got {unnamed[0]!r} without one. "
                f"Write {settings.__name__}(field=value); of a dict, "
                f"{settings.__name__}(**settings)."
            )
        refuse_unknown(given, settings)
        made_by_dataclass(self, **given)

    settings.__init__ = init  # type: ignore[method-assign, assignment]
    return settings


def refuse_unknown(given: Iterable[str], *settings: type) -> None:
    """Refuses names that are fields of none of the classes.

    Raises:
        DenoiserError: it has the nearest name, or where a nested class has the field, the call.
    """
    known = [name for one in settings for name in kinds(one)]
    unknown = [name for name in given if name not in known]
    if not unknown:
        return
    remedy = _nested_call(unknown, settings[0])
    if remedy is None:
        inside = [name for nested in _nested(settings[0]).values() for name in kinds(nested)]
        nearest = _nearest(unknown, [*dict.fromkeys([*known, *inside])])
        remedy = f"Did you mean {', '.join(nearest)}?" if nearest else (
            f"Choose among {', '.join(known)}."
        )
    raise DenoiserError(
        f"Expected fields of {settings[0].__name__}, got {', '.join(map(repr, unknown))}. {remedy}"
    )


def _nested(settings: type) -> dict[str, type]:
    """The classes of settings inside of a class, by field."""
    found = {name: kind.nested for name, kind in kinds(settings).items()}
    return {name: nested for name, nested in found.items() if nested is not None}


def _nested_call(unknown: Sequence[str], settings: type) -> str | None:
    """How to write fields that a nested class has."""
    for name, nested in _nested(settings).items():
        if set(unknown) <= set(kinds(nested)):
            inside = ", ".join(f"{field}=..." for field in unknown)
            return f"Write {settings.__name__}({name}={nested.__name__}({inside}))."
    return None


def _nearest(unknown: Iterable[str], known: Sequence[str]) -> list[str]:
    """The known name nearest to each unknown one, or all that contain it: `lr` is near to none."""
    found: list[str] = []
    for name in map(str.lower, unknown):
        found += get_close_matches(name, known, n=1) or [field for field in known if name in field]
    return list(dict.fromkeys(found))
