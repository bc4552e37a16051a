"""Each example is one file: a copy of it runs with the package alone."""

from __future__ import annotations

import ast
import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from examples import audit_my_log, quickstart
from sgdl_wrap.testing import planted_clicks
from tests.examples.conftest import ROOT, Run

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("[!_]*.py"))
# what the package needs itself, and the libraries of the examples that are named after them
OF_FRAMEWORKS = {
    "accelerate": "accelerate", "lightning": "lightning", "recbole": "recbole",
    "transformers": "huggingface",
}
THIRD_PARTY = {"matplotlib", "numpy", "sklearn", "torch", "sgdl_wrap", *OF_FRAMEWORKS}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_imports_nothing_that_is_not_installed_with_the_package(name: str) -> None:
    tree = ast.parse((ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    strange = imported - sys.stdlib_module_names - THIRD_PARTY
    assert strange == set()
    assert all(framework in name for one, framework in OF_FRAMEWORKS.items() if one in imported)


def test_there_is_a_run_of_each_example() -> None:
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in EXAMPLES if f'"{name}"' not in tests] == []


def test_the_quickstart_compares_plain_and_denoised_training(run_alone: Run) -> None:
    printed = run_alone("quickstart", "--epochs", "18", "--picture", "page.png")
    rows = re.findall(r"^(plain|denoised) +(0\.\d{4}) +(\d+) +(0\.\d{4})$", printed, re.M)
    assert [row[0] for row in rows] == ["plain", "denoised"]
    assert all(float(row[1]) > 0.2 for row in rows)
    found = re.search(r"switch after epoch (\d+); noise share between .*, in truth 0\.20", printed)
    assert found is not None
    assert 10 <= int(found[1]) < 18
    auc = re.search(r"finds the noise with AUC (0\.\d+)", printed)
    assert auc is not None
    assert float(auc[1]) > 0.75
    weights = re.search(r"mean weight of clean clicks (\S+), of noise (\S+)", printed)
    assert weights is not None
    assert float(weights[1]) > float(weights[2])


def write_ratings(path: Path, *, header: str, separator: str) -> None:
    clicks = planted_clicks(n_users=60, n_items=120, clicks_per_user=20)
    ratings = np.where(clicks.is_noise, 1, 4)
    columns = zip(clicks.users.tolist(), clicks.items.tolist(), ratings.tolist(), strict=True)
    lines = [separator.join((f"u{u}", f"i{i}", str(rating), "9")) for u, i, rating in columns]
    path.write_text("\n".join([header, *lines] if header else lines), encoding="utf-8")


@pytest.mark.parametrize(
    ("header", "separator"), [("userId,movieId,rating,timestamp", ","), ("", "\t")]
)
def test_files_of_ratings_are_read(tmp_path: Path, header: str, separator: str) -> None:
    file = tmp_path / "ratings"
    write_ratings(file, header=header, separator=separator)
    truth = planted_clicks(n_users=60, n_items=120, clicks_per_user=20)
    clicks = quickstart.read(file, least_clean_rating=3.0)
    assert len(clicks.users) + len(clicks.test_users) == len(truth.users)
    assert clicks.is_noise.sum() == truth.is_noise.sum()
    users, items, *_ = audit_my_log.read(file)
    assert sorted(users) == sorted(f"u{user}" for user in truth.users.unique().tolist())
    assert sorted(items) == sorted(f"i{item}" for item in truth.items.unique().tolist())


@pytest.mark.parametrize(("name", "epochs"), [("neumf", 7), ("lightgcn", 14)])
def test_a_model_is_denoised_and_evaluated(run_alone: Run, name: str, epochs: int) -> None:
    printed = run_alone(name, "--epochs", str(epochs))
    values = re.findall(r"^epoch \d+: (\w+), NDCG@20 (0\.\d+)$", printed, re.M)
    assert len(values) == epochs
    assert values[-1][0] == "self_guided"
    switch = re.search(r"^switch after epoch (\d+), noise share \(low, high\) \(0\.", printed, re.M)
    assert switch is not None
    assert 5 <= int(switch[1]) < epochs  # no sooner than half a history
    if name == "neumf":
        plain = run_alone(name, "--epochs", "2", "--plain")
        assert re.findall(r"NDCG@20 (0\.\d+)", plain) == [value for _, value in values[:2]]


def test_ones_own_model_finds_more_noise_than_chance(run_alone: Run) -> None:
    printed = run_alone("wrap_your_own", "--epochs", "8")
    assert "epoch 8: self_guided" in printed
    found = re.search(r"most suspicious: (0\.\d+), among all: (0\.\d+)", printed)
    assert found is not None
    first, all_ = map(float, found.groups())
    assert first > all_ + 0.3


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(run_alone: Run) -> None:
    whole = run_alone("resume", "--checkpoint", "whole.pt", "--epochs", "8")
    assert "epoch 8: self_guided" in whole
    first = run_alone("resume", "--checkpoint", "cut.pt", "--epochs", "7")
    rest = run_alone("resume", "--checkpoint", "cut.pt", "--epochs", "8")
    assert rest.startswith("goes on after epoch 7\n")
    assert first + rest.partition("\n")[2] == whole


def test_a_log_is_audited(run_alone: Run, tmp_path: Path) -> None:
    printed = run_alone("audit_my_log", "--epochs", "12", "--top", "4", "--out", "out.csv")
    assert re.search(r"^noise share between 0\.\d\d and 0\.\d\d$", printed, re.M)
    told = r"noise is 0\.20 of all clicks and (0\.\d+) of the first 1,000; AUC (0\.\d+)"
    found = re.search(told, printed)
    assert found is not None
    assert float(found[1]) > 0.5
    assert float(found[2]) > 0.75
    with open(tmp_path / "empty" / "out.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(planted_clicks().users)
    values = [float(row["suspicion"]) for row in rows]
    assert values == sorted(values, reverse=True)
    listed = printed.split("memorization rate\n")[1].splitlines()[:4]
    assert [line.split()[:2] for line in listed] == [[r["user"], r["item"]] for r in rows[:4]]


def test_a_log_is_audited_by_its_own_names(run_alone: Run, tmp_path: Path) -> None:
    write_ratings(tmp_path / "log.csv", header="user,item,rating", separator=",")
    printed = run_alone("audit_my_log", "--data", str(tmp_path / "log.csv"), "--epochs", "2")
    assert printed.startswith("60 users, 120 items, ")
    assert "AUC" not in printed  # nobody knows
    with open(tmp_path / "empty" / "audit.csv", newline="", encoding="utf-8") as file:
        pairs = {(row["user"], row["item"]) for row in csv.DictReader(file)}
    clicks = planted_clicks(n_users=60, n_items=120, clicks_per_user=20)
    named = zip(clicks.users.tolist(), clicks.items.tolist(), strict=True)
    assert pairs == {(f"u{user}", f"i{item}") for user, item in named}
