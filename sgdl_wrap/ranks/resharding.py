"""States of several ranks as one, and one state among several ranks: training goes on with more or
fewer processes than it was saved by.

What ranks hold alike (ψ, φ, the history) is taken once; what is known by interaction follows the
interactions; sums over the epoch under way are added up. Guidance that waits for the next step is
left out, as its batches cannot be divided: the first step that would learn from it keeps ψ and φ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgdl_wrap.batches.interactions import Interactions, fingerprint
from sgdl_wrap.batches.passes import Bound
from sgdl_wrap.errors import StateError
from sgdl_wrap.ranks.ranks import Ranks
from sgdl_wrap.saving.header import broken_state_refused, check_seal, sealed

_SUMS = ("observed", "samples", "negatives", "loss_sum", "weight_sum")
_COLUMNS = ("losses", "smoothed")  # of the tracker, one entry an interaction


def rank_header(ranks: Ranks, interactions: Interactions) -> dict[str, Any]:
    """Whose state it is, among several; and of which pairs, where ranks know different ones."""
    if not ranks.several:
        return {}
    found: dict[str, Any] = {"ranks": [ranks.rank, ranks.size]}
    if not ranks.replicated:
        found["pairs"] = {
            "keys": interactions.keys.clone(),  # by the places of users
            "users": interactions.known_users.clone(),
            "n_items": interactions.n_items,
        }
    return found


def merge_states(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The states of all ranks as one, for any number of processes.

    Args:
        states: what `state_dict()` returned on each rank, between the same two steps; in any order.

    Returns:
        What `load_state_dict` takes on each of any number of ranks, or on one process with all
        interactions. A list of one process's state alone gives that back.

    Raises:
        StateError: not one state of each rank, not of the same moment, or one that was changed or
            damaged since it was taken.
    """
    for state in states:
        check_seal(state)
    if len(states) == 1 and "ranks" not in states[0]:
        return states[0]
    with broken_state_refused():
        states = sorted(states, key=lambda state: int(state["ranks"][0]))
        whole = [[rank, len(states)] for rank in range(len(states))]
        if [list(state["ranks"]) for state in states] != whole:
            told = ", ".join("{} of {}".format(*state["ranks"]) for state in states)
            raise StateError(
                f"Expected one state of each rank, got those of {told}. Load all that were saved "
                "together."
            )
        _check_one_moment(states)
        merged = dict(states[0])
        del merged["ranks"], merged["seal"]
        merged["epoch"] = _joined_epoch([state["epoch"] for state in states])
        if merged["self_guided"] is not None:
            merged["self_guided"] = {**merged["self_guided"], "guidance": None}
        if "pairs" in merged:
            return sealed(_joined_shards(states, merged))
        return sealed(_joined_replicas(states, merged))


def state_of_rank(
    state: dict[str, Any], ranks: Ranks, interactions: Interactions
) -> dict[str, Any]:
    """What this rank takes of a state: its own as it is; of one for all, its part.

    Args:
        state: one that `check_seal` has passed; a part of it has no seal that fits.

    Raises:
        StateError: the state of another rank, or without some of this rank's pairs.
    """
    with broken_state_refused():
        if "ranks" in state:
            if list(state["ranks"]) != [ranks.rank, ranks.size]:
                rank, size = state["ranks"]
                raise StateError(
                    f"Expected the state of rank {ranks.rank} of {ranks.size}, got that of rank "
                    f"{rank} of {size}. Pass merge_states([...]) of all {size} to go on with "
                    "another number of ranks."
                )
            return state
        if "pairs" in state and state["interactions"] != interactions.fingerprint():
            state = _part(state, interactions)
        if not ranks.several:
            return state
        # several ranks end epochs by calls alone, and count no visits
        epoch = {**state["epoch"], **_bound(2 * interactions.rows)}
        state = {**state, "epoch": epoch}
        if ranks.rank > 0:  # what is summed over the ranks is held by one
            epoch.update(dict.fromkeys(_SUMS, 0))
            if state["self_guided"] is not None:
                state["self_guided"] = {**state["self_guided"], "guidance": None}
        return state


def _bound(at: int) -> dict[str, Any]:
    """Of an epoch that counts no visits: when it is over."""
    return {"bound": asdict(Bound(at, settled=True)), "counts": None, "put_off": 0}


def _check_one_moment(states: Sequence[dict[str, Any]]) -> None:
    first = states[0]
    for state in states[1:]:
        same = (
            state["config"] == first["config"]
            and state["parameters"] == first["parameters"]
            and state["tracker"]["epochs"] == first["tracker"]["epochs"]
            and state["epoch"]["batches"] == first["epoch"]["batches"]
            and _learned(state) == _learned(first)
        )
        if not same:
            raise StateError(
                f"Expected states of one moment, got rank {state['ranks'][0]} at another one than "
                "rank 0. Save on all ranks between the same two steps."
            )


def _learned(state: dict[str, Any]) -> Any:
    """Step and ψ, comparable."""
    guided = state["self_guided"]
    if guided is None or guided["learner"] is None:
        return guided is None
    weights = guided["learner"]["weighting"]
    return guided["steps"], {name: value.tolist() for name, value in weights.items()}


def _joined_epoch(epochs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts and sums of all ranks; the slowest's clock."""
    joined = dict(epochs[0])
    joined.update({name: sum(epoch[name] for epoch in epochs) for name in _SUMS})
    joined["seconds"] = max(epoch["seconds"] for epoch in epochs)
    return joined


def _in_one_epoch(trackers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the losses of the epoch before, where other ranks have begun the next one."""
    found = list(trackers)
    if all(tracker["epoch_ended"] for tracker in found):
        return found
    return [
        {**one, "epoch_ended": False, "losses": torch.full_like(one["losses"], torch.nan)}
        if one["epoch_ended"]
        else one
        for one in found
    ]


def _joined_replicas(states: Sequence[dict[str, Any]], merged: dict[str, Any]) -> dict[str, Any]:
    """Every rank knows all interactions; their losses of this epoch, each has seen some of."""
    trackers = _in_one_epoch(state["tracker"] for state in states)
    tracker = dict(trackers[0])
    seen = [~torch.isnan(one["losses"]) for one in trackers]
    for name in ("losses", "smoothed"):
        if tracker[name] is not None:
            both = zip(seen, trackers, strict=True)
            parts = [torch.where(those, one[name], torch.nan) for those, one in both]
            last = torch.stack(parts).nan_to_num(-torch.inf).amax(dim=0)
            tracker[name] = torch.where(last == -torch.inf, tracker[name], last)
    epoch = {**merged["epoch"], **_bound(merged["epoch"]["bound"]["at"] // 2)}
    return {**merged, "tracker": tracker, "epoch": epoch}


def _joined_shards(states: Sequence[dict[str, Any]], merged: dict[str, Any]) -> dict[str, Any]:
    """Every rank knows its own users' interactions: all of them, in the order of their keys."""
    if len({state["pairs"]["n_items"] for state in states}) > 1:
        raise StateError(
            "Expected states of one catalogue, got several n_items. Load states that were saved "
            "together."
        )
    sizes = [len(state["pairs"]["keys"]) for state in states]
    n_items = merged["pairs"]["n_items"]
    users = torch.unique(torch.cat([state["pairs"]["users"] for state in states]), sorted=True)
    if len(users) > 2**62 // n_items:
        raise StateError(
            f"Expected fewer than 2**62 pairs of a user and an item, got {len(users)} users and "
            f"n_items = {n_items}. Number items from 0 without gaps, and train anew."
        )
    # of each rank's users, among all
    seats = [torch.searchsorted(users, state["pairs"]["users"]) for state in states]
    both = zip(states, seats, strict=True)
    moved = [_moved(state["pairs"]["keys"], to, n_items) for state, to in both]
    keys, order = torch.cat(moved).sort()
    trackers = _in_one_epoch(state["tracker"] for state in states)
    tracker = dict(trackers[0])
    tracker["ring"] = _taken([one["ring"] for one in trackers], sizes, order)
    if tracker["at_switch"] is not None:
        (tracker["at_switch"],) = _taken([one["at_switch"][None] for one in trackers], sizes, order)
    for name in _COLUMNS:
        if tracker[name] is not None:
            tracker[name] = torch.cat([one[name] for one in trackers])[order]
    suspicion = torch.cat([one["evidence"]["suspicion"] for one in trackers])[order]
    tracker["evidence"] = {**tracker["evidence"], "suspicion": suspicion}
    tracker["cut"] = torch.full((len(users),), torch.nan, dtype=torch.float32)
    for one, to in zip(trackers, seats, strict=True):  # no user is on two ranks
        tracker["cut"][to] = one["cut"]
    ends_at = sum(state["epoch"]["bound"]["at"] for state in states) // 2
    merged = {
        **merged,
        "interactions": fingerprint(keys, n_items, users),
        "pairs": {"keys": keys, "users": users, "n_items": n_items},
        "tracker": tracker,
        "epoch": {**merged["epoch"], **_bound(ends_at)},
    }
    if merged["self_guided"] is None:
        return merged
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))  # of the ranks' interactions, in all
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    guided = [state["self_guided"] for state in states]
    parts = [
        places[one["memorized"] + start] for one, start in zip(guided, starts, strict=True)
    ]
    memorized, by_id = torch.cat(parts).sort()
    return _with_memorized(merged, memorized, [one["learner"] for one in guided], by_id)


def _moved(keys: Tensor, to: Tensor, n_items: int) -> Tensor:
    """Keys of the same pairs, where the users have other places; `to` has them by the old ones."""
    return to[torch.div(keys, n_items, rounding_mode="floor")] * n_items + keys % n_items


def _part(state: dict[str, Any], interactions: Interactions) -> dict[str, Any]:
    """What a state for all interactions says of some of them."""
    keys, n_items = state["pairs"]["keys"], state["pairs"]["n_items"]
    users, own_users = state["pairs"]["users"], interactions.known_users
    seats = torch.searchsorted(users, own_users).clamp_(max=len(users) - 1)
    wanted = _moved(interactions.keys, seats, interactions.n_items)
    places = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    known = (users[seats] == own_users)[interactions.places(slice(None))]
    unknown = int(((keys[places] != wanted) | ~known).sum())
    if n_items != interactions.n_items or unknown:
        raise StateError(
            f"Expected a state that knows these interactions, got one with n_items = {n_items} "
            f"and without {unknown} of {len(interactions)}. Load the state of the same data."
        )
    tracker = dict(state["tracker"])
    tracker["ring"] = _taken([tracker["ring"]], [len(keys)], places)
    if tracker["at_switch"] is not None:
        (tracker["at_switch"],) = _taken([tracker["at_switch"][None]], [len(keys)], places)
    for name in _COLUMNS:
        if tracker[name] is not None:
            tracker[name] = tracker[name][places]
    evidence = tracker["evidence"]
    tracker["evidence"] = {**evidence, "suspicion": evidence["suspicion"][places]}
    tracker["cut"] = tracker["cut"][seats]
    part = {**state, "interactions": interactions.fingerprint(), "tracker": tracker}
    if state["self_guided"] is None:
        return part
    rows = torch.full((len(keys),), -1)  # of M, by interaction
    memorized = state["self_guided"]["memorized"]
    rows[memorized] = torch.arange(len(memorized))
    own = torch.nonzero(rows[places] >= 0).flatten()
    learner = state["self_guided"]["learner"]
    return _with_memorized(part, own, [learner], rows[places[own]])


def _with_memorized(
    state: dict[str, Any], memorized: Tensor, learners: Sequence[Any], rows: Tensor
) -> dict[str, Any]:
    """The state with another M, its factors being `rows` of the learners', one after the other."""
    guided = {**state["self_guided"], "memorized": memorized}
    if learners[0] is not None:
        selector = dict(learners[0]["selector"])
        for name in ("factor_ring", "factor_visits"):
            if name in selector:
                selector[name] = torch.cat([one["selector"][name] for one in learners])[rows]
        guided["learner"] = {**learners[0], "selector": selector}
    return {**state, "self_guided": guided}


def _taken(rings: Sequence[Tensor], sizes: Sequence[int], places: Tensor) -> Tensor:
    """The history of some interactions among those of several rings, one after the other."""
    epochs = []
    for rows in zip(*(ring.numpy() for ring in rings), strict=True):  # unpacked, they are large
        bits = [np.unpackbits(row, count=n) for row, n in zip(rows, sizes, strict=True)]
        epochs.append(np.packbits(np.concatenate(bits)[places.numpy()]))
    return torch.from_numpy(np.stack(epochs))
