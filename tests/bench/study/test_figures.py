from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.provenance import current_provenance
from bench.study import figures
from bench.study.drawings import FIGURES


def made_up(switch: int | None = 3, crossing: int | None = 4) -> dict[str, Any]:
    memorization = {
        "clean": [0.0, 0.3, 0.7, 0.8, 0.9],
        "noisy": [0.0, 0.1, 0.2, 0.3, 0.5],
        "precision": [None, 0.9, 0.85, 0.8, 0.75],
    }
    return {
        "true_noise_rate": 0.25, "noise_rate": 0.2, "switch": switch, "crossing": crossing,
        "plain": memorization, "sgdl": memorization,
        "losses": {
            "edges": [0.0, 0.5, 1.0], "clean": [30, 10], "noisy": [2, 8],
            "mixture": {"means": [0.2, 0.7], "variances": [0.01, 0.02], "weights": [0.8, 0.2]},
        },
        "weights": {
            "edges": [0.0, 0.5, 1.0], "clean": [10, 30], "noisy": [8, 2], "loss": [0.1, 2.0],
            "low": [0.5, 0.1], "middle": [0.6, 0.2], "high": [0.7, 0.3],
        },
    }  # fmt: skip


@pytest.mark.parametrize("name", list(FIGURES))
@pytest.mark.parametrize("epoch", [3, None])
def test_each_figure_is_drawn_with_a_switch_and_without(name: str, epoch: int | None) -> None:
    figure = FIGURES[name]({"NeuMF": made_up(), "LightGCN": made_up(epoch, epoch)})
    titles = " ".join(panel.get_title() for panel in figure.axes)
    assert "NeuMF" in titles
    assert "LightGCN" in titles


def test_lines_of_figure_1_are_the_memory_rates() -> None:
    figure = FIGURES["figure1"]({"NeuMF": made_up()})
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].get_lines()}
    assert lines["clean"] == made_up()["plain"]["clean"]
    assert lines["noisy"] == made_up()["plain"]["noisy"]
    assert "memorization point: 3" in lines


def test_figure_3_marks_where_precision_and_recall_meet() -> None:
    panel = FIGURES["figure3"]({"NeuMF": made_up()}).axes[0]
    marks = {line.get_label(): line.get_xdata()[0] for line in panel.get_lines()}
    assert (marks["MP = MR: 4"], marks["switch: 3"]) == (4, 3)


def test_table_tells_the_estimate_and_the_switch_beside_what_they_should_be() -> None:
    settings = {"condition": "natural", "model": "neumf"}
    text = figures.numbers([{"settings": settings, "trace": made_up()}])
    cells = [cell.strip() for cell in text.splitlines()[-1].strip("|").split("|")]
    assert cells == [
        "natural", "neumf", "0.250", "0.200", "0.050", "3", "4", "0.80 / 0.30", "0.90 / 0.50",
        "0.90 / 0.50",
    ]  # fmt: skip
    never = figures.numbers([{"settings": settings, "trace": made_up(None, None)}])
    assert never.count("not reached") == 2


def test_command_draws_writes_and_makes_no_trace_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(
        figures,
        "make_trace",
        lambda settings, data, tell: made.append(settings.model) or made_up(),
    )
    arguments = [
        "--data", "generated", "--out", str(tmp_path), "--conditions", "natural", "--models",
        "neumf",
    ]  # fmt: skip
    figures.main(arguments)
    assert made == ["neumf"]
    pictures = {path.name: path.stat().st_size for path in tmp_path.glob("*.png")}
    assert set(pictures) == {f"{name}-natural.png" for name in FIGURES}
    assert all(0 < size < 150_000 for size in pictures.values())
    page = (tmp_path / "figures.md").read_text()
    assert "--models neumf --conditions natural --seed 0" in page
    assert current_provenance()["commit"] in page
    assert str(tmp_path) not in page
    assert all(f"]({name})" in page for name in pictures)  # shown, not only drawn
    (tmp_path / "figure1-natural.png").unlink()
    monkeypatch.setattr("bench.study.drawings.FIGURES", {"figure1": FIGURES["figure1"]})
    figures.main(arguments)
    assert len(made) == 1
    assert (tmp_path / "figure1-natural.png").exists()
    figures.main([*arguments, "--seed", "1"])  # other settings, made anew
    assert len(made) == 2
    lines = (tmp_path / "traces.jsonl").read_text().splitlines()
    assert [json.loads(line)["settings"]["seed"] for line in lines] == [0, 1]


def test_a_report_alone_draws_what_is_there_without_data(tmp_path: Path) -> None:
    old = {"settings": {"model": "neumf", "condition": "natural", "seed": 0, "epochs": 5,
                        "learning_rate": 0.1, "l2": 0.2, "data": "d-1", "denoiser": {"gone": 1}},
           "provenance": {"commit": "abc1234"}, "trace": made_up()}  # fmt: skip
    (tmp_path / "traces.jsonl").write_text(json.dumps(old) + "\n")
    arguments = ["--only-report", "--out", str(tmp_path), "--models", "neumf", "--conditions"]
    figures.main([*arguments, "natural"])
    assert "Commit abc1234." in (tmp_path / "figures.md").read_text()
    with pytest.raises(SystemExit, match=r"^Expected a trace of neumf, clean, seed 0, got none\."):
        figures.main([*arguments, "clean"])


def test_figures_want_data_or_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        figures.main([])
    assert "expected --data FOLDER, or --only-report" in capsys.readouterr().err
