"""Warnings point at the line of the user that they are about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import sgdl_wrap
from sgdl_wrap import DenoiserConfig, DenoiserWarning, SelfGuidedDenoiser
from tests.support.models_zoo import WATCHING, tiny_data, tiny_denoiser, tiny_lightgcn, triple_epoch

DATA = tiny_data()
BATCHES = triple_epoch(DATA, 0)
CASES: dict[str, Callable[[pytest.MonkeyPatch], Callable[[], Any]]] = {}


def case(prepare: Callable[[pytest.MonkeyPatch], Callable[[], Any]]) -> Any:
    CASES[prepare.__name__] = prepare
    return prepare


def built(**changes: Any) -> SelfGuidedDenoiser:
    return tiny_denoiser(DATA, **{"config": WATCHING, **changes})


def line_of(call: Callable[[], Any]) -> int:
    """The one line of a call that is written as a lambda here."""
    return call.__code__.co_firstlineno


# ------------------------------------------------------------------ at construction


def bpr(model: nn.Module, batch: Any) -> Tensor:
    users, items, negatives = batch
    return -nn.functional.logsigmoid(model(users, items) - model(users, negatives))


@case
def parameters_that_are_not_the_models(_: pytest.MonkeyPatch) -> Callable[[], Any]:
    model = tiny_lightgcn(DATA)
    optimizer = torch.optim.Adam([*model.parameters(), nn.Parameter(torch.ones(3))])
    pairs = DATA.tensors()
    return lambda: SelfGuidedDenoiser(model, optimizer, bpr, interactions=pairs)


@case
def a_compiled_model(_: pytest.MonkeyPatch) -> Callable[[], Any]:
    model = tiny_lightgcn(DATA)
    compiled = torch.compile(model, backend="eager")
    optimizer, pairs = torch.optim.Adam(model.parameters()), DATA.tensors()
    return lambda: SelfGuidedDenoiser(compiled, optimizer, bpr, interactions=pairs)


@case
def a_bare_model_of_several_processes(patch: pytest.MonkeyPatch) -> Callable[[], Any]:
    patch.setattr(dist, "is_initialized", lambda: True)
    patch.setattr(dist, "get_world_size", lambda: 2)
    model, pairs = tiny_lightgcn(DATA), DATA.tensors()
    optimizer = torch.optim.Adam(model.parameters())
    return lambda: SelfGuidedDenoiser(model, optimizer, bpr, interactions=pairs)


@case
def pairs_that_repeat(_: pytest.MonkeyPatch) -> Callable[[], Any]:
    model = tiny_lightgcn(DATA)
    pairs = tuple(torch.cat([column, column[:5]]) for column in DATA.tensors())
    optimizer = torch.optim.Adam(model.parameters())
    return lambda: SelfGuidedDenoiser(model, optimizer, bpr, interactions=pairs)


# ------------------------------------------------------------------ in the loop


@case
def pairs_that_are_unknown(_: pytest.MonkeyPatch) -> Callable[[], Any]:
    denoiser = built()
    users, items, negatives = BATCHES[0]
    batch = (users, (items + 1) % DATA.n_items, negatives)
    return lambda: denoiser.before_step(batch)


@case
def a_batch_that_no_state_can_hold(_: pytest.MonkeyPatch) -> Callable[[], Any]:
    denoiser = built(
        loss_fn=lambda model, batch: bpr(model, batch["columns"]),
        pair_fn=lambda batch: batch["columns"][:2],
    )
    batch = {"columns": BATCHES[0], "more": {1, 2}}
    return lambda: denoiser.before_step(batch)


def about_to_time_out(*, explicit: bool) -> SelfGuidedDenoiser:
    config = DenoiserConfig(history_length=1, noise_rate=0.0, switch_timeout=1)
    denoiser = built(config=config, explicit_epochs=explicit)
    for batch in BATCHES[:-1]:
        denoiser.before_step(batch)
        denoiser.step(batch)
    denoiser.before_step(BATCHES[-1])
    return denoiser


@case
def a_time_out_at_a_step(_: pytest.MonkeyPatch) -> Callable[[], Any]:
    denoiser = about_to_time_out(explicit=False)
    return lambda: denoiser.step(BATCHES[-1])


@case
def a_time_out_at_an_epochs_end(_: pytest.MonkeyPatch) -> Callable[[], Any]:
    denoiser = about_to_time_out(explicit=True)
    denoiser.step(BATCHES[-1])
    return lambda: denoiser.end_epoch()


@case
def parameters_that_were_exchanged(_: pytest.MonkeyPatch) -> Callable[[], Any]:
    model = tiny_lightgcn(DATA)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    config = DenoiserConfig(history_length=1, noise_rate=0.9)
    denoiser = built(model=model, optimizer=optimizer, config=config)
    for batch in BATCHES:
        denoiser.before_step(batch)
        denoiser.step(batch)
    model.user_embedding.weight = nn.Parameter(model.user_embedding.weight.detach().clone())
    optimizer.add_param_group({"params": [model.user_embedding.weight]})
    return lambda: denoiser.before_step(BATCHES[0])


@pytest.mark.parametrize("name", CASES)
def test_the_line_told_of_is_the_users(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = CASES[name](monkeypatch)
    with pytest.warns(DenoiserWarning) as said:
        call()
    assert len(said) == 1
    assert (said[0].filename, said[0].lineno) == (__file__, line_of(call))


def test_user_code_that_torch_calls_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    construct = CASES["pairs_that_repeat"](monkeypatch)

    class Trainer(nn.Module):
        def forward(self) -> Any:
            return construct()

    @torch.enable_grad()  # a frame of torch between the two
    def through_torch() -> Any:
        return Trainer()()

    with pytest.warns(DenoiserWarning) as said:
        through_torch()
    assert (said[0].filename, said[0].lineno) == (__file__, line_of(construct))


def test_the_library_warns_by_this_alone() -> None:
    folder = Path(sgdl_wrap.__file__).parent
    found = [path.name for path in folder.rglob("*.py") if "warnings.warn" in path.read_text()]
    assert found == ["notices.py"]
