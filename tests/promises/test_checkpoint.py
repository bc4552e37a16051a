"""Nothing is ever lost: kills, full disks, torn and foreign files, and files of other runs."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sgdl_wrap import (
    DenoiserConfig,
    DenoiserError,
    OrderError,
    StateError,
    load_checkpoint,
    save_checkpoint,
)
from tests.support.crafted_files import crafted
from tests.support.models_zoo import assert_identical, seeded, tiny_data, without
from tests.support.resume_in_fresh_process import Run

TORN = r"^Expected a whole checkpoint, got .* without its digest: torn, truncated, foreign or of"
CHANGED = r"^Expected a whole checkpoint, got .* with another digest: changed or damaged since"
ROOT = Path(__file__).parents[2]


def parts(run: Run) -> dict[str, Any]:
    return {"denoiser": run.denoiser, "model": run.model, "optimizer": run.optimizer}


def states(run: Run) -> Any:
    return copy.deepcopy(without(run.checkpoint(), "seconds"))


def trained(steps: int, case: str = "neumf tuple", **changes: Any) -> Run:
    with seeded(17):
        run = Run(case, **changes)
        run.train(steps)
    return run


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("saved") / "run.pt"
    save_checkpoint(place, **parts(trained(10)), step=10)
    return place


# ------------------------------------------------------------------ whole files


def test_everything_comes_back_and_the_rest_is_returned(saved: Path) -> None:
    run = trained(3)
    rest = load_checkpoint(saved, **parts(run))
    assert rest == {"step": 10}
    run.step = 10
    found, expected = states(run), states(trained(10))
    for name in ("denoiser", "model", "optimizer"):
        assert_identical(found[name], expected[name])


def test_a_generator_draws_again_what_it_drew(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    save_checkpoint(tmp_path / "run.pt", generator=generator)
    drawn = torch.rand(5, generator=generator)
    load_checkpoint(tmp_path / "run.pt", generator=generator)
    assert torch.equal(torch.rand(5, generator=generator), drawn)


def test_keys_are_the_models_own_and_torch_reads_the_file(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    assert list(content["parts"]["model"]) == list(trained(0).model.state_dict())


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link.pt").symlink_to(tmp_path / "run.pt")
    save_checkpoint(tmp_path / "link.pt", epoch=1)
    assert (tmp_path / "link.pt").is_symlink()
    assert load_checkpoint(tmp_path / "run.pt") == {"epoch": 1}


def test_nothing_is_saved_between_before_step_and_step(tmp_path: Path) -> None:
    run = trained(1)
    run.denoiser.before_step(run.batch())
    with pytest.raises(OrderError, match=r"^Expected state_dict between steps"):
        save_checkpoint(tmp_path / "run.pt", **parts(run))
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ kills


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of a process")
def test_a_run_killed_at_twenty_points_ends_bit_for_bit_as_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.support.killed_and_resumed", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    kills = json.loads((tmp_path / "kills.json").read_text())
    assert len(kills) == 20
    assert sum(kill["saving"] for kill in kills) == 10  # the others died in training
    half_written = sum(kill["saving"] and kill["partial"] for kill in kills)
    assert half_written >= 5  # else no death came while a file was written
    # the points are drawn in calls, and how many a step takes is not the same in all processes
    assert len({kill["step"] for kill in kills}) >= 3
    expected = without(load_checkpoint(tmp_path / "whole-False.pt"), "seconds")
    assert expected["denoiser"]["self_guided"] is not None
    finished = sorted(tmp_path.glob("killed-*.pt"))
    assert finished
    for place in finished:
        assert_identical(without(load_checkpoint(place), "seconds"), expected)


# ------------------------------------------------------------------ full disks

SAVE_LIMITED = """
import resource, sys, torch
from sgdl_wrap import StateError, save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    save_checkpoint(sys.argv[1], table=torch.zeros(100_000), epoch=2)
except StateError as error:
    sys.stdout.write(str(error))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits file sizes")
@pytest.mark.parametrize("room", [0, 500, 70_000, 399_000])
def test_a_full_disk_leaves_the_file_of_before_and_no_litter(tmp_path: Path, room: int) -> None:
    place = tmp_path / "run.pt"
    save_checkpoint(place, epoch=1)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SAVE_LIMITED, str(place), str(room)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"Expected to write the checkpoint {place}, got OSError: ")
    assert "a file saved there before is as it was" in ran.stdout
    assert load_checkpoint(place) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [place]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"^Expected to write the checkpoint .*FileNotFoundError"):
        save_checkpoint(tmp_path / "nowhere" / "run.pt", epoch=1)


def test_a_missing_file_is_the_callers_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "run.pt")


# ------------------------------------------------------------------ torn and foreign files


def refused(place: Path, match: str, run: Run | None = None) -> None:
    """The file is refused by name, and nothing of the run has changed."""
    run = run or trained(6)
    before = states(run)
    with pytest.raises(StateError, match=match) as caught:
        load_checkpoint(place, **parts(run))
    assert str(place) in str(caught.value)
    assert_identical(states(run), before)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_file_is_refused(saved: Path, tmp_path: Path, share: float) -> None:
    whole = saved.read_bytes()
    (tmp_path / "torn.pt").write_bytes(whole[: int(share * len(whole))])
    refused(tmp_path / "torn.pt", TORN)


def test_a_file_torn_in_the_middle_is_refused(saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    middle = len(whole) // 2
    holed = whole[: middle - 4096] + bytes(8192) + whole[middle + 4096 :]
    (tmp_path / "torn.pt").write_bytes(holed)
    refused(tmp_path / "torn.pt", CHANGED)


class Evil:
    """What a pickle can do when it is loaded by others."""

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, ("executed",)


def test_code_in_a_file_is_never_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    crafted(tmp_path / "evil.pt", {"sgdl_wrap_checkpoint": 2, "parts": {"model": Evil()}})
    refused(tmp_path / "evil.pt", r"^Expected tensors and plain values alone, got .*mkdir in ")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil()))
    refused(tmp_path / "plain.pt", TORN)
    assert not (tmp_path / "executed").exists()


def test_a_number_of_numpy_is_saved_as_a_plain_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run.pt", best=np.float64(0.25), epoch=np.int64(3), done=np.True_)
    found = load_checkpoint(tmp_path / "run.pt")
    assert found == {"best": 0.25, "epoch": 3, "done": True}
    assert [type(value) for value in found.values()] == [float, int, bool]


def test_an_array_is_refused_with_what_to_save_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"; of an array torch\.from_numpy\(array\)\.$"):
        save_checkpoint(tmp_path / "run.pt", best=np.zeros(3))


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    place = tmp_path / "run.pt"
    save_checkpoint(place, epoch=1)
    with pytest.raises(StateError, match=r"^Expected tensors and plain values alone, got .*mkdir"):
        save_checkpoint(place, epoch=2, evil=Evil())
    with pytest.raises(StateError, match=r"^Expected to write .*lambda"):
        save_checkpoint(place, epoch=2, function=lambda: None)
    assert load_checkpoint(place) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [place]


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    torch.save(trained(0).model.state_dict(), tmp_path / "model.pt")
    refused(tmp_path / "model.pt", TORN)
    crafted(tmp_path / "model.pt", trained(0).model.state_dict())
    refused(tmp_path / "model.pt", "^Expected a checkpoint that save_checkpoint wrote, got another")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("one.txt", "one")
    refused(tmp_path / "photos.zip", TORN)
    (tmp_path / "notes.txt").write_text("notes")
    refused(tmp_path / "notes.txt", TORN)


def test_a_checkpoint_of_another_version_is_refused(saved: Path, tmp_path: Path) -> None:
    content = torch.load(saved, weights_only=True)
    crafted(tmp_path / "run.pt", {**content, "sgdl_wrap_checkpoint": 99})
    refused(tmp_path / "run.pt", "^Expected checkpoint format 2, got 99 in")
    torch.save({**content, "sgdl_wrap_checkpoint": 1}, tmp_path / "run.pt")
    refused(tmp_path / "run.pt", TORN + ".*or this one with the version of sgdl-wrap that wrote")


# ------------------------------------------------------------------ files of other runs


def test_checkpoints_of_other_runs_are_refused_before_anything_changes(saved: Path) -> None:
    users, items = tiny_data().tensors()
    refused(saved, "got that of another data set", trained(6, interactions=(users[1:], items[1:])))
    refused(saved, "got one with other parameters or shapes", trained(6, "lightgcn tuple"))
    config: DenoiserConfig = trained(0).denoiser.config
    other = trained(6, config=config.but(meta_lr=0.1))
    refused(saved, "got one that differs in meta_lr", other)


def test_a_part_that_does_not_fit_takes_the_others_back(saved: Path) -> None:
    """The denoiser and the model fit and are loaded; the optimizer then refuses."""
    run = trained(6)
    run.optimizer = torch.optim.Adam([next(run.model.parameters())])
    refused(saved, "^Expected the optimizer of the checkpoint .* to fit, got ValueError", run)


def test_parts_under_other_names_are_refused_by_name(saved: Path) -> None:
    run = trained(6)
    before = states(run)
    with pytest.raises(
        StateError, match=r"^Expected net in the checkpoint .*, got only denoiser, model, optimizer"
    ):
        load_checkpoint(saved, denoiser=run.denoiser, net=run.model)
    assert_identical(states(run), before)


def test_plain_values_cannot_take_their_state_back(saved: Path) -> None:
    with pytest.raises(DenoiserError, match=r"^Expected objects with load_state_dict, got int"):
        load_checkpoint(saved, step=3)


def test_a_long_name_of_letters_that_take_several_bytes_is_saved(tmp_path: Path) -> None:
    place = tmp_path / ("走" * 80 + ".pt")
    save_checkpoint(place, epoch=1)
    assert load_checkpoint(place) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [place]
