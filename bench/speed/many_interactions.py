"""What Phase I holds and does over very many interactions: state, and one end of an epoch.

``python -m bench.speed.many_interactions --pairs 20000000`` draws pairs uniformly, notes a
loss of each as training would, and ends the epoch: ranking among sampled candidates, noise rate,
decision. With ``--audit-only`` it averages suspicion too, as all ends of epochs of Phase II do.
Memory is over what the process holds with model and pairs.
"""

from __future__ import annotations

import argparse
import json
import logging
import time

import numpy as np
import torch
from torch import Tensor, nn

from bench.speed.memory import mark_mib, set_mark_back
from bench.speed.models import MatrixFactorization
from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser

Batch = tuple[Tensor, Tensor, Tensor]
HISTORY_LENGTH = 10


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--audit-only", action="store_true")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(options.users * options.items, size=options.pairs))
    users, items = torch.from_numpy(keys // options.items), torch.from_numpy(keys % options.items)
    del keys
    model = MatrixFactorization(options.users, options.items)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    set_mark_back()
    before = mark_mib()
    denoiser = SelfGuidedDenoiser(
        model, optimizer, _random_losses, interactions=(users, items), n_items=options.items,
        config=DenoiserConfig(history_length=HISTORY_LENGTH, audit_only=options.audit_only),
    )
    built = mark_mib()
    set_mark_back()
    held = mark_mib()
    torch.manual_seed(0)
    for start in range(0, len(users), 65_536):
        stop = start + 65_536
        batch = users[start:stop], items[start:stop], items[start:stop]
        denoiser.before_step(batch)
        denoiser.weighted_loss(batch)
    started = time.perf_counter()
    denoiser.end_epoch()
    seconds, peak = time.perf_counter() - started, mark_mib()
    print(
        json.dumps(
            {
                "pairs": len(users),
                "users": options.users,
                "bytes_per_interaction": _state_bytes(denoiser) / len(users),
                # where its interactions start, and the score that its list ends with
                "bytes_per_user": 8 + 4,
                "end_of_epoch_s": seconds,
                "peak_building_mib": built - before,
                "peak_epoch_mib": peak - before,
                "held_mib": held - before,
            }
        )
    )


def _random_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Losses like those of a model that has learned most pairs and not all, (B,)."""
    users, _, _ = batch
    drawn = torch.distributions.Exponential(4.0).sample(users.shape)
    return drawn + 0 * model.user.weight[0, 0]  # type: ignore[operator, union-attr, index]


def _state_bytes(denoiser: SelfGuidedDenoiser) -> int:
    """Bytes of the arrays that have a place for each interaction."""
    tracker = denoiser.state_dict()["tracker"]
    held = [denoiser.interactions.keys]
    held += [tracker[name] for name in ("losses", "ring", "smoothed", "suspicion")]
    return sum(array.nbytes for array in held if array is not None)


if __name__ == "__main__":
    main()
