"""The observed pairs D: one sorted array of keys, found again by binary search."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.batches.columns import ids_of
from sgdl_wrap.errors import InteractionsError
from sgdl_wrap.notices import warn


class Interactions:
    """The N distinct observed pairs, in the order of (user, item); an id is a place in it.

    Users have places, too: 0 to n_users - 1, in the order of their ids. Ids without gaps are their
    places. Others, of any size, cost 8 bytes a user: the sorted ids, in which places are found by
    binary search.

    A pair's key is ``place of the user * n_items + item``, so that one int64 (8 bytes) per
    interaction is all that the look-up needs; there is no users x items map.

    Args:
        users: user ids, (rows,), integers >= 0: a tensor, an array, a list, or a column of a data
            frame, by its values in order.
        items: item ids, (rows,), integers in [0, n_items).
        n_items: size of the item catalogue; None takes the largest observed id + 1.

    Attributes:
        rows: how many pairs were handed over, repeats counted.
        repeats: how often each of the N was, (N,) int64; None if once each.
        n_users: how many users have interactions.
        user_ids: their ids, (n_users,) int64, ascending; None where these are 0 to n_users - 1.
        keys: of the interactions, (N,) int64, ascending.
        starts: starts[p] : starts[p + 1] are the ids of the interactions of the user with place p,
            (n_users + 1,) int64.

    Raises:
        InteractionsError: empty, of unequal length, not 1-D integers, negative, past `n_items`.
    """

    def __init__(
        self,
        users: Any,
        items: Any,
        *,
        n_items: int | None = None,
    ) -> None:
        user_ids, item_ids = as_ids(users, "users"), as_ids(items, "items")
        if len(user_ids) != len(item_ids):
            raise InteractionsError(
                f"Expected as many users as items, got {len(user_ids)} and {len(item_ids)}. "
                "Pass interactions=(users, items), one entry each per observed pair."
            )
        if len(user_ids) == 0:
            raise InteractionsError(
                "Expected at least one observed pair, got none. "
                "Pass the training interactions as interactions=(users, items)."
            )
        if n_items is not None and (not isinstance(n_items, Integral) or n_items < 1):
            raise InteractionsError(
                f"Expected n_items as an integer >= 1, got {n_items!r}. "
                "Pass the size of the item catalogue."
            )
        past = int(item_ids.max())
        if n_items is not None and past >= n_items:
            raise InteractionsError(
                f"Expected item ids below n_items = {n_items}, got {past}. "
                "Pass a larger n_items, or ids counted from 0."
                f"{_asked_of_1(item_ids.numpy(), n_items)}"
            )
        self.n_items_given = n_items is not None
        self.n_items = int(n_items) if n_items is not None else past + 1
        self.user_ids, places = _numbered(user_ids)
        self.n_users = _past_largest(places) if self.user_ids is None else len(self.user_ids)
        if self.n_users > 2**62 // self.n_items:
            raise InteractionsError(
                f"Expected fewer than 2**62 pairs of a user and an item, got {self.n_users} users "
                f"and n_items = {self.n_items}. Number items from 0 without gaps."
            )
        self.rows = len(user_ids)
        keys = places * self.n_items + item_ids
        self.keys: Tensor = torch.unique(keys, sorted=True)
        self.repeats: Tensor | None = None
        if len(self.keys) < self.rows:
            self.repeats = torch.unique(keys, sorted=True, return_counts=True)[1]
            warn(
                f"Expected distinct pairs, got {self.rows - len(self.keys)} repeats among "
                f"{self.rows}. A pair that repeats is one interaction."
            )
        bounds = torch.arange(self.n_users + 1) * self.n_items
        self.starts: Tensor = torch.searchsorted(self.keys, bounds)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def users(self) -> Tensor:
        """User id of each interaction, (N,) int64, computed from the keys."""
        return self.ids_at(self.places(slice(None)))

    def places(self, ids: slice) -> Tensor:
        """The user's place of each of some interactions, int64."""
        return torch.div(self.keys[ids], self.n_items, rounding_mode="floor")

    @property
    def known_users(self) -> Tensor:
        """The ids of the users with interactions, ascending, (n_users,) int64."""
        return torch.arange(self.n_users) if self.user_ids is None else self.user_ids

    def ids_at(self, places: Tensor) -> Tensor:
        """The ids of users, by their places."""
        return places if self.user_ids is None else self.user_ids[places]

    def places_of(self, users: np.ndarray) -> np.ndarray:
        """The places of users, by their ids, (B,) int64; negative if they have no interactions."""
        if self.user_ids is None:
            return np.where(users < self.n_users, users, -1)
        known = self.user_ids.numpy()
        places = known.searchsorted(users)
        return np.where(known.take(places, mode="clip") == users, places, -1)

    @property
    def items(self) -> Tensor:
        """Item of each interaction, (N,) int64, computed from the keys."""
        return self.keys % self.n_items

    @property
    def counts(self) -> Tensor:
        """N_u: observed items of each user, by place, (n_users,) int64."""
        return self.starts.diff()

    def find(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Ids of pairs, (B,) int64; -1 where the pair was never observed.

        Args:
            users, items: (B,) int64.

        Raises:
            InteractionsError: a negative id, or an item id past an `n_items` that was given.
        """
        if users.size == 0:
            return np.empty(0, dtype=np.int64)
        # as unsigned numbers, negative ids are the largest: one pass tells of both ends
        last_user = int(users.view(np.uint64).max())
        last_item = int(items.view(np.uint64).max())
        if max(last_user, last_item) >= 2**63:
            raise InteractionsError(
                f"Expected ids >= 0, got {min(users.min(), items.min())} in this batch. "
                "Number users and items as in `interactions`."
            )
        if self.n_items_given and last_item >= self.n_items:
            raise InteractionsError(
                f"Expected item ids below n_items = {self.n_items}, got {last_item} in this "
                f"batch. Pass the n_items of the whole catalogue.{_asked_of_1(items, self.n_items)}"
            )
        # sorted by user, queries find their keys near one another, and most of them in the cache
        order = users.argsort()
        users, items = users.take(order), items.take(order)
        owners = users if self.user_ids is None else self.places_of(users)
        queries = owners * self.n_items + items
        keys = self.keys.numpy()
        found = keys.searchsorted(queries)
        known = keys.take(found, mode="clip") == queries
        if last_item >= self.n_items:  # such an item would alias the next user's first ones
            known &= items < self.n_items
        # the place -1 of an unknown user gives queries below 0, which no key is
        if self.user_ids is None and last_user >= self.n_users:  # but here, they may wrap around
            known &= users < self.n_users
        if not known.all():
            found[~known] = -1
        places: np.ndarray = np.empty_like(found)
        places[order] = found
        return places

    def user_spans(
        self, most: int, among: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, int]]:
        """Ranges [first, last) of users with at most `most` interactions together, or of one user.

        They are ranges of places, and cover those `among`, or all.
        """
        first, stop = among if among is not None else (0, self.n_users)
        while first < stop:
            target = int(self.starts[first]) + most
            last = int(torch.searchsorted(self.starts, target, right=True)) - 1
            last = min(max(last, first + 1), stop)
            yield first, last
            first = last

    def unobserved(self, users: Tensor, ranks: Tensor) -> Tensor:
        """The `ranks`-th item (from 0, by id) that each user has not been observed with.

        Args:
            users: their places, (K,) int64.
            ranks: (K,) int64, each in [0, n_items - N_u).

        Returns:
            (K,) int64 item ids. With observed items 1, 2, 4 of 6, ranks 0, 1, 2 are 0, 3, 5.
        """
        # The j-th observed item a_j has a_j - j unobserved items before it, so the answer is
        # rank + #{j : a_j - j <= rank}. Keys less the place in the user's segment stay sorted.
        if users.numel() == 0:
            return torch.empty(0, dtype=torch.int64)
        first_user, last_user = int(users.min()), int(users.max())
        low, high = int(self.starts[first_user]), int(self.starts[last_user + 1])
        segment = self.starts[first_user : last_user + 2]
        place = torch.arange(low, high) - torch.repeat_interleave(segment[:-1], segment.diff())
        gaps = self.keys[low:high] - place
        found = torch.searchsorted(gaps, users * self.n_items + ranks, right=True) + low
        return ranks + found - self.starts[users]

    def fingerprint(self) -> str:
        """SHA-256 of the pairs and `n_items`: tells one data set from another."""
        return fingerprint(self.keys, self.n_items, self.user_ids)


def fingerprint(keys: Tensor, n_items: int, user_ids: Tensor | None) -> str:
    """That of the interactions with these sorted keys.

    Args:
        user_ids: sorted; None, or 0 to n - 1, of users whose ids are their places.
    """
    digest = hashlib.sha256(str(n_items).encode())
    digest.update(keys.numpy().data)
    if user_ids is not None and int(user_ids[-1]) >= len(user_ids):
        # by a digest of their own: ids can never be read as further keys
        digest.update(hashlib.sha256(user_ids.numpy().data).hexdigest().encode() + b" users")
    return digest.hexdigest()


def _numbered(user_ids: Tensor) -> tuple[Tensor | None, Tensor]:
    """The sorted distinct ids and the place of each id among them; None where ids are places."""
    past = _past_largest(user_ids)
    if past <= len(user_ids):  # else there are gaps for sure, perhaps large ones
        occurs = torch.zeros(past, dtype=torch.bool)
        occurs[user_ids] = True
        if bool(occurs.all()):
            return None, user_ids
    distinct, places = torch.unique(user_ids, sorted=True, return_inverse=True)
    return distinct, places


def _past_largest(ids: Tensor) -> int:
    return int(ids.max()) + 1


def _asked_of_1(items: np.ndarray, n_items: int) -> str:
    """A question to add, if ids look as if they ran from 1 to n_items."""
    if int(items.min()) > 0 and int(items.max()) == n_items:
        return " No id is 0, and the largest is n_items: are items numbered from 1?"
    return ""


def as_ids(values: Any, name: str) -> Tensor:
    """1-D int64 CPU tensor of ids >= 0, or an error that names what is wrong."""
    ids = ids_of(values, name, InteractionsError).detach().to(device="cpu", dtype=torch.int64)
    if ids.numel() and int(ids.min()) < 0:
        raise InteractionsError(
            f"Expected {name} >= 0, got {int(ids.min())}. Number them from 0."
        )
    return ids
