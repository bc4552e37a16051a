"""DeCA(p): denoising by agreement with a pretrained model, as models differ most on what is noise.

Source: Wang et al., Learning Robust Recommenders through Cross-Model Agreement, WWW 2022, with the
published code where the text is silent. The target model f, and h and h', predict what a user truly
prefers, r, and what is then observed, r~; both are 0 or 1. They are trained together to minimise

    α KL(g || f) + (1 - α) KL(f || g) - E_{r ~ f}[ ln P(r~ | r) ],

by turns with two assumptions on the last term:

    DP, denoising positives: P(1 | r=1) = 1, P(1 | r=0) = h;  ln P(0 | r=1) = -C1;
    DN, denoising negatives: P(0 | r=0) = 1, P(1 | r=1) = h'; ln P(1 | r=0) = -C2.

g is a model of f's own kind that ordinary training has made beforehand, from another seed, and that
stays as it is: the paper's DeCA(p). In its DeCA, g is a matrix factorisation trained along with f.

Departures:

1. The pretrained model has a fixed number of epochs, a share of the recipe's, instead of stopping
   early on validation; they are not counted among the method's epochs.
2. Probabilities stay logits: the code's logarithms stop at ln 1e-5, these do not.
3. For pointwise models alone. In the SGDL paper it also stands beside models with the BPR loss,
   which it replaces by its own.
4. Every sample counts alike, as in the code's loss for all models but CDAE (positives once, and
   negatives as often as there are), divided by the number of samples so that the L2 coefficient
   means what it does for the others. The code's CDAE weighs its negatives once, however many.
5. h and h' have a bias for each user and item, and start at a standard deviation of 0.1; the code's
   matrix factorisation has none, and starts at 0.01.
6. The published settings of DeCA(p) for MovieLens-100K are in configs.py, NeuMF's C1 = 100, C2 = 10
   and α = 1 among the trials here; the code's own fallbacks are the defaults below.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.methods.method import Epochs, Method
from bench.training.batches import Batch
from bench.training.fit import Training, plain_epoch
from bench.training.recipes import Recipe


class Factors(nn.Module):
    """logit(u, i) = p_u · q_i + b_u + b_i: the paper's h and h'."""

    def __init__(self, n_users: int, n_items: int, dim: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(n_users, dim + 1), nn.Embedding(n_items, dim + 1)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)
            nn.init.zeros_(table.weight[:, -1])

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits of the pairs (users[k], items[k]), (B,)."""
        ours, theirs = self.users(users), self.items(items)
        logits: Tensor = (ours[:, :-1] * theirs[:, :-1]).sum(dim=1) + ours[:, -1] + theirs[:, -1]
        return logits


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL(p || q) of Bernoulli variables with logits first and second, (B,), at least 0."""
    p = torch.sigmoid(first)
    of_ones = p * (F.logsigmoid(first) - F.logsigmoid(second))
    return of_ones + (1 - p) * (F.logsigmoid(-first) - F.logsigmoid(-second))


def denoising_positives(target: Tensor, h: Tensor, labels: Tensor, c1: float) -> Tensor:
    """-E_{r ~ f}[ln P(r~ | r)] under DP, (B,): an observed pair may be noise, at the price -ln h.

    (1 - f)(-ln h) where r~ = 1; (1 - f)(-ln(1 - h)) + f C1 where r~ = 0.

    Args:
        target, h: logits of f and h, (B,) each.
        labels: r~, (B,), 1 or 0.
    """
    f = torch.sigmoid(target)
    of_labels = F.binary_cross_entropy_with_logits(h, labels, reduction="none")
    return (1 - f) * of_labels + (1 - labels) * f * c1


def denoising_negatives(target: Tensor, h: Tensor, labels: Tensor, c2: float) -> Tensor:
    """-E_{r ~ f}[ln P(r~ | r)] under DN, (B,): an unobserved pair may be liked.

    f (-ln h') + (1 - f) C2 where r~ = 1; f (-ln(1 - h')) where r~ = 0.

    Args:
        target, h: logits of f and h', (B,) each.
        labels: r~, (B,), 1 or 0.
    """
    f = torch.sigmoid(target)
    of_labels = F.binary_cross_entropy_with_logits(h, labels, reduction="none")
    return f * of_labels + labels * (1 - f) * c2


@dataclass(frozen=True)
class DeCA(Method):
    """Trains the model by agreement with another, and by two models of how noise arises."""

    alpha: float = 0.5
    """α. The code's fallback; its settings for MovieLens-100K have 1."""
    c1: float = 1000.0
    """C1, of a liked pair that was not observed, under DP. The code's fallback."""
    c2: float = 10.0
    """C2, of an observed pair that is not liked, under DN. The code's fallback."""
    dim: int = 32
    """Width of h and h'. Code: 32."""
    pretraining: float = 1 / 3
    """Epochs of the pretrained model, as a share of the recipe's."""

    def supports(self, recipe: Recipe) -> bool:
        """Pointwise models alone, whose scores are logits."""
        return recipe.pointwise

    def start(self, training: Training) -> Epochs:
        """Epochs of steps that alternate between the two assumptions."""
        data = training.data
        noise = nn.ModuleList(Factors(data.n_users, data.n_items, self.dim) for _ in range(2))
        optimizer = torch.optim.Adam(noise.parameters(), lr=training.recipe.learning_rate)
        turns = cycle((True, False))
        pretrained: list[nn.Module] = []

        def run_epoch() -> None:
            if not pretrained:
                pretrained.append(self.pretrain(training))
            for batch in training.batches:
                losses = self.losses(
                    training.model, pretrained[0], noise, batch, positives=next(turns)
                )
                loss = losses.mean()
                if training.penalty_fn is not None:
                    loss = loss + training.penalty_fn(training.model, batch)
                training.optimizer.zero_grad()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                training.optimizer.step()
                optimizer.step()

        return Epochs(run_epoch)

    def pretrain(self, training: Training) -> nn.Module:
        """g: a model as the training's, after ordinary epochs from another seed, in eval mode."""
        recipe, data = training.recipe, training.data
        model = recipe.build(data)  # the stream of random numbers has moved on
        optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, fused=True)
        generator = np.random.default_rng([training.seed, 3])
        batches = recipe.batches(data, recipe.batch_size, generator)
        for _ in range(round(self.pretraining * recipe.epochs)):
            plain_epoch(model, optimizer, recipe.loss_fn, training.penalty_fn, batches)
        return model.eval()

    def losses(
        self,
        model: nn.Module,
        pretrained: nn.Module,
        noise: nn.ModuleList,
        batch: Batch,
        *,
        positives: bool,
    ) -> Tensor:
        """The objective of each sample, (B,), with the assumption DP (positives) or DN.

        Args:
            pretrained: g.
            noise: h and h'.
        """
        users, items, labels = batch
        target = model(users, items)
        with torch.no_grad():
            agreed = pretrained(users, items)
        divergences = self.alpha * divergence(agreed, target)
        divergences = divergences + (1 - self.alpha) * divergence(target, agreed)
        h, h_of_liked = noise
        if positives:
            return divergences + denoising_positives(target, h(users, items), labels, self.c1)
        likelihood = denoising_negatives(target, h_of_liked(users, items), labels, self.c2)
        return divergences + likelihood
