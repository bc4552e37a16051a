from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from results import PROVENANCE, made_up, put

from examples.reproduction.grids import Trial
from examples.reproduction.run_settings import settings_of
from examples.reproduction.store import ResultStore

RUN = settings_of("d", "neumf", "natural", "plain", Trial(0.1, 0.2), 4)


def test_what_is_put_is_got_also_by_another_store(tmp_path: Path) -> None:
    put(ResultStore(tmp_path / "new"), RUN, valid=0.25)
    store = ResultStore(tmp_path / "new")
    assert store.get(RUN) == made_up(valid=0.25)
    assert store.provenance(RUN) == PROVENANCE


def test_other_settings_have_no_result(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    put(store, RUN)
    assert store.get(replace(RUN, seed=5)) is None


def test_a_run_appears_after_it_was_missed(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    assert store.get(RUN) is None
    put(store, RUN)
    assert store.get(RUN) is not None


def test_an_interrupted_write_leaves_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("examples.reproduction.store.os.replace", interrupted)
    store = ResultStore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        put(store, RUN)
    assert store.get(RUN) is None
