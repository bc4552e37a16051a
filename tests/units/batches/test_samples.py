"""Which interactions a batch's samples are, and where that is doubtful."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from sgdl_wrap import DenoiserWarning, SelfGuidedDenoiser
from sgdl_wrap.batches.samples import are_pointwise
from tests.promises.test_training_features import ITEMS, USERS, Factors, bpr, in_lists


def watching(users, items, *, pair_fn=None):
    model = Factors()
    model.item = nn.Embedding(31, 4)  # items one off are in range
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return SelfGuidedDenoiser(
        model, optimizer, bpr, interactions=(users, items), n_items=31, pair_fn=pair_fn
    )


def test_ids_that_are_one_off_are_said_once():
    denoiser = watching(USERS, ITEMS + 1)
    first, second = in_lists(0)[:2]
    known = {*zip(USERS.tolist(), (ITEMS + 1).tolist(), strict=True)}
    pairs = zip(*(ids.tolist() for ids in first[:2]), strict=True)
    unknown = sum(pair not in known for pair in pairs)
    assert 0 < unknown < len(first[0])  # some are known by chance: it is no error
    with pytest.warns(
        DenoiserWarning,
        match=rf"^Expected the pairs of batch 1 of epoch 1 among the interactions, got {unknown} "
        rf"of {len(first[0])} unknown, which count as sampled negatives\. If they are, say so: "
        r"pair_fn returns \(users, items, observed\)\. Else number ids alike and leave padding "
        r"out\.$",
    ) as caught:
        denoiser.before_step(first)
    assert caught[0].filename == __file__
    denoiser.step(first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        denoiser.before_step(second)


def test_negatives_that_are_named_and_a_few_strangers_are_taken_in_silence():
    first = in_lists(0)[0]
    users, items = first[0], first[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watching(USERS, ITEMS).before_step(first)
        strangers = torch.arange(len(users)) < len(users) // 3
        some = torch.where(strangers, torch.full_like(items, 30), items)
        watching(USERS, ITEMS, pair_fn=lambda batch: (users, some)).before_step(first)
        flags = torch.arange(len(users)) < 5
        named = (users, torch.where(flags, items, torch.full_like(items, 30)), flags)
        watching(USERS, ITEMS, pair_fn=lambda batch: named).before_step(first)


@pytest.mark.parametrize(
    ("samples", "observed", "negatives", "pointwise"),
    [
        (100, 100, 0, False),
        (100, 99, 0, False),  # a pair that is missing among the interactions
        (99, 66, 0, False),
        (99, 65, 0, True),  # more than a third: negatives of which no one said so
        (100, 50, 50, True),
        (100, 99, 1, True),
        (100, 20, 70, True),
    ],
)
def test_a_loss_is_pointwise_by_what_its_batches_call_unobserved(
    samples, observed, negatives, pointwise
):
    assert are_pointwise(samples, observed, negatives) is pointwise
