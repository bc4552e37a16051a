"""Models made from configurations, their data and their Trainer; used by test_huggingface*.py."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# nothing is asked of the network; said before transformers is first imported
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from sgdl_wrap import DenoiserConfig
from sgdl_wrap.integrations.huggingface import (
    SelfGuidedCallback,
    masked_item_losses,
    masked_item_pairs,
    next_item_losses,
    next_item_pairs,
)
from tests.support.models_zoo import seeded

N_USERS, LENGTH, N_ITEMS = 22, 9, 30
MASK, TOKENS = N_ITEMS + 1, N_ITEMS + 2  # 0 is padding, items are 1 to N_ITEMS
SIZE, EPOCHS = 4, 4
BATCHES = -(-N_USERS // SIZE)
SOON = DenoiserConfig(
    history_length=1, noise_rate=0.9, guidance_interval=2, meta_lr=0.05,
    evidence_weights=False,  # of so few pairs no noise is sure
)
_DRAWS = torch.Generator().manual_seed(0)
SEQUENCES = torch.stack(
    [torch.randperm(N_ITEMS, generator=_DRAWS)[:LENGTH] + 1 for _ in range(N_USERS)]
)
SEQUENCES[::3, -2:] = 0  # some are shorter
REAL = SEQUENCES > 0
MASKED = REAL & (torch.rand(SEQUENCES.shape, generator=_DRAWS) < 0.4)
USERS = torch.arange(N_USERS)[:, None].expand_as(SEQUENCES)


class Towers(nn.Module):
    """A model of one's own, with the loss in its forward, of which the Trainer takes the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(N_USERS, 4), nn.Embedding(TOKENS, 4)
        self.drop = nn.Dropout(0.2)

    def forward(self, user: Tensor, item: Tensor, negative: Tensor) -> dict[str, Tensor]:
        wanted, other = (self.score(user, items) for items in (item, negative))
        losses = nn.functional.softplus(other - wanted)
        return {"loss": losses.mean(), "losses": losses}

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.drop(self.user(user)) * self.item(item)).sum(-1)


def _gpt() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=TOKENS, n_positions=LENGTH, n_embd=8, n_layer=1, n_head=2,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, attn_implementation="eager",
    ))  # fmt: skip


def _bert() -> nn.Module:
    return BertForMaskedLM(BertConfig(
        vocab_size=TOKENS, max_position_embeddings=LENGTH, hidden_size=8, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16, attn_implementation="eager",
    ))  # fmt: skip


def _rows(inputs: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    return [
        {"user": u, "input_ids": row, "attention_mask": (row > 0).long(), "labels": told}
        for u, (row, told) in enumerate(zip(inputs, labels, strict=True))
    ]


def _best_of_all_positions(model: nn.Module, users: Tensor, items: Tensor) -> Tensor:
    rows, place = users.unique(return_inverse=True)
    inputs = SEQUENCES[rows]
    if isinstance(model, BertForMaskedLM):
        inputs = torch.where(torch.arange(LENGTH) % 2 == 0, MASK, inputs)
    scores = model(input_ids=inputs).logits.amax(1)[place, items]
    return scores.masked_fill((items == 0) | (items == MASK), -torch.inf)


def _tower_scores(model: Any, users: Tensor, items: Tensor) -> Tensor:
    return model.score(users, items)


def _tower_losses(outputs: dict[str, Tensor], batch: Any) -> Tensor:
    return outputs["losses"]


_CLICKS = torch.stack([USERS[REAL], SEQUENCES[REAL]], dim=1)[: SIZE * 40]
KINDS: dict[str, dict[str, Any]] = {
    "gpt": {
        "model": _gpt,
        "data": _rows(SEQUENCES, SEQUENCES.masked_fill(~REAL, -100)),
        "losses": next_item_losses,
        "pair_fn": next_item_pairs,
        "score_fn": _best_of_all_positions,
        "interactions": (USERS[:, 1:][REAL[:, 1:]], SEQUENCES[:, 1:][REAL[:, 1:]]),
    },
    "bert": {
        "model": _bert,
        "data": _rows(
            SEQUENCES.masked_fill(MASKED, MASK), SEQUENCES.masked_fill(~MASKED, -100)
        ),
        "losses": masked_item_losses,
        "pair_fn": masked_item_pairs,
        "score_fn": _best_of_all_positions,
        "interactions": (USERS[MASKED], SEQUENCES[MASKED]),
    },
    "towers": {
        "model": Towers,
        "data": [
            {"user": u, "item": i, "negative": 1 + (7 * place) % N_ITEMS, "at": place}
            for place, (u, i) in enumerate(_CLICKS.tolist())
        ],
        "losses": _tower_losses,
        "pair_fn": None,
        "score_fn": _tower_scores,
        "interactions": (_CLICKS[:, 0], _CLICKS[:, 1]),
    },
}  # fmt: skip


def callback(
    kind: str = "gpt", config: DenoiserConfig | None = SOON, **arguments: Any
) -> SelfGuidedCallback:
    told = KINDS[kind]
    settings = {name: told[name] for name in ("losses", "pair_fn", "score_fn", "interactions")}
    settings |= {"n_items": TOKENS, "config": config, **arguments}
    return SelfGuidedCallback(settings.pop("losses"), **settings)


class Denoised(Trainer):
    """What a user writes; `guided` is None in a plain run."""

    guided: SelfGuidedCallback | None = None

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        if self.guided is None:
            return super().compute_loss(*args, **kwargs)
        return self.guided.compute_loss(super().compute_loss, *args, **kwargs)


def trainer(
    folder: Path,
    guided: SelfGuidedCallback | None = None,
    *others: TrainerCallback,
    kind: str = "gpt",
    trains: type[Trainer] = Denoised,
    data: Any = None,
    evaluated: Any = None,
    **arguments: Any,
) -> Trainer:
    """A Trainer as anyone builds it; a plain one removes unused columns itself."""
    settings: dict[str, Any] = {
        "num_train_epochs": EPOCHS, "per_device_train_batch_size": SIZE, "learning_rate": 0.02,
        "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no",
        "logging_steps": 1, "remove_unused_columns": guided is None,
    }  # fmt: skip
    with seeded(3):
        model = KINDS[kind]["model"]()
    with seeded(4):  # a Trainer seeds the global streams
        runner = trains(
            model, TrainingArguments(str(folder), **{**settings, **arguments}),
            train_dataset=KINDS[kind]["data"] if data is None else data, eval_dataset=evaluated,
            callbacks=[*([guided] if guided else []), *others],
        )  # fmt: skip
    runner.guided = guided  # type: ignore[attr-defined]
    return runner


def train(runner: Trainer, resumed: Path | None = None) -> dict[str, Any]:
    """Trains from a fixed global stream, which is the caller's again after; what it ends with."""
    with seeded(4):
        runner.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    return outcome(runner)


def outcome(runner: Trainer) -> dict[str, Any]:
    return copy.deepcopy({
        "model": dict(runner.model.state_dict()),
        "optimizer": runner.optimizer.state_dict(),
        "losses": logged(runner, "loss"),
    })


def logged(runner: Trainer, name: str) -> Sequence[float]:
    return [entry[name] for entry in runner.state.log_history if name in entry]
