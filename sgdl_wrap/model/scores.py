"""Scores of pairs: what `score_fn` is tried on, and what is refused of what it returns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sgdl_wrap.errors import ScoreError
from sgdl_wrap.model.refusals import ATTEMPTED

ScorePairs = Callable[[Tensor, Tensor], Tensor]  # (users, items) -> scores, all (K,)


def checked_scores(scores: object, users: Tensor, items: Tensor) -> Tensor:
    """Detached CPU scores of some pairs, (K,), or an error that says what `score_fn` returned.

    -inf is a score: that of items which are never recommended, such as padding. NaN has no rank,
    and +inf would put an item before all others.
    """
    expected = len(users)
    if not isinstance(scores, Tensor):
        raise ScoreError(
            f"Expected score_fn to return a tensor of shape ({expected},), got a "
            f"{type(scores).__name__}. Return one score per pair from "
            "score_fn(model, users, items)."
        )
    if scores.shape != (expected,):
        raise ScoreError(
            f"Expected score_fn to return shape ({expected},), got {tuple(scores.shape)}. "
            "Return one score per pair from score_fn(model, users, items), higher for better items."
        )
    if scores.is_complex():
        raise ScoreError(
            f"Expected real scores, got {scores.dtype}. Return a real number per pair from "
            "score_fn(model, users, items)."
        )
    scores = scores.detach().cpu()
    bad = {"NaN": scores.isnan(), "+inf": scores == torch.inf}
    found = [f"{int(which.sum())} {name}" for name, which in bad.items() if bool(which.any())]
    if found:
        place = int((bad["NaN"] | bad["+inf"]).nonzero()[0])
        raise ScoreError(
            f"Expected scores that are finite or -inf, got {' and '.join(found)} among "
            f"{expected}, the first for user {int(users[place])} and item {int(items[place])}. "
            "Return -inf for items that are never recommended, such as padding. For others, look "
            "where the model or score_fn divides by zero or overflows."
        )
    return scores


def check_scores(
    score: ScorePairs, users: Tensor, items: Tensor, *, n_items: int, chunk: int, least: int
) -> None:
    """Tries `score_fn` on a few observed pairs, and on the catalogue for the first user.

    Items that occur in no pair, as padding does, are ranked at an epoch's end. What is wrong with
    their scores is better known before the first epoch than after it.

    Args:
        users, items: of a few observed pairs, (K,) each.
        n_items: of the catalogue.
        chunk: pairs that may be scored in one call; of a larger catalogue, as many of its items are
            tried, the first, the last and others evenly between.
        least: the lowest item of any observed pair.

    Raises:
        ScoreError: it fails, or returns something else than one score a pair, finite or -inf.
    """
    try:
        scores = score(users, items)
    except ATTEMPTED as error:
        raise ScoreError(
            f"Expected scores of {len(users)} pairs, got {type(error).__name__}: {error}. "
            "Pass score_fn(model, users, items), which returns one score per pair, higher for "
            "better items."
        ) from error
    if bool((checked_scores(scores, users, items) == -torch.inf).all()):
        raise ScoreError(
            f"Expected scores of observed pairs, got -inf for all {len(users)} that were tried. "
            "Return what the model gives them: a mask of items seen in training belongs into the "
            "evaluation alone."
        )
    catalogue = _spread(n_items, chunk)
    first = users[:1].repeat(len(catalogue))
    try:
        scores = score(first, catalogue)
    except ATTEMPTED as error:
        _refuse_last_item(score, users[:1], n_items, least)
        raise ScoreError(
            f"Expected scores of {len(catalogue)} items for user {int(users[0])} in one call, got "
            f"{type(error).__name__}: {error}. Score every item from 0 to "
            f"{n_items - 1}. If so many pairs are too many, lower ranking_chunk."
        ) from error
    checked_scores(scores, first, catalogue)


def _spread(n: int, most: int) -> Tensor:
    """All of 0 to n - 1, or `most` of them, evenly spaced from the first to the last, int64.

    `_spread(9, 3)` is 0, 4, 8; of one alone it is the last.
    """
    most = min(n, most)
    if most == 1:
        return torch.tensor([n - 1])
    places = torch.arange(most)
    step, rest = divmod(n - 1, most - 1)  # places * (n - 1) may pass 2**63
    return places * step + places * rest // (most - 1)


def _refuse_last_item(
    score: ScorePairs, user: Tensor, n_items: int, least: int
) -> None:
    """Tells whether the last item alone has no score.

    Raises:
        ScoreError: it has none.
    """
    try:
        score(user, torch.tensor([n_items - 1]))
    except ATTEMPTED as error:
        doubt = ""
        if least > 0:
            doubt = " Item 0 is in no pair: are items numbered from 1?"
        raise ScoreError(
            f"Expected a score of each item from 0 to {n_items - 1}, got {type(error).__name__} "
            f"of the last: {error}. Lower n_items, or give the model a row for each item.{doubt}"
        ) from error
