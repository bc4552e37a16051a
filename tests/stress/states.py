"""State dicts damaged at random places.

`load_state_dict` refuses by `StateError`, and the denoiser, the model and the random streams are as
before. Or it loads, an epoch of training and all that is asked then works, and the damage was to
nothing: the state is the one that was saved.
"""

from __future__ import annotations

import copy
import math
import os
import random
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sgdl_wrap import DenoiserConfig, Phase, SelfGuidedDenoiser, StateError, merge_states
from tests.stress.short_runs import (
    DATA,
    PER_EPOCH,
    STEPS,
    Setup,
    ShortRun,
    difference,
    factors,
    losses,
)
from tests.stress.trials import Trials, Wrong, told
from tests.support.models_zoo import seeded, stream_states, triple_epoch

TRIES = 700
# set-up, and the step before which its state is taken
SETUPS = {
    "Phase I": (Setup(config={"history_length": 50, "noise_rate": None}), 6),
    "ranking": (Setup("lightgcn"), 10),
    "pointwise": (Setup("neumf", pointwise=True, config={"guidance_interval": 1}), 11),
    "smoothed": (
        Setup(
            pointwise=True,
            config={"weight_inputs": ("loss", "smoothed_loss"), "noise_rate": None,
                    "switch_timeout": 1, "denoising_scheduler": "mlp"},
        ),
        9,
    ),
    "merged": (Setup(explicit=True, config={"history_length": 2}), 10),
}  # fmt: skip


def prepare(seed: int, tries: int | None) -> Trials:
    """Every trial damages one state at one place."""
    states = {}
    for name, (setup, step) in SETUPS.items():
        if name == "merged":
            if dist.is_available() and dist.is_gloo_available():
                states[name] = _merged(setup, step)
            continue
        run = _trained(setup, step)
        if (run.denoiser.phase is Phase.MEMORIZATION) != (name == "Phase I"):
            raise RuntimeError(f"{run.denoiser.phase} in the run of {setup}")
        states[name] = run.denoiser.state_dict()

    def trial(number: int) -> None:
        draw = random.Random(f"states {seed} {number}")
        name = draw.choice(sorted(states))
        while True:
            damaged = copy.deepcopy(states[name])
            what = f"{name}: {damage(damaged, draw)}"
            if difference(damaged, states[name]):
                break
        with seeded(number):
            _loaded(SETUPS[name][0], states[name], damaged, what)

    return Trials(range(TRIES if tries is None else tries), trial, alone=True)


def _loaded(setup: Setup, whole: dict[str, Any], damaged: dict[str, Any], what: str) -> None:
    run = _trained(setup, 2)
    denoiser = run.denoiser
    before = run.everything()
    streams = stream_states()
    try:
        denoiser.load_state_dict(damaged)
    except StateError:
        if changed := difference(run.everything(), before):
            raise Wrong("refused, but changed", f"{what}: {changed}") from None
        return
    except Exception as error:
        raise Wrong(f"bare {type(error).__name__}", f"{what}: {told(error)}") from error
    if difference(stream_states(), streams):
        raise Wrong("loading draws", what)
    try:
        found = denoiser.state_dict()
        for step in range(PER_EPOCH):
            batch = run.batch(step)
            denoiser.before_step(batch)
            denoiser.step(batch)
        denoiser.end_epoch()
        denoiser.report()
        denoiser.state_dict()
    except Exception as error:
        raise Wrong("loads, and fails later", f"{what}: {told(error)}") from error
    if not all(torch.isfinite(p).all() for p in run.parameters().values()):
        raise Wrong("loads, and parameters become NaN", what)
    if taken := difference(clockless(found), clockless(whole)):
        raise Wrong("loads another value", f"{what}: {taken}")


def clockless(tree: Any, name: Any = None) -> Any:
    """A state in which every reading of the clock that can be one is 0."""
    if isinstance(tree, dict):
        return {key: clockless(value, key) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(clockless(value) for value in tree)
    if name in ("seconds", "plain_seconds") and type(tree) in (int, float) and 0 <= tree < 1e9:
        return 0.0
    return tree


def _trained(setup: Setup, until: int) -> ShortRun:
    with seeded(17):
        run = ShortRun(setup)
        for step in range(until):
            batch = run.batch(step % STEPS)
            run.denoiser.before_step(batch)
            run.denoiser.step(batch)
            if setup.explicit and step % PER_EPOCH == PER_EPOCH - 1:
                run.denoiser.end_epoch()
    return run


# ------------------------------------------------------------------ damage


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all nodes but the root."""
    if isinstance(tree, dict):
        parts: Any = tree.items()
    elif isinstance(tree, (list, tuple)):
        parts = enumerate(tree)
    else:
        parts = ()
    for name, value in parts:
        yield (*path, name)
        yield from places(value, (*path, name))


def damage(state: dict[str, Any], draw: random.Random) -> str:
    """Damages a state in place; what was done, in a line."""
    every = list(places(state))
    if draw.random() < 0.5:  # else the many entries of config and optimizer have it all
        depth = draw.randrange(1, 4)
        every = [path for path in every if len(path) <= depth]
    path = draw.choice(every)
    value = state
    for name in path:
        value = value[name]
    how, new = draw.choice(list(_damages(value, draw)))
    _put(state, path, new)
    return f"{'.'.join(map(str, path))} {how}"


def _put(tree: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Replaces what is at a path; a tuple on the way is built anew."""
    if not path:
        return new
    replaced = _put(tree[path[0]], path[1:], new)
    if isinstance(tree, tuple):
        return (*tree[: path[0]], replaced, *tree[path[0] + 1 :])
    tree[path[0]] = replaced
    return tree


WRONG_TYPES: tuple[Any, ...] = ("text", b"bytes", 7, 0.5, True, [], {}, (1, 2), {"a": 1}, [None])


def _damages(value: Any, draw: random.Random) -> Iterator[tuple[str, Any]]:
    yield "is None", None
    wrong = draw.choice([w for w in WRONG_TYPES if type(w) is not type(value)])
    yield f"is {wrong!r}", wrong
    yield "is a tensor", torch.zeros(draw.choice([(), (1,), (0,), (3, 2)]))
    if isinstance(value, Tensor):
        yield from _of_tensor(value, draw)
    elif isinstance(value, bool):
        yield "is the other bool", not value
    elif isinstance(value, (int, float)):
        yield "is negative", -abs(value) - 1
        yield "is huge", draw.choice([2**62, 10**40, 1e30])
        yield "is not finite", draw.choice([math.nan, math.inf])
    elif isinstance(value, str):
        yield "is another string", draw.choice(["", "other", value + " "])
    elif isinstance(value, dict):
        name = draw.choice(list(value) or ["a"])
        yield f"lacks {name!r}", {k: v for k, v in value.items() if k != name}
        more = draw.choice(["more", 3, None, (1, "a"), 2.5])
        yield f"has {more!r}, too", {**value, more: draw.choice([None, 1, torch.zeros(2)])}
        yield f"has {name!r} as a number", {
            (5 if k == name else k): v for k, v in value.items()
        }
    elif isinstance(value, (list, tuple)):
        kind = type(value)
        yield "is truncated", value[:-1]
        yield "is reversed", value[::-1]
        yield "has its first twice", kind([*value[:1], *value])
        yield "is of another kind", tuple(value) if kind is list else list(value)


def _of_tensor(value: Tensor, draw: random.Random) -> Iterator[tuple[str, Any]]:
    others = [torch.float64, torch.float16, torch.int32, torch.bool, torch.complex64, torch.uint8]
    other = draw.choice([dtype for dtype in others if dtype is not value.dtype])
    yield f"is {other}", value.to(other)
    yield "has one dimension more", value[None]
    yield "is empty", value.new_zeros(0)
    yield "is a list", value.tolist()
    if value.ndim:
        yield "is shorter", value[:-1].clone()
        yield "is longer", torch.cat([value, value[:1]])
    if value.is_floating_point():
        yield "is NaN", torch.full_like(value, math.nan)
        yield "is infinite", torch.full_like(value, math.inf)
        yield "is huge", torch.full_like(value, 1e30)
        yield "is negative", -value.abs() - 1
    elif value.dtype != torch.bool:
        yield "is huge", torch.full_like(value, torch.iinfo(value.dtype).max)
        if value.dtype != torch.uint8:
            yield "is negative", -value.abs() - 1


# ------------------------------------------------------------------ two processes


def _merged(setup: Setup, until: int) -> dict[str, Any]:
    """The states of two ranks that know different users, as one."""
    with tempfile.TemporaryDirectory(prefix="stress-states-") as folder:
        children = [
            _forked(lambda rank=rank: _rank(setup, until, rank, Path(folder))) for rank in (0, 1)
        ]
        statuses = [os.waitpid(child, 0)[1] for child in children]
        if any(statuses):
            raise RuntimeError("the two ranks failed")
        paths = [Path(folder) / f"{rank}.pt" for rank in (0, 1)]
        return merge_states([torch.load(path, weights_only=True) for path in paths])


def _rank(setup: Setup, until: int, rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = DistributedDataParallel(factors())
    users, items = DATA.tensors()
    own = users % 2 == rank
    denoiser = SelfGuidedDenoiser(
        model, torch.optim.Adam(model.parameters(), lr=0.02),
        lambda model, batch: losses(setup, model, batch),
        interactions=(users[own], items[own]), n_items=DATA.n_items, explicit_epochs=True,
        config=DenoiserConfig().but(
            **{"history_length": 1, "noise_rate": 0.9, "guidance_interval": 2, **setup.config}
        ),
    )  # fmt: skip
    for step in range(until):
        epoch, place = divmod(step, PER_EPOCH)
        columns = triple_epoch(DATA, epoch)[place]
        own = columns[0] % 2 == rank
        batch = tuple(column[own] for column in columns)
        denoiser.before_step(batch)
        denoiser.step(batch)
        if place == PER_EPOCH - 1:
            denoiser.end_epoch()
    torch.save(denoiser.state_dict(), folder / f"{rank}.pt")
    dist.barrier()


def _forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child
