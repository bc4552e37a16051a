"""Which columns hold the user, the item and the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgdl_wrap.command.requirements import FileRefused
from sgdl_wrap.command.source import Source

# lower case, without spaces, dashes and underscores; the likelier ones first
USER = (
    "user", "userid", "uid", "customer", "customerid", "visitor", "visitorid", "member",
    "memberid", "account", "accountid", "client", "clientid", "reviewerid", "session", "sessionid",
)  # fmt: skip
ITEM = (
    "item", "itemid", "iid", "product", "productid", "sku", "article", "articleid", "asin",
    "movie", "movieid", "track", "trackid", "song", "songid", "book", "bookid", "isbn", "video",
    "videoid", "content", "contentid",
)  # fmt: skip
TIME = (
    "timestamp", "time", "ts", "datetime", "date", "eventtime", "createdat", "clickedat",
    "unixtime",
)  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """The columns that are read, by name.

    Attributes:
        user, item: of the two ids.
        time: of the moment of the click; None without one.
        keep: shown beside a row on the page.
        time_was_asked: whether the user named it: then times that cannot be read are refused.
    """

    user: str
    item: str
    time: str | None
    keep: tuple[str, ...]
    time_was_asked: bool


def choose(
    source: Source,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    keep: Sequence[str] = (),
) -> Columns:
    """The columns named, and for those that are not, the ones of common names.

    A column is named by its name, in upper or lower case, or by its number, from 1. Without a
    header, the first two are user and item.

    Raises:
        FileRefused: a name that is no column, or none that can be guessed.
    """
    found_user = _named(source, user, "--user") or _guessed(source, USER, 0)
    found_item = _named(source, item, "--item") or _guessed(source, ITEM, 1)
    for what, name in ("user", found_user), ("item", found_item):
        if name is None:
            raise FileRefused(
                f"Expected a column that holds the {what}, got {_listed(source.names)} in "
                f"{source.path}. Name it with --{what}{_or_no_header(source)}."
            )
    if found_user is None or found_item is None or found_user == found_item:
        raise FileRefused(
            f"Expected two columns for user and item, got {found_user!r} for both. "
            "Name them with --user and --item."
        )
    kept = tuple(name for name in (_named(source, one, "--keep") for one in keep) if name)
    found_time = _named(source, time, "--time") or _guessed(source, TIME, None)
    if found_time in (found_user, found_item):
        found_time = None
    return Columns(found_user, found_item, found_time, kept, time is not None)


def _named(source: Source, name: str | None, option: str) -> str | None:
    if name is None or name in source.names:
        return name
    alike = [one for one in source.names if one.lower() == name.lower()]
    if len(alike) == 1:
        return alike[0]
    if name.isdecimal() and 1 <= int(name) <= len(source.names):
        return source.names[int(name) - 1]
    raise FileRefused(
        f"Expected {option} to name a column, got {name!r}, but {source.path} has "
        f"{_listed(source.names)}. Name one of them."
    )


def _guessed(source: Source, names: Sequence[str], place: int | None) -> str | None:
    if not source.header:
        return source.names[place] if place is not None and place < len(source.names) else None
    plain = {"".join(c for c in one.lower() if c.isalnum()): one for one in reversed(source.names)}
    return next((plain[name] for name in names if name in plain), None)


def _or_no_header(source: Source) -> str:
    return ", or pass --no-header if line 1 is a row" if source.header else ""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:12]))
    return f"the columns {shown}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")
