"""One of two processes that train together; started by conftest.py.

    python -m tests.units.ranks.two_ranks FOLDER RANK

goes through the cases below, in order, and saves what came of each as FOLDER/CASE-RANK.pt.
"""

from __future__ import annotations

import copy
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.models.lightgcn import bpr_loss
from sgdl_wrap import DenoiserConfig, DenoiserError, SelfGuidedDenoiser, merge_states
from sgdl_wrap.ranks import layout
from sgdl_wrap.ranks.ranks import CHUNK
from tests.support.models_zoo import snapshot, triple_epoch
from tests.units.ranks.runs import CONFIG, DIVIDED_ANEW, FOLLOWING, SAVED, SAVED_AT, Run

Case = Callable[[int, Path], Any]
CASES: dict[str, Case] = {
    name: lambda rank, _, changes=changes: Run(2, rank, **changes).finish()
    for name, changes in FOLLOWING.items()
}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def refusal(action: Callable[[], Any]) -> tuple[str, str]:
    """The kind and the words of what is raised."""
    try:
        action()
    except DenoiserError as error:
        return type(error).__name__, str(error)
    return "", "nothing was raised"


# ------------------------------------------------------------------ training


@case
def uneven(rank: int, _: Path) -> Any:
    """Default draws, and parts of a batch that are not of one size."""
    config = DenoiserConfig(
        history_length=1, noise_rate=0.9, guidance_interval=2, guidance_size=8
    )
    run = Run(2, rank, config=config)
    first = slice(0, 9) if rank == 0 else slice(9, None)
    run._part = lambda batch: tuple(c[first] for c in batch)  # type: ignore[method-assign]
    return run.finish()


@case
def fitted_on_some(rank: int, _: Path) -> Any:
    """The mixture is fitted on a part of the losses, of each rank's users some."""
    return Run(2, rank, divide="users", config=CONFIG.but(noise_rate_sample=60)).finish()


@case
def accumulated(rank: int, _: Path) -> Any:
    run = Run(2, rank)
    run.train(8)
    return run.accumulate(2)


@case
def asked_alone(rank: int, _: Path) -> Any:
    """Weights are divided by the mean over all ranks; rank 0 alone asks for some of its own."""
    run = Run(2, rank, config=CONFIG.but(evidence_weights=False))
    found = run.finish()
    batch = run.batches(0)[0]
    return {**found, "weights": run.denoiser.sample_weights(batch) if rank == 0 else None}


@case
def plain(rank: int, _: Path) -> Any:
    """The user's own loop, and the denoised one in Phase I."""
    found = []
    for denoised in (False, True):
        run = Run(2, rank, config=CONFIG.but(history_length=50))
        for batch in [run._part(batch) for batch in triple_epoch(run.data, 0)]:
            if denoised:
                run.denoiser.before_step(batch)
                run.denoiser.step(batch)
            else:
                loss = bpr_loss(run.model, batch).mean()
                run.optimizer.zero_grad()
                loss.backward()
                run.optimizer.step()
        found.append(snapshot(run.bare, run.optimizer))
    return found


# ------------------------------------------------------------------ states


def saved(rank: int, folder: Path, name: str) -> Any:
    """A run saved at a step, gone on with; the same loaded again; and loaded by other ranks."""
    changes = SAVED[name]
    run = Run(2, rank, **changes)
    run.train(SAVED_AT)
    checkpoint = copy.deepcopy(run.checkpoint())
    torch.save(checkpoint, folder / f"{name}-checkpoint-{rank}.pt")
    whole = copy.deepcopy(run.finish())
    again = Run(2, rank, **changes)
    again.restore(checkpoint)
    resumed = copy.deepcopy(again.finish())
    dist.barrier()
    all_saved = [
        torch.load(folder / f"{name}-checkpoint-{r}.pt", weights_only=True) for r in (0, 1)
    ]
    merged = merge_states([one["denoiser"] for one in all_saved])
    other = Run(2, rank, **{**changes, "divide": DIVIDED_ANEW[changes["divide"]]})
    other.restore({**checkpoint, "denoiser": merged})
    resharded = copy.deepcopy(other.finish())
    foreign = refusal(lambda: run.denoiser.load_state_dict(all_saved[1 - rank]["denoiser"]))
    return {
        "checkpoint": checkpoint, "whole": whole, "resumed": resumed, "resharded": resharded,
        "foreign": foreign,
    }


for name in SAVED:
    CASES[name] = lambda rank, folder, name=name: saved(rank, folder, name)


@case
def from_one(rank: int, folder: Path) -> Any:
    """What one process saved, loaded by two; conftest has left it there."""
    run = Run(2, rank)
    run.restore(torch.load(folder / "one.pt", weights_only=True))
    return run.finish()


# ------------------------------------------------------------------ refusals


@case
def refused(rank: int, _: Path) -> Any:
    def build(**changes: Any) -> Callable[[], Run]:
        return lambda: Run(2, rank, **changes)

    def handed_over(users: list[int], items: list[int], n_items: int | None) -> Callable[[], Any]:
        return lambda: SelfGuidedDenoiser(
            run.model, run.optimizer, bpr_loss, interactions=(users, items), n_items=n_items
        )

    run = Run(2, rank)
    batch = run.batches(0)[0]
    found = {
        "users on both": refusal(handed_over([0, 0, 1 + rank] * 1, [1, 2, 3 + rank], 30)),
        "far users on both": refusal(
            handed_over([2**61 + 7, 2**61 + 7, rank], [1, 2, 3 + rank], 30)
        ),
        "catalogues": refusal(handed_over([2 * rank] * 2, [0, 1 + rank], None)),
        "configs": refusal(build(config=CONFIG.but(seed=rank, gumbel_tau=1 + rank))),
        "skipping": refusal(build(config=CONFIG.but(on_nonfinite="skip"))),
        "static graph": refusal(build(engine={"static_graph": True})),
    }

    layout.CHUNK = 6  # three ids a rank at once
    odd = [10**9 + 2 * user + rank for user in range(8 + 3 * rank)]
    for name, user in (("in rounds", 10**9 + 50), ("in the last round", 2**63 - 1)):
        users = [*odd, user]
        found[name] = refusal(handed_over(users, list(range(len(users))), 30))
    Run(2, rank, divide="users")  # whose users are on one rank each
    layout.CHUNK = CHUNK

    sharded = Run(2, rank, divide="users")
    whole = triple_epoch(sharded.data, 0)[0]
    found["others' pairs"] = refusal(lambda: sharded.denoiser.before_step(whole))

    def around(model: Any, batch: Any) -> Tensor:
        return bpr_loss(getattr(model, "module", model), batch)

    going_around = Run(2, rank, loss_fn=around)
    going_around.denoiser.before_step(batch)
    found["around"] = refusal(lambda: going_around.denoiser.step(batch))

    with run.model.join():
        found["join"] = refusal(lambda: run.denoiser.before_step(batch))

    endless = Run(2, rank)

    def train_on() -> None:
        for _ in range(3 * 2):
            for part in endless.batches(0):
                endless.denoiser.before_step(part)
                endless.denoiser.step(part)

    found["no end_epoch"] = refusal(train_on)
    return found


@case
def one_rank_fails(rank: int, _: Path) -> Any:
    """Scores that are not finite on rank 1 alone, once."""
    broken = [False]

    def score(model: nn.Module, users: Tensor, items: Tensor) -> Tensor:
        scores = model(users, items)
        return scores * torch.nan if rank == 1 and broken[0] else scores

    run = Run(2, rank, score_fn=score)
    broken[0] = True
    for batch in run.batches(0):
        run.denoiser.before_step(batch)
        run.denoiser.step(batch)
    found = refusal(run.denoiser.end_epoch)
    broken[0] = False
    run.denoiser.end_epoch()
    return {"first": found, "epochs": len(run.denoiser.history)}


@case
def one_rank_knows_no_pair(rank: int, _: Path) -> Any:
    """Rank 1 alone has trained on pairs that nobody handed over, when the epoch ends."""
    run = Run(2, rank)
    for place, batch in enumerate(run.batches(0)):
        if rank == 1 and place == 1:
            users = torch.zeros(5, dtype=torch.int64)
            seen = run.data.ids(users.new_zeros(30), torch.arange(30)) >= 0
            batch = (users, torch.arange(30)[~seen][:5], users)
        run.denoiser.before_step(batch)
        run.denoiser.step(batch)
    found = refusal(run.denoiser.end_epoch)
    run.denoiser.end_epoch()
    return {"first": found, "epochs": len(run.denoiser.history)}


@case
def fully_sharded(rank: int, _: Path) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:  # before torch 2.6
        return "absent"
    run = Run()
    model = fully_shard(run.bare, mesh=init_device_mesh("cpu", (2,)))
    return refusal(
        lambda: SelfGuidedDenoiser(
            model, torch.optim.Adam(model.parameters()), bpr_loss, interactions=run.pairs()
        )
    )


@case
def synchronised(rank: int, _: Path) -> Any:
    run = Run(2, rank)
    run.bare.norm = nn.SyncBatchNorm(3)  # the engine itself takes it on GPUs alone
    return refusal(
        lambda: SelfGuidedDenoiser(
            run.model, torch.optim.Adam(run.model.parameters()), bpr_loss, interactions=run.pairs()
        )
    )


@case
def bare_model(rank: int, _: Path) -> Any:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = Run()
    before = [p.detach().clone() for p in run.bare.parameters()]
    batch = run.batches(0)[rank]
    run.denoiser.before_step(batch)
    run.denoiser.step(batch)
    moved = [a - b.detach() for a, b in zip(before, run.bare.parameters(), strict=True)]
    return {"said": [str(one.message) for one in said], "moved": moved}


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2,
        timeout=timedelta(seconds=60),
    )  # fmt: skip
    for name, function in CASES.items():
        try:
            found = function(rank, folder)
        except Exception:  # told to the test; the other cases go on
            found = {"error": traceback.format_exc()}
        torch.save(found, folder / f"{name}-{rank}.pt")
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
