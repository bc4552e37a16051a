"""Hugging Face: a small GPT and a small BERT that recommend, plain and denoised by the Trainer.

    python examples/huggingface_example.py
    python examples/huggingface_example.py --model bert

Needs `pip install "sgdl-wrap[huggingface]"` and nothing else: the models are made from their
configurations, and the sequences of items are generated, with noise whose place is known. What the
second run has more than the first is a callback and one method.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from sgdl_wrap import DenoiserConfig
from sgdl_wrap.integrations.huggingface import (
    SelfGuidedCallback,
    masked_item_losses,
    masked_item_pairs,
    next_item_losses,
    next_item_pairs,
)

N_USERS, N_ITEMS, LENGTH = 400, 240, 20
MASK, TOKENS = N_ITEMS + 1, N_ITEMS + 2  # 0 is padding, items are 1 to N_ITEMS
NOISE = 0.3


def planted_sequences(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sequences in which most items are of the user's taste, and the rest are of no taste.

    Returns:
        The items, (N_USERS, LENGTH), which of them are noise, and an item of the user's taste
        that comes next and is in no sequence, (N_USERS,).
    """
    draws = torch.Generator().manual_seed(seed)
    shelves = torch.arange(1, N_ITEMS + 1).view(8, -1)  # a taste is one of eight shelves
    taste = torch.randint(8, (N_USERS,), generator=draws)
    order = torch.rand(N_USERS, shelves.shape[1], generator=draws).argsort(1)[:, : LENGTH + 1]
    liked = shelves[taste].gather(1, order)
    noise = torch.rand(N_USERS, LENGTH, generator=draws) < NOISE
    others = torch.rand(N_USERS, N_ITEMS, generator=draws).scatter(1, shelves[taste] - 1, 1.0)
    return torch.where(noise, others.argsort(1)[:, :LENGTH] + 1, liked[:, :-1]), noise, liked[:, -1]


class NextItem:
    """As of a GPT: each item is told from those before it."""

    losses, pairs = staticmethod(next_item_losses), staticmethod(next_item_pairs)

    def __init__(self, sequences: Tensor) -> None:
        self.sequences = sequences
        self.told = torch.arange(LENGTH) > 0  # the first item is nobody's next one

    def model(self) -> nn.Module:
        """Two layers; eager attention can be differentiated twice, the fused one cannot."""
        return GPT2LMHeadModel(GPT2Config(
            vocab_size=TOKENS, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2,
            bos_token_id=0, eos_token_id=0, attn_implementation="eager",
        ))  # fmt: skip

    def collate(self, rows: list[tuple[int, Tensor]]) -> dict[str, Tensor]:
        """A batch of whole sequences; its labels are the items themselves."""
        users, items = zip(*rows, strict=True)
        inputs = torch.stack(items)
        return {"user": torch.tensor(users), "input_ids": inputs, "labels": inputs.clone()}

    def scores(self, model: Any, users: Tensor, items: Tensor) -> Tensor:
        """The best over the user's positions; each sequence is read once."""
        rows, place = users.unique(return_inverse=True)
        best = model(input_ids=self.sequences[rows]).logits[:, :-1].amax(1)
        return _never_special(best[place, items], items)

    def last(self, model: Any) -> Tensor:
        """Scores of what comes after the sequence, (N_USERS, TOKENS)."""
        return model(input_ids=self.sequences).logits[:, -1]


class MaskedItem(NextItem):
    """As of a BERT: masked items are told from those around them, as in BERT4Rec."""

    losses, pairs = staticmethod(masked_item_losses), staticmethod(masked_item_pairs)

    def __init__(self, sequences: Tensor) -> None:
        super().__init__(sequences)
        self.told = torch.arange(LENGTH) >= 0

    def model(self) -> nn.Module:
        """Two layers, and a place for the mask after the last item."""
        return BertForMaskedLM(BertConfig(
            vocab_size=TOKENS, max_position_embeddings=LENGTH + 1, hidden_size=32,
            num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            attn_implementation="eager",
        ))  # fmt: skip

    def collate(self, rows: list[tuple[int, Tensor]]) -> dict[str, Tensor]:
        """Masks each item with probability .3."""
        batch = super().collate(rows)
        masked = torch.rand(batch["input_ids"].shape) < 0.3
        return {
            "user": batch["user"],
            "input_ids": batch["input_ids"].masked_fill(masked, MASK),
            "labels": batch["labels"].masked_fill(~masked, -100),
        }

    def scores(self, model: Any, users: Tensor, items: Tensor) -> Tensor:
        """The best over the user's positions, every third of which is masked at a time."""
        rows, place = users.unique(return_inverse=True)
        best = torch.full((len(rows), TOKENS), -torch.inf)
        for first in range(3):
            masked = torch.arange(LENGTH) % 3 == first
            inputs = self.sequences[rows].masked_fill(masked, MASK)
            best = torch.maximum(best, model(input_ids=inputs).logits[:, masked].amax(1))
        return _never_special(best[place, items], items)

    def last(self, model: Any) -> Tensor:
        """A mask is put after the sequence."""
        inputs = torch.cat([self.sequences, torch.full((N_USERS, 1), MASK)], 1)
        return model(input_ids=inputs).logits[:, -1]


def _never_special(scores: Tensor, items: Tensor) -> Tensor:
    return scores.masked_fill((items == 0) | (items == MASK), -torch.inf)


def train(task: NextItem, epochs: int, seed: int, guided: SelfGuidedCallback) -> nn.Module:
    """One run of the Trainer."""

    class Denoised(Trainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return guided.compute_loss(super().compute_loss, *args, **kwargs)

    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=epochs, per_device_train_batch_size=32, learning_rate=3e-3,
            lr_scheduler_type="constant", seed=seed, use_cpu=True, report_to="none",
            save_strategy="no", logging_strategy="no", disable_tqdm=True,
            remove_unused_columns=False,  # the denoiser reads each row's user
        )  # fmt: skip
        trainer = Denoised(
            task.model(), arguments, train_dataset=list(enumerate(task.sequences)),
            data_collator=task.collate, callbacks=[guided],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)  # a line an epoch
        trainer.train()
    return trainer.model


def hit_rate(task: NextItem, model: nn.Module, target: Tensor) -> float:
    """How often the item that comes next is among the ten that score best, of those not seen."""
    model.eval()
    with torch.no_grad():
        scores = task.last(model).scatter(1, task.sequences, -torch.inf)
    return float((scores.topk(10).indices == target[:, None]).any(1).float().mean())


def main(arguments: list[str] | None = None) -> None:
    """Trains both and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("gpt", "bert"), default="gpt")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--history-length", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    sequences, noise, target = planted_sequences(options.seed)
    task = (NextItem if options.model == "gpt" else MaskedItem)(sequences)
    # in an epoch the BERT learns from the masked items alone
    epochs = options.epochs or (30 if options.model == "gpt" else 60)

    users = torch.arange(N_USERS)[:, None].expand_as(sequences)

    def callback(*, enabled: bool) -> SelfGuidedCallback:
        return SelfGuidedCallback(
            task.losses, pair_fn=task.pairs, score_fn=task.scores, n_items=TOKENS,
            interactions=(users[:, task.told].flatten(), sequences[:, task.told].flatten()),
            config=DenoiserConfig(history_length=options.history_length), enabled=enabled,
        )  # fmt: skip

    plain = train(task, epochs, options.seed, callback(enabled=False))
    print(f"plain: hit rate@10 {hit_rate(task, plain, target):.3f}", flush=True)
    guided = callback(enabled=True)
    denoised = train(task, epochs, options.seed, guided)
    print(f"denoised: hit rate@10 {hit_rate(task, denoised, target):.3f}")

    denoiser, report = guided.denoiser, guided.denoiser.report()
    truth = np.zeros((N_USERS, TOKENS), dtype=bool)
    truth[users[noise], sequences[noise]] = True
    is_noise = truth[report["user"], report["item"]]
    low, high = denoiser.noise_share
    print(f"memorization point: {denoiser.memorization_point}")
    print(f"noise share {low:.2f} to {high:.2f}, in truth {is_noise.mean():.2f}")
    print(f"suspicion tells noise with AUC {roc_auc_score(is_noise, report['suspicion']):.3f}")


if __name__ == "__main__":
    main()
