"""Per-sample losses of models of sequences of items, as Transformers' models of tokens are trained.

A sample is a labelled position of a sequence: the user whose sequence it is, and the item there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from sgdl_wrap.errors import BatchError

Batch = Mapping[str, Any]

_IGNORED = -100  # Transformers' label of a position that has no loss


def next_item_losses(outputs: Any, batch: Batch) -> Tensor:
    """-log p(item | the items before it) of each labelled position, (B,), as of a GPT.

    Args:
        outputs: of the model; ``outputs.logits``, (rows, length, tokens).
        batch: its ``labels``, (rows, length), -100 where nothing is to be told. Logits at a
            position foretell the label of the next one, as Transformers' causal models do.
    """
    return _token_losses(outputs.logits[:, :-1], batch["labels"][:, 1:])


def next_item_pairs(batch: Batch) -> tuple[Tensor, Tensor]:
    """The (user, item) of each loss of :func:`next_item_losses`, (B,) each; a `pair_fn`.

    Args:
        batch: its ``labels``, and ``user``, (rows,), the id of each row's user. Items are numbered
            as tokens are.

    Raises:
        BatchError: no users in the batch.
    """
    return _token_pairs(batch, batch["labels"][:, 1:])


def masked_item_losses(outputs: Any, batch: Batch) -> Tensor:
    """-log p(item | the items around it) of each labelled position, (B,), as of a BERT.

    Args:
        outputs: of the model; ``outputs.logits``, (rows, length, tokens).
        batch: its ``labels``, (rows, length), -100 where nothing is masked.
    """
    return _token_losses(outputs.logits, batch["labels"])


def masked_item_pairs(batch: Batch) -> tuple[Tensor, Tensor]:
    """The (user, item) of each loss of :func:`masked_item_losses`, as :func:`next_item_pairs`."""
    return _token_pairs(batch, batch["labels"])


def _token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    told = labels != _IGNORED
    return F.cross_entropy(logits[told].float(), labels[told], reduction="none")


def _token_pairs(batch: Batch, labels: Tensor) -> tuple[Tensor, Tensor]:
    if "user" not in batch:
        raise BatchError(
            f"Expected a column 'user' in the batch, got {', '.join(map(str, batch))}. Let the "
            "data set and the collator give the id of each row's user."
        )
    told = labels != _IGNORED
    return batch["user"][:, None].expand_as(labels)[told], labels[told]
