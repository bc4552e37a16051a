"""What several processes cannot do is refused on all of them, with the remedy, and none waits."""

from __future__ import annotations

import pytest

from tests.units.ranks.conftest import Told


@pytest.mark.parametrize(
    ("what", "kind", "words"),
    [
        ("users on both", "InteractionsError",
         "Expected all pairs on every rank, or each user's pairs on one rank, got pairs of user 0 "
         "on 2 ranks that differ. Divide by user, or hand every rank all pairs."),
        *(
            (case, "InteractionsError", "Expected all pairs on every rank, or each user's pairs on "
             f"one rank, got pairs of user {user} on 2 ranks that differ.")
            for case, user in (("far users on both", 2**61 + 7), ("in rounds", 10**9 + 50),
                               ("in the last round", 2**63 - 1))
        ),
        ("catalogues", "InteractionsError",
         "Expected one catalogue on all ranks, got n_items = 2 on rank 0 and 3 on rank 1. Pass "),
        ("configs", "InteractionsError",
         "Expected one config on all ranks, got rank 1 differ from rank 0 in gumbel_tau, seed. "),
        ("skipping", "UnsupportedModelError",
         "Expected on_nonfinite='raise' on several ranks, got 'skip': "),
        ("static graph", "UnsupportedModelError",
         "Expected DistributedDataParallel without static_graph, got it with: "),
        ("others' pairs", "BatchError", "Expected pairs that rank {rank} was handed, got 25 oth"),
        ("around", "UnsupportedModelError",
         "Expected loss_fn to call the model that it is given, got one that goes around Distrib"),
        ("join", "OrderError", "Expected as many batches on every rank, got model.join(), under "),
        ("no end_epoch", "OrderError",
         "Expected end_epoch() after each pass over the loader, as 2 ranks train together, got "),
    ],
)  # fmt: skip
def test_all_ranks_refuse(told: Told, what: str, kind: str, words: str) -> None:
    for rank, found in enumerate(told("refused")):
        assert found[what][0] == kind
        assert found[what][1].startswith(words.format(rank=rank)), found[what][1]


def test_scores_that_fail_on_one_rank_end_the_epoch_on_none(told: Told) -> None:
    first, second = told("one_rank_fails")
    assert first["first"][0] == second["first"][0] == "ScoreError"
    assert first["first"][1] == second["first"][1] + " It came up on rank 1 of 2."
    assert first["epochs"] == second["epochs"] == 1  # ended when tried again


def test_a_batch_that_one_rank_does_not_know_is_named_on_all(told: Told) -> None:
    first, second = told("one_rank_knows_no_pair")
    assert first["first"][0] == second["first"][0] == "BatchError"
    assert second["first"][1].startswith("Expected observed pairs in batch 2 of epoch 1, got none")
    assert first["first"][1] == second["first"][1] + " It came up on rank 1 of 2."
    assert first["epochs"] == second["epochs"] == 1


def test_fully_sharded_models_are_refused(told: Told) -> None:
    found = told("fully_sharded")
    if found == ["absent", "absent"]:
        pytest.skip("this torch has no fully_shard")
    for kind, words in found:
        assert kind == "UnsupportedModelError"
        assert words.startswith("Expected whole parameters on every rank, got a model under FSDP")


def test_forwards_that_wait_for_other_ranks_are_refused(told: Told) -> None:
    for kind, words in told("synchronised"):
        assert kind == "UnsupportedModelError"
        assert words.startswith("Expected a forward that each rank can take by itself, got SyncB")


def test_a_bare_model_among_several_processes_is_told_once_and_trains_alone(told: Told) -> None:
    first, second = told("bare_model")
    for rank in (first, second):
        assert len(rank["said"]) == 1
        assert rank["said"][0].startswith("Expected the model in DistributedDataParallel, as 2 pro")
    assert any((a != b).any() for a, b in zip(first["moved"], second["moved"], strict=True))
