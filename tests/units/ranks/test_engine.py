"""What holds a model on several processes, looked at in a group of one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bench.models.lightgcn import bpr_loss
from sgdl_wrap import DenoiserConfig, Phase, SelfGuidedDenoiser, UnsupportedModelError
from tests.support.models_zoo import (
    MLPScorer,
    assert_identical,
    seeded,
    tiny_data,
    triple_epoch,
)

DATA = tiny_data()
SHARDED = r"^Expected whole parameters on every rank, got a model under FSDP, which holds a shard "


@pytest.fixture(autouse=True)
def _group(tmp_path: Path) -> Iterator[None]:
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch is built without gloo")
    meeting = f"file://{tmp_path / 'meeting'}"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.")  # of what it deprecates, and of CPUs
        dist.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def mesh() -> Any:
    return pytest.importorskip("torch.distributed.device_mesh").init_device_mesh("cpu", (1,))


def fully_shard(module: nn.Module) -> None:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this torch has no fully_shard")
    fsdp.fully_shard(module, mesh=mesh())


def old_fsdp(model: nn.Module) -> nn.Module:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    wrapped: nn.Module = fsdp.FullyShardedDataParallel(model, device_id=torch.device("cpu"))
    return wrapped


def new_fsdp(model: nn.Module) -> nn.Module:
    fully_shard(model)
    return model


def new_fsdp_of_a_part(model: Any) -> nn.Module:
    fully_shard(model.tower)
    return model


def compiled_fsdp(model: nn.Module) -> nn.Module:
    return torch.compile(new_fsdp(model), backend="eager")


def tensor_parallel(model: nn.Module) -> nn.Module:
    parallel = pytest.importorskip("torch.distributed.tensor.parallel")
    parallel.parallelize_module(model, mesh(), {"tower.0": parallel.ColwiseParallel()})
    return model


def compiled_engine(model: nn.Module) -> nn.Module:
    return torch.compile(DistributedDataParallel(model), backend="eager")


def engine_of_a_wrapper(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(torch.compile(model, backend="eager"))


REFUSED = {
    old_fsdp: SHARDED,
    new_fsdp: SHARDED,
    new_fsdp_of_a_part: SHARDED,
    compiled_fsdp: SHARDED,
    tensor_parallel: r"^Expected whole parameters on every rank, got 'tower\.0\.weight' as a DTens",
    compiled_engine: r"^Expected DistributedDataParallel around the compiled model, got torch\.com",
    engine_of_a_wrapper: r"^Expected torch\.compile around the whole model, got it around what Dis",
}


@pytest.mark.parametrize("wrap", REFUSED, ids=lambda wrap: wrap.__name__)
def test_it_is_refused_with_the_remedy_before_training(wrap: Any) -> None:
    model = wrap(MLPScorer(DATA.n_users, DATA.n_items))
    before = copy.deepcopy([p.detach() for p in model.parameters()])
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(UnsupportedModelError, match=REFUSED[wrap]) as caught:
        SelfGuidedDenoiser(model, optimizer, bpr_loss, interactions=DATA.tensors())
    assert any(word in str(caught.value) for word in ("Use Distributed", "compile()"))
    for p, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(torch.as_tensor(p.detach()), value)


@pytest.mark.filterwarnings("ignore:Expected an eager model and loss")
def test_an_engine_around_a_model_compiled_in_place_trains_as_the_model() -> None:
    outcomes = []
    for compiled in (False, True):
        with seeded(3):
            model: Any = MLPScorer(DATA.n_users, DATA.n_items)
        if compiled:
            model.compile(backend="aot_eager")
        engine = DistributedDataParallel(model)
        denoiser = SelfGuidedDenoiser(
            engine, torch.optim.Adam(engine.parameters(), lr=0.02), bpr_loss,
            interactions=DATA.tensors(), n_items=DATA.n_items,
            config=DenoiserConfig(history_length=1, noise_rate=0.9, guidance_interval=2),
        )  # fmt: skip
        for epoch in range(2):
            for batch in triple_epoch(DATA, epoch):
                denoiser.before_step(batch)
                denoiser.step(batch)
            denoiser.end_epoch()
        assert denoiser.phase is Phase.SELF_GUIDED
        outcomes.append(copy.deepcopy(model.state_dict()))
    torch.testing.assert_close(*outcomes)
    assert_identical(list(outcomes[0]), list(outcomes[1]))
