"""Records go to TensorBoard and MLflow by the lines of the page, and are read back from files.

Skipped where these are not installed: `pip install "sgdl-wrap[loggers]"`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sgdl_wrap import SelfGuidedDenoiser
from tests.promises.runs import LEARNING, Factors, denoiser, epochs, train

PAGE = Path(__file__).resolve().parents[3] / "docs" / "pictures.md"


def on_epoch_of(logger: str, **names: Any) -> Any:
    """The page's function for a logger, with the names that it takes from around it."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^def on_epoch\(record\):  # {logger}.*\n(?: +.*\n)+", text, re.MULTILINE)
    assert found is not None
    exec(found[0], names)  # it is our own page
    return names["on_epoch"]


def trained(on_epoch: Any) -> SelfGuidedDenoiser:
    """Three epochs, the last two in Phase II."""
    wrapped = denoiser(Factors(), config=LEARNING, on_epoch=on_epoch)
    for batches in epochs(3):
        train(wrapped, batches)
    assert len(wrapped.history) == 3
    return wrapped


def expected(wrapped: SelfGuidedDenoiser) -> dict[str, list[tuple[int, float]]]:
    """The numbers of each name, by epoch."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in wrapped.history:
        for name, value in record.scalars().items():
            found.setdefault(name, []).append((record.epoch, value))
    return found


def test_tensorboards_event_files_hold_every_number_of_every_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        wrapped = trained(on_epoch_of("TensorBoard", writer=writer))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = {
        tag.removeprefix("sgdl/"): [(e.step, e.value) for e in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    assert found.keys() == expected(wrapped).keys()
    for name, values in expected(wrapped).items():
        assert found[name] == [(epoch, pytest.approx(value)) for epoch, value in values]


def test_mlflows_file_store_holds_every_number_of_every_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    try:
        with mlflow.start_run() as run:
            wrapped = trained(on_epoch_of("MLflow", mlflow=mlflow))
        client = mlflow.MlflowClient()
        found = {
            name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            for name in client.get_run(run.info.run_id).data.metrics
        }
    finally:
        mlflow.set_tracking_uri(before)
    assert found == expected(wrapped)
