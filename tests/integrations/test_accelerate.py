"""Accelerate's own loop with the denoiser in it: prepare, accumulate, autocast, checkpoints."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from sgdl_wrap import (
    DenoiserConfig,
    Phase,
    SelfGuidedDenoiser,
    StateError,
    load_checkpoint,
    save_checkpoint,
)
from sgdl_wrap.guiding.weighting import WeightingFunction
from tests.promises.test_training_features import ITEMS, N_ITEMS, USERS, Factors, bpr
from tests.support.models_zoo import assert_identical, seeded, weights_of_one, without
from tests.units.ranks.test_following import assert_follow

pytest.importorskip("accelerate")

from tests.integrations.accelerate_runs import EPOCHS, SOON, STEPS, TOGETHER, Run, reset

FEATURES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "accumulation": {"share": 2},
    "bf16": {"precision": "bf16"},
}
EACH = pytest.mark.parametrize("feature", FEATURES)


@pytest.fixture(autouse=True)
def _one_accelerator_each() -> Iterator[None]:
    reset()
    yield
    reset()


def trained(config: DenoiserConfig | None, **how: Any) -> Run:
    reset()
    run = Run(config, **how)
    run.train()
    return run


@EACH
def test_phase_one_is_the_plain_loop_bit_for_bit(feature: str) -> None:
    plain = trained(None, **FEATURES[feature]).outcome()
    run = trained(DenoiserConfig(), **FEATURES[feature])
    assert run.denoiser.phase is Phase.MEMORIZATION
    assert len(run.denoiser.history) == EPOCHS
    assert_identical(run.outcome(), plain)


@EACH
def test_weights_of_one_change_nothing(feature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WeightingFunction, "forward", weights_of_one)
    plain = trained(None, **FEATURES[feature]).outcome()
    run = trained(SOON, **FEATURES[feature])
    assert run.denoiser.memorization_point == 1
    assert run.denoiser.history[-1].mean_weight == 1.0
    assert_identical(run.outcome(), plain)


@EACH
def test_phase_two_is_the_librarys_own_loop_bit_for_bit(feature: str) -> None:
    how = FEATURES[feature]
    run = trained(SOON, **how)
    reset()
    batches = Run(None)  # its loader gives the same batches
    with seeded(3):
        model = Factors()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    denoiser = SelfGuidedDenoiser(
        model, optimizer, bpr, interactions=(USERS, ITEMS), n_items=N_ITEMS, config=SOON
    )
    share, mixed = how.get("share", 1), "precision" in how
    for epoch in range(EPOCHS):
        batches.loader.set_epoch(epoch)
        for place, batch in enumerate(batches.loader, 1):
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                denoiser.before_step(batch)
                loss = denoiser.weighted_loss(batch)
            (loss / share).backward()
            if place % share == 0:
                optimizer.step()
                optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            denoiser.end_epoch()
        schedule.step()
    assert denoiser.memorization_point == run.denoiser.memorization_point == 1
    assert_identical(run.outcome()["model"], dict(model.state_dict()))
    plain = trained(None, **how).outcome()
    with pytest.raises(AssertionError):
        assert_identical(run.outcome()["model"], plain["model"])


@pytest.mark.parametrize("step", [3, 4, 5, 8, 11])
@pytest.mark.parametrize("share", [1, 2])
def test_resumed_amid_an_epoch_or_at_its_end_it_ends_bit_for_bit_as_undisturbed(
    step: int, share: int, tmp_path: Path
) -> None:
    whole = trained(SOON, share=share).everything()
    reset()
    saved = Run(SOON, share=share)
    saved.train(step - step % share)
    saved.accelerator.save_state(str(tmp_path))
    reset()
    run = Run(SOON, share=share)
    run.accelerator.load_state(str(tmp_path))
    run.step = saved.step
    run.train()
    assert_identical(run.everything(), whole)
    state = load_checkpoint(tmp_path / "denoiser-0.pt")["denoiser"]
    assert len(state["history"]) == saved.step // STEPS


def test_accelerates_own_registration_serves_one_process_as_well(tmp_path: Path) -> None:
    run = Run(None)
    denoiser = SelfGuidedDenoiser(
        run.model, run.optimizer, bpr, interactions=(USERS, ITEMS), n_items=N_ITEMS, config=SOON
    )
    run.accelerator.register_for_checkpointing(denoiser)
    run.denoiser = denoiser
    run.train(6)
    run.accelerator.save_state(str(tmp_path))
    run.train(7)
    run.accelerator.load_state(str(tmp_path))
    assert denoiser.state_dict()["epoch"]["batches"] == 2


def test_a_checkpoint_without_the_denoiser_is_refused_before_anything_changes(
    tmp_path: Path,
) -> None:
    plain = Run(None)
    plain.train(3)
    plain.accelerator.save_state(str(tmp_path))
    reset()
    run = Run(SOON)
    before = run.outcome()
    with pytest.raises(StateError, match=r"^Expected denoiser-0\.pt in the checkpoint .* got none"):
        run.accelerator.load_state(str(tmp_path))
    assert_identical(run.outcome(), before)


def test_the_state_of_another_configuration_is_refused_before_anything_changes(
    tmp_path: Path,
) -> None:
    other = Run(SOON.but(meta_lr=0.1))
    other.train(3)
    other.accelerator.save_state(str(tmp_path))
    reset()
    run = Run(SOON)
    before = run.everything()
    with pytest.raises(StateError, match=r"differs in meta_lr"):
        run.accelerator.load_state(str(tmp_path))
    assert_identical(run.everything(), before)


def _one_bit_of_the_losses_flipped(whole: bytes) -> bytes:
    """In the bytes of a tensor, which torch.load does not check."""
    state = torch.load(io.BytesIO(whole), weights_only=True)["parts"]["denoiser"]
    held = state["tracker"]["losses"].numpy().tobytes()
    assert whole.count(held) == 1
    altered = bytearray(whole)
    altered[whole.index(held) + 2] ^= 1
    return bytes(altered)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda whole: whole[: len(whole) // 2],
    "ten bytes": lambda whole: whole[:10],
    "empty": lambda whole: b"",
    "text": lambda whole: b"denoiser: yes\n",
    "one bit": _one_bit_of_the_losses_flipped,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_name_before_anything_changes(
    damage: str, tmp_path: Path
) -> None:
    saved = Run(SOON)
    saved.train(3)
    saved.accelerator.save_state(str(tmp_path))
    file = tmp_path / "denoiser-0.pt"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    reset()
    run = Run(SOON)
    before = run.everything()
    with pytest.raises(
        StateError,
        match=r"^Expected a whole checkpoint, got .*denoiser-0\.pt with(out its| another) digest: ",
    ):
        run.accelerator.load_state(str(tmp_path))
    assert_identical(run.everything(), before)


def test_a_file_of_something_else_is_refused_by_name(tmp_path: Path) -> None:
    run = Run(SOON)
    run.accelerator.save_state(str(tmp_path))
    save_checkpoint(tmp_path / "denoiser-0.pt", model=run.model)
    with pytest.raises(StateError, match=r"^Expected the denoiser in .*denoiser-0\.pt, got"):
        run.accelerator.load_state(str(tmp_path))


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    run = Run(SOON)
    (tmp_path / "denoiser-0.pt").mkdir()
    with pytest.raises(StateError, match=r"^Expected the path of a file, got a folder at .*0\.pt"):
        run.accelerator.load_state(str(tmp_path))


def test_where_the_file_cannot_be_written_the_one_of_before_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(SOON)
    run.train(3)
    run.accelerator.save_state(str(tmp_path))
    before = (tmp_path / "denoiser-0.pt").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    run.train(5)
    with pytest.raises(StateError, match=r"^Expected to write .*denoiser-0\.pt, got OSError"):
        run.accelerator.save_state(str(tmp_path))
    assert (tmp_path / "denoiser-0.pt").read_bytes() == before


def _killed_after_the_denoisers_file(run: Run, folder: Path) -> None:
    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = run.accelerator.register_save_state_pre_hook(kill)  # behind the denoiser's
    with pytest.raises(KeyboardInterrupt):
        run.accelerator.save_state(str(folder))
    handle.remove()


def test_a_kill_in_a_new_folder_is_told_at_loading_and_in_an_old_one_is_not(
    tmp_path: Path,
) -> None:
    """What the page says of folders."""
    run = Run(SOON)
    run.train(3)
    run.accelerator.save_state(str(tmp_path / "old"))
    early = run.outcome()
    run.train(6)
    for name in ("old", "new"):
        _killed_after_the_denoisers_file(run, tmp_path / name)
    late = run.everything()
    with pytest.raises(FileNotFoundError):
        run.accelerator.load_state(str(tmp_path / "new"))
    run.accelerator.load_state(str(tmp_path / "old"))
    assert_identical(run.outcome(), early)
    assert_identical(run.everything()["denoiser"]["history"], late["denoiser"]["history"])


# ------------------------------------------------------------------ NaN


def test_the_pages_line_refuses_gradients_that_are_not_finite_and_changes_no_others() -> None:
    page = (Path(__file__).parents[2] / "docs" / "accelerate.md").read_text()
    (line,) = re.findall(r"`(torch\.nn\.utils\..*)`", page)
    run = Run(SOON)
    batch = next(iter(run.loader))
    names = {"torch": torch, "model": run.model}
    run.accelerator.backward(run.loss(batch))
    before = [p.grad.clone() for p in run.model.parameters()]
    exec(line, names)
    assert_identical([p.grad for p in run.model.parameters()], before)
    run.model.top.weight.register_hook(lambda gradient: gradient * torch.nan)
    run.accelerator.backward(run.loss(batch))  # which the denoiser does not look at
    with pytest.raises(RuntimeError, match="non-finite"):
        exec(line, names)


# ------------------------------------------------------------------ two processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left, and before them one."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch is built without gloo")
    folder = tmp_path_factory.mktemp("accelerate")
    reset()
    alone = Run(TOGETHER, double=True)
    alone.train(10)
    alone.accelerator.save_state(str(folder / "alone"))
    reset()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "tests.integrations.accelerate_runs", str(folder),
    ]  # fmt: skip
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return folder


@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_resume_each_from_its_own_state_bit_for_bit(folder: Path, rank: int) -> None:
    whole, resumed = (
        torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for name in ("whole", "resumed")
    )
    assert whole["denoiser"]["ranks"] == [rank, 2]
    assert len(whole["denoiser"]["history"]) == EPOCHS
    assert_identical(resumed, whole)


def test_a_checkpoint_of_two_processes_goes_on_with_one(folder: Path) -> None:
    run = Run(SOON)
    run.accelerator.load_state(str(folder / "step-10"))
    assert [record.epoch for record in run.denoiser.history] == [1, 2]
    run.step = 10
    run.train()
    assert len(run.denoiser.history) == EPOCHS


def test_all_processes_go_by_the_number_that_rank_0s_file_says(folder: Path) -> None:
    """Rank 1 finds a file of its own, of two processes, in a folder that one has saved into."""
    assert (folder / "stale" / "denoiser-1.pt").exists()
    one = load_checkpoint(folder / "alone" / "denoiser-0.pt")["denoiser"]
    for rank in (0, 1):
        state = torch.load(folder / f"merged-{rank}.pt", weights_only=True)["denoiser"]
        assert state["ranks"] == [rank, 2]
        assert_identical(state["history"], without(one["history"], "seconds"))
        assert_identical(state["tracker"], one["tracker"])
        assert state["epoch"]["batches"] == one["epoch"]["batches"] == 2


@pytest.mark.parametrize("name", ["together", "alone"])
def test_two_processes_train_what_one_trains_on_whole_batches(folder: Path, name: str) -> None:
    """From the first step on, and from the checkpoint of one process amid an epoch."""
    one = Run(TOGETHER, double=True)
    one.train()
    assert one.denoiser.memorization_point == 1
    two = [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert_follow(two, one.followed())
    assert_identical(two[0]["model"], two[1]["model"])


REASONS = {
    "missing": r"Expected denoiser-1\.pt in the checkpoint .*missing, got none\.",
    "torn": r"Expected a whole checkpoint, got .*denoiser-1\.pt without its digest: torn",
    "mixed": r"Expected files of one save in .*mixed, got denoiser-1\.pt of another one than",
    "foreign": r"Expected the state of this configuration, got one that differs in meta_lr\.",
    "full": r"Expected to write .*denoiser-1\.pt, got OSError: .*No space left",
}


@pytest.mark.parametrize("name", REASONS)
def test_what_one_process_refuses_all_refuse(folder: Path, name: str) -> None:
    """That nothing has changed on any of them, they have looked at themselves."""
    for rank in (0, 1):
        said = (folder / f"{name}-{rank}.txt").read_text()
        assert re.match(REASONS[name], said), said
        assert ("It came up on rank 1 of 2." in said) == (rank == 0)


@pytest.mark.parametrize("name", ["missing", "torn", "mixed"])
def test_one_process_refuses_a_checkpoint_of_two_with_a_file_at_fault(
    folder: Path, name: str
) -> None:
    run = Run(SOON)
    before = run.everything()
    with pytest.raises(StateError, match=REASONS[name]):
        run.accelerator.load_state(str(folder / name))
    assert_identical(run.everything(), before)


def test_where_two_had_saved_one_process_leaves_its_own_file_alone(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("denoiser-0.pt", "denoiser-1.pt"):
        shutil.copy(folder / "step-10" / name, tmp_path)
    (tmp_path / "denoiser-mine.pt").touch()  # the user's
    run = Run(SOON)
    run.accelerator.save_state(str(tmp_path))
    left = sorted(path.name for path in tmp_path.glob("denoiser-*"))
    assert left == ["denoiser-0.pt", "denoiser-mine.pt"]
    run.accelerator.load_state(str(tmp_path))


def test_on_two_processes_a_model_that_was_not_prepared_is_refused(folder: Path) -> None:
    said = (folder / "refused-1.txt").read_text()
    assert said.startswith(
        "Expected the model in DistributedDataParallel, as 2 processes train it, got Factors."
    )
