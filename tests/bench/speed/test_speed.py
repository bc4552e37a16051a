from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.speed import measurement
from bench.speed.__main__ import main
from bench.speed.cases import CASES, chosen
from bench.speed.table import COLUMNS, markdown
from bench.speed.timing import CYCLE, LARGE_CYCLE, Spread, in_turn
from bench.speed.variants import SCHEDULERS, memorizing, self_guided, variant_names
from bench.speed.workload import build
from sgdl_wrap import DenoiserConfig, Phase, Variants


def run(tmp_path: Path, *options: str) -> tuple[dict[str, Any], str]:
    """The JSON and the Markdown of the command with toy sizes on one thread."""
    files = [tmp_path / "found.json", tmp_path / "found.md"]
    main([
        "--quick", "--steps", "2", "--threads", "1", *options,
        "--json", str(files[0]), "--markdown", str(files[1]),
    ])  # fmt: skip
    return json.loads(files[0].read_text(encoding="utf-8")), files[1].read_text(encoding="utf-8")


def test_writes_every_column_to_json_and_markdown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, table = run(tmp_path, "--rows", "neumf-128")
    assert table in capsys.readouterr().out
    assert set(found["environment"]) >= {"torch", "python", "numpy", "cores", "commit"}
    (row,) = found["rows"]
    assert row["failed"] == {}
    assert (row["row"], row["threads"], row["rounds"]) == ("neumf-128", 1, 1)
    assert set(row["steps"]) == set(variant_names()) - {"plain"}
    for entry in row["steps"].values():
        assert 0 < entry["ms"]["lower"] <= entry["ms"]["median"] <= entry["ms"]["upper"]
        assert entry["ratio"] == entry["ms"]["median"] / entry["plain_ms"]["median"] > 0
    assert row["end_of_epoch"]["ratio"] > 0
    assert row["end_of_epoch"]["scores_ms"]["median"] > 0
    assert row["loop"]["ratio"] > 1
    assert row["memory_mib"]["plain"] > 0
    assert {"phase1", "lstm", "fast"} <= set(row["memory_mib"])
    assert None not in row["memory_mib"].values()

    lines = [line for line in table.splitlines() if line.startswith("|")]
    header, _, cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert tuple(header) == COLUMNS
    assert len(cells) == len(COLUMNS)
    assert "–" not in cells


def test_large_rows_and_sparse_tables_are_measured_beside_plain_one_by_one(
    tmp_path: Path,
) -> None:
    before = torch.get_num_threads()
    found, table = run(tmp_path, "--no-memory", "--rows", "mf-5m-sparse")
    (row,) = found["rows"]
    plains = {entry["plain_ms"]["median"] for entry in row["steps"].values()}
    assert len(plains) == len(row["steps"]) > 1
    assert "SparseAdam †" in table
    assert torch.get_num_threads() == before


def test_a_variant_that_raises_leaves_a_gap_and_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    made = measurement.make

    def make(name: str, workload: Any) -> Any:
        if name == "mlp":
            raise RuntimeError("no such\nway")
        return made(name, workload)

    monkeypatch.setattr(measurement, "make", make)
    workload = build(CASES["mf-10k"].shrunk(), None)
    row = measurement.measure(workload, threads=1, steps=1)
    assert row["failed"] == {"mlp": "RuntimeError: no such\nway"}
    assert set(row["steps"]) == set(variant_names()) - {"plain", "mlp"}
    about = dict.fromkeys(("torch", "python", "numpy", "cpu", "cores", "commit"))
    table = markdown({"environment": about, "rows": [{**row, "memory_mib": {}}]})
    assert "- mf-10k, 1 threads, mlp: RuntimeError: no such way" in table


@pytest.mark.parametrize("name", ["neumf-128", "lightgcn-128", "two-tower-1024", "mf-10k"])
def test_denoisers_stand_in_the_phase_that_is_measured(name: str) -> None:
    workload = build(CASES[name].shrunk(), None)
    assert memorizing(workload).phase is Phase.MEMORIZATION
    for scheduler in SCHEDULERS:
        config = DenoiserConfig(variants=Variants(denoising_scheduler=scheduler))  # type: ignore[arg-type]
        denoiser = self_guided(workload, config)
        assert denoiser.phase is Phase.SELF_GUIDED
        assert 0.7 < denoiser.history[0].memorized_ratio < 0.9
        assert denoiser.config.variants.denoising_scheduler == scheduler


def test_steps_are_taken_in_turn_on_the_same_batches() -> None:
    seen: list[tuple[str, int]] = []
    steps = {name: lambda batch, name=name: seen.append((name, batch)) for name in "ab"}
    times = in_turn(steps, [1, 2, 3], 3)  # type: ignore[arg-type, list-item]
    assert [name for name, _ in seen[::CYCLE]] == ["a", "b", "b", "a", "a", "b"]
    for start in range(0, len(seen), CYCLE):
        assert len({name for name, _ in seen[start : start + CYCLE]}) == 1
    of_a = [batch for name, batch in seen if name == "a"]
    assert of_a == [batch for name, batch in seen if name == "b"]
    assert of_a == [place % 3 + 1 for place in range(3 * CYCLE)]
    assert {name: len(taken) for name, taken in times.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize("config", [DenoiserConfig(), DenoiserConfig.fast()])
def test_a_cycle_holds_whole_guidance_intervals(config: DenoiserConfig) -> None:
    assert CYCLE % config.guidance_interval == 0
    assert LARGE_CYCLE % config.guidance_interval == 0


def test_spread_is_median_and_quartiles() -> None:
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_rows_are_chosen_by_name_or_by_size() -> None:
    assert [case.name for case in chosen(["mf-10k", "neumf-128"], quick=False)] == [
        "mf-10k", "neumf-128",
    ]  # fmt: skip
    assert [case.name for case in chosen(["all"], quick=False)] == list(CASES)
    assert not any(case.large for case in chosen(["small"], quick=False))
    assert all(case.toy for case in chosen(["all"], quick=True))
    with pytest.raises(
        ValueError, match=r"^Expected rows out of all, small, neumf-128, .*, got rows\. Name some"
    ):
        chosen(["rows"], quick=False)
