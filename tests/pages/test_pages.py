"""Every Python block of README.md and docs/ runs, one after the other, as a reader would run them.

A page may suppose some names at hand, as it says itself; GIVEN makes them. What a page promises
beyond running is looked at afterwards, in AFTER. Pages of optional packages are run where these are
tested.
"""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import sgdl_wrap
from sgdl_wrap import EpochRecord, Phase, SelfGuidedDenoiser
from tests.promises.test_training_features import ITEMS, USERS, Factors, bpr, in_lists

ROOT = Path(__file__).resolve().parents[2]
RUN_ELSEWHERE = {
    "docs/accelerate.md", "docs/audit.md", "docs/huggingface.md", "docs/lightning.md",
    "docs/models_you_have_not_written.md", "docs/recbole.md",
}  # fmt: skip
Names = dict[str, Any]


def blocks(page: str) -> list[str]:
    """The Python blocks of a page, in order, each at its line so that errors name the place."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return ["\n" * text.count("\n", 0, block.start(1)) + block[1] for block in found]


_ALL = ["README.md", *(p.relative_to(ROOT).as_posix() for p in sorted(ROOT.glob("docs/**/*.md")))]
PAGES = [page for page in _ALL if page not in RUN_ELSEWHERE and blocks(page)]


# ------------------------------------------------------------------ what is at hand


def of_training(place: Path) -> Names:
    """A model, a loader, a loss and the observed pairs."""
    return {
        "model": Factors(), "loss_fn": bpr, "loader": in_lists(0), "users": USERS, "items": ITEMS,
    }  # fmt: skip


def of_distributed(place: Path) -> Names:
    """What a script under torchrun has; here it is alone in its group, on a CPU."""
    recommender = Factors()
    optimizer = torch.optim.Adam(recommender.parameters(), lr=0.01)
    pairs = TensorDataset(USERS, ITEMS, (ITEMS + 1) % 30)
    kept = SelfGuidedDenoiser(recommender, optimizer, bpr, interactions=(USERS, ITEMS))
    torch.save(kept.state_dict(), place / "denoiser-0.pt")

    def init_process_group(backend: str) -> None:
        assert backend == "nccl"
        store = f"file://{place}/store"
        dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)

    return {
        "torch": torch, "dist": SimpleNamespace(init_process_group=init_process_group),
        "DistributedDataParallel": DistributedDataParallel, "DataLoader": DataLoader,
        "DistributedSampler": DistributedSampler, "recommender": recommender, "pairs": pairs,
        "optimizer": optimizer, "loss_fn": bpr, "users": USERS, "items": ITEMS, "batch_size": 64,
        "epochs": 2, "SelfGuidedDenoiser": SelfGuidedDenoiser, "old_number_of_ranks": 1,
        "merge_states": sgdl_wrap.merge_states,
    }  # fmt: skip


def of_pictures(place: Path) -> Names:
    """A denoiser after two epochs, and what it was built of."""
    recommender = Factors()
    optimizer = torch.optim.Adam(recommender.parameters(), lr=0.01)
    denoiser = SelfGuidedDenoiser(recommender, optimizer, bpr, interactions=(USERS, ITEMS))
    for epoch in range(2):
        for batch in in_lists(epoch):
            denoiser.before_step(batch)
            denoiser.step(batch)
        denoiser.end_epoch()
    return {
        "denoiser": denoiser, "SelfGuidedDenoiser": SelfGuidedDenoiser, "model": recommender,
        "optimizer": optimizer, "loss_fn": bpr, "users": USERS, "items": ITEMS,
    }  # fmt: skip


def of_arguments(place: Path) -> Names:
    """The same amid an epoch."""
    names = of_pictures(place)
    return names | {"torch": torch, "batch": next(iter(in_lists(2)))}


GIVEN: dict[str, Callable[[Path], Names]] = {
    "docs/arguments.md": of_arguments,
    "docs/training.md": of_training,
    "docs/distributed.md": of_distributed,
    "docs/pictures.md": of_pictures,
}


# ------------------------------------------------------------------ what is promised


def after_readme(names: Names, printed: str, place: Path) -> None:
    denoiser = names["denoiser"]
    assert len(denoiser.history) == 60
    assert denoiser.phase is Phase.SELF_GUIDED
    assert printed.startswith("Denoised from epoch ")


def after_quickstart(names: Names, printed: str, place: Path) -> None:
    assert names["denoiser"].phase is Phase.SELF_GUIDED
    assert "memorization" in printed
    assert "self_guided" in printed
    assert (place / "audit.csv").exists()


def after_training(names: Names, printed: str, place: Path) -> None:
    assert names["first_epoch"] == 1
    record = names["record"]
    assert isinstance(record, EpochRecord)
    assert record.skipped == 0
    assert "0 batches left out" in printed
    assert [file.name for file in place.iterdir()] == ["run.pt"]


def after_wrapping(names: Names, printed: str, place: Path) -> None:
    assert printed.count("Phase.SELF_GUIDED") == 6, printed  # every layout comes to Phase II


def after_distributed(names: Names, printed: str, place: Path) -> None:
    assert isinstance(names["denoiser"].model, DistributedDataParallel)
    assert len(names["states"]) == 1


def after_pictures(names: Names, printed: str, place: Path) -> None:
    assert (place / "page.png").stat().st_size > 10_000
    assert "Not yet switched: 2 of at least 11 epochs" in printed
    assert logging.getLogger("sgdl_wrap").level == logging.INFO


AFTER: dict[str, Callable[[Names, str, Path], None]] = {
    "README.md": after_readme,
    "docs/index.md": after_quickstart,
    "docs/training.md": after_training,
    "docs/wrap_your_own.md": after_wrapping,
    "docs/distributed.md": after_distributed,
    "docs/pictures.md": after_pictures,
}


# ------------------------------------------------------------------ the tests


@pytest.fixture
def own_streams_and_group() -> Iterator[None]:
    """Pages are users' code: they draw from the global stream, set up logs, may open a group."""
    loggers = [logging.getLogger(), logging.getLogger("sgdl_wrap")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
    if dist.is_available() and dist.is_initialized():
        gc.collect()  # torch's wrapper refers to itself, and must not outlive the group
        dist.destroy_process_group()


@pytest.mark.usefixtures("own_streams_and_group")
@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs_after_the_other(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if page == "docs/distributed.md" and not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this torch is built without gloo")
    monkeypatch.chdir(tmp_path)
    names: Names = {"__name__": page, **GIVEN.get(page, lambda place: {})(tmp_path)}
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)  # it is our own page
    if page in AFTER:
        AFTER[page](names, capsys.readouterr().out, tmp_path)
    names.clear()


def test_the_pages_that_are_run_are_those_with_code() -> None:
    assert {*GIVEN, *AFTER} <= set(PAGES)
    assert "docs/settings.md" in PAGES


def test_a_block_keeps_the_lines_of_its_page() -> None:
    lines = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8").splitlines()
    (block,) = blocks("docs/settings.md")
    number = block.splitlines().index("from sgdl_wrap import DenoiserConfig")
    assert lines[number] == "from sgdl_wrap import DenoiserConfig"


FIGURES = re.compile(r"(?<![\w.])\d*\.\d{2,}(?!\d)")


@pytest.mark.parametrize("page", ["docs/settings.md", "docs/limits.md"])
def test_figures_stand_where_they_were_measured(page: str) -> None:
    """A copy of a figure that its source no longer has is found out."""
    sources = [
        "bench/results/README.md", "docs/performance.md", "bench/results/denoising.md",
        "bench/results/denoising_cdae_ngcf.md", "bench/results/figures/figures.md",
        "bench/results/table3.md",
    ]  # fmt: skip
    measured = set()
    for source in sources:
        measured |= set(FIGURES.findall((ROOT / source).read_text(encoding="utf-8")))
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"`[^`]*`", "", text)  # settings are no measurements
    assert set(FIGURES.findall(text)) <= measured


def test_settings_has_figures_to_look_at() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert {".3719", ".3294", "0.217"} <= set(FIGURES.findall(text))
