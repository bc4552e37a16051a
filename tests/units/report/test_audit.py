"""The audit: what each column is, its order, its files, and the mode that only watches."""

from __future__ import annotations

import copy
import csv
import pickle
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.mixture  # noqa: F401  (its import may draw from the streams: test_plain_equality)
import torch
from sklearn.metrics import roc_auc_score

from bench.data.planted_preferences import generate
from bench.training.fit import set_up, wrap
from bench.training.recipes import RECIPES_FOR_GENERATED_DATA
from sgdl_wrap import DenoiserConfig, DenoiserError, OrderError, Phase, SelfGuidedDenoiser
from sgdl_wrap.report.audit import Audit
from tests.support.models_zoo import (
    SWITCHING,
    WATCHING,
    assert_identical,
    labelled_epoch,
    seeded,
    snapshot,
    tiny_data,
    tiny_denoiser,
    train,
    triple_epoch,
    without,
)

DATA = tiny_data()
N = len(DATA)


def trained(kind: str = "lightgcn", epochs: int = 3, **changes: Any) -> SelfGuidedDenoiser:
    denoiser = tiny_denoiser(DATA, kind, **{"config": SWITCHING, **changes})
    train(denoiser, kind, epochs)
    return denoiser


def by_pair(audit: Audit) -> dict[tuple[int, int], Any]:
    return {(int(row["user"]), int(row["item"])): row for row in audit.rows}


@pytest.mark.parametrize("kind", ["lightgcn", "neumf"])
@pytest.mark.parametrize("config", [SWITCHING, WATCHING, WATCHING.but(audit_only=True)])
def test_every_interaction_has_one_row(kind: str, config: Any) -> None:
    denoiser = trained(kind, config=config)
    rows = by_pair(denoiser.report())
    pairs = zip(DATA.users.tolist(), DATA.items.tolist(), strict=True)
    assert set(rows) == set(pairs)
    assert len(rows) == len(denoiser.report()) == N


def test_suspicion_orders_the_rows_and_is_what_the_tracker_has() -> None:
    denoiser = trained(config=WATCHING.but(audit_only=True), epochs=3)
    audit, tracker = denoiser.report(), denoiser._epochs.tracker
    assert (np.diff(audit["suspicion"]) <= 0).all()
    by_id = np.sort(audit.rows, order=["user", "item"])
    assert by_id["suspicion"].tolist() == tracker.evidence.suspicion.tolist()
    probabilities = tracker.evidence.noise_probability(np.arange(N))
    assert by_id["noise_posterior"] == pytest.approx(probabilities)
    low, high = denoiser.noise_share
    assert low <= float(audit["noise_posterior"].mean()) <= high


def test_nothing_is_said_of_what_was_not_seen() -> None:
    denoiser = tiny_denoiser(DATA, "lightgcn", config=WATCHING)
    batch = triple_epoch(DATA, 0)[0]
    denoiser.before_step(batch)
    denoiser.step(batch)
    audit = denoiser.report()
    assert (~np.isnan(audit["loss"])).sum() == len(batch[0])
    for name in ("suspicion", "noise_posterior"):  # before the first epoch's end
        assert np.isnan(audit[name]).all()
    assert denoiser.noise_share is None


def test_weights_are_those_of_g_at_the_last_loss() -> None:
    denoiser = trained("neumf", epochs=3)
    psi = denoiser.state_dict()["self_guided"]["learner"]["weighting"]
    first, first_bias = psi["hidden.weight"].numpy(), psi["hidden.bias"].numpy()
    second, second_bias = psi["output.weight"].numpy(), psi["output.bias"].numpy()
    audit = denoiser.report()
    hidden = np.maximum(audit["loss"][:, None] @ first.T + first_bias, 0)
    expected = 1 / (1 + np.exp(-(hidden @ second[0] + second_bias[0])))
    np.testing.assert_allclose(audit["weight"], expected, rtol=1e-5)
    assert len(set(audit["weight"].tolist())) > 1


def test_in_the_middle_of_an_epoch_what_was_not_seen_yet_is_weighted_by_its_average() -> None:
    denoiser = trained("neumf", epochs=3)
    batch = labelled_epoch(DATA, 3)[0]
    denoiser.before_step(batch)
    denoiser.step(batch)
    audit = denoiser.report()
    unseen = np.isnan(audit["loss"])
    assert 0 < unseen.sum() < len(audit)
    g = denoiser._epochs.self_guided.learner.weighting
    for rows, name in ((unseen, "smoothed_loss"), (~unseen, "loss")):
        with torch.no_grad():
            expected = g(torch.from_numpy(audit[name][rows].copy())[:, None])
        np.testing.assert_allclose(audit["weight"][rows], expected, rtol=1e-5)


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_batch_of_negatives_alone_does_not_begin_what_is_seen_anew(epochs: int) -> None:
    config = SWITCHING if epochs == 3 else WATCHING
    denoiser = trained("neumf", epochs=epochs, config=config)
    before = denoiser.report()
    users, items, labels = labelled_epoch(DATA, 3)[0]
    batch = tuple(column[labels == 0] for column in (users, items, labels))
    denoiser.before_step(batch)
    denoiser.step(batch)
    assert denoiser.report()["loss"].tolist() == before["loss"].tolist()


def test_a_pair_that_the_loop_leaves_out_is_judged_by_its_users_too() -> None:
    denoiser = tiny_denoiser(DATA, "lightgcn", config=SWITCHING)  # g reads the suspicion
    for epoch in range(3):
        for batch in triple_epoch(DATA, epoch):
            kept = ~((batch[0] == DATA.users[0]) & (batch[1] == DATA.items[0]))
            batch = tuple(column[kept] for column in batch)
            denoiser.before_step(batch)
            denoiser.step(batch)
        denoiser.end_epoch()
    audit = denoiser.report()
    unseen = np.isnan(audit["loss"])
    assert unseen.sum() == 1
    g = denoiser._epochs.self_guided.learner.weighting
    with torch.no_grad():
        expected = g(torch.from_numpy(audit["suspicion"][unseen])[:, None])
    np.testing.assert_allclose(audit["weight"][unseen], expected, rtol=1e-6)


def test_in_phase_one_every_weight_is_one() -> None:
    assert (trained(config=WATCHING).report()["weight"] == 1).all()


def test_without_denoising_learning_weights_say_what_is_trained_on() -> None:
    audit = trained(config=SWITCHING.but(denoising_learning=False)).report()
    assert (audit["weight"] == audit["memorized"]).all()
    assert 0 < audit["memorized"].sum() < N


def test_memorized_are_those_that_guide() -> None:
    denoiser = trained()
    memorized = denoiser.state_dict()["self_guided"]["memorized"].tolist()
    users, items = denoiser.interactions.users, denoiser.interactions.items
    rows = by_pair(denoiser.report())
    found = [k for k in range(N) if rows[int(users[k]), int(items[k])]["memorized"]]
    assert found == memorized


@pytest.mark.parametrize("kind", ["lightgcn", "neumf"])
def test_what_was_memorized_at_the_switch_is_told_for_good(kind: str) -> None:
    assert not trained(kind, config=WATCHING).report()["memorized_at_switch"].any()
    first = by_pair(trained(kind, epochs=1).report())  # which is the epoch of the switch
    then = {pair for pair, row in first.items() if row["memorized"]}
    assert 0 < len(then) < N
    later = trained(kind, epochs=4)
    for denoiser in (later, restored(later, kind)):
        rows = by_pair(denoiser.report())
        assert {pair for pair, row in rows.items() if row["memorized_at_switch"]} == then
    assert {pair for pair, row in rows.items() if row["memorized"]} != then  # M has moved on


def restored(denoiser: SelfGuidedDenoiser, kind: str) -> SelfGuidedDenoiser:
    again = tiny_denoiser(DATA, kind, config=denoiser.config)
    again.load_state_dict(denoiser.state_dict())
    return again


def test_memorization_rates_are_those_of_equation_1() -> None:
    denoiser = trained(config=WATCHING, epochs=4)
    counts = denoiser._epochs.tracker.buffer.counts().tolist()
    rows = by_pair(denoiser.report())
    for k in range(N):
        pair = int(denoiser.interactions.users[k]), int(denoiser.interactions.items[k])
        expected = counts[k] / WATCHING.history_length
        assert float(rows[pair]["memorization_rate"]) == pytest.approx(expected)


def test_a_report_changes_nothing() -> None:
    quiet, curious = trained(epochs=3), tiny_denoiser(DATA, "lightgcn", config=SWITCHING)
    with seeded(23):
        for epoch in range(3):
            for batch in triple_epoch(DATA, epoch):
                curious.before_step(batch)
                curious.step(batch)
                curious.report()
    found, expected = (
        without(snapshot(one.model, *one._optimizers), "storages") for one in (curious, quiet)
    )
    assert_identical(found, expected)


def test_an_audit_alone_never_switches_and_smooths_from_the_start() -> None:
    denoiser = trained(config=SWITCHING.but(audit_only=True), epochs=5)
    assert trained(epochs=5).phase is Phase.SELF_GUIDED
    assert denoiser.phase is Phase.MEMORIZATION
    audit = denoiser.report()
    assert not np.isnan(audit["smoothed_loss"]).any()
    assert (audit["smoothed_loss"] != audit["loss"]).any()


def test_noise_is_found_better_than_by_the_loss_of_the_moment() -> None:
    data = generate(seed=0)
    training = set_up(RECIPES_FOR_GENERATED_DATA["lightgcn"], data, seed=0)
    denoiser = wrap(training, DenoiserConfig(audit_only=True))
    for _ in range(12):
        for batch in training.batches:
            denoiser.before_step(batch)
            denoiser.step(batch)
    rows = by_pair(denoiser.report())
    pairs = list(zip(data.train_users.tolist(), data.train_items.tolist(), strict=True))
    assert data.train_clean is not None
    found = {
        name: roc_auc_score(~data.train_clean, [float(rows[pair][name]) for pair in pairs])
        for name in ("suspicion", "loss")
    }
    assert found["suspicion"] > max(0.72, found["loss"])


# ------------------------------------------------------------------ files


def test_csv_holds_every_row_and_column(tmp_path: Any) -> None:
    audit = trained().report()
    audit.to_csv(tmp_path / "audit.csv")
    with open(tmp_path / "audit.csv", newline="", encoding="utf-8") as file:
        header, *lines = list(csv.reader(file))
    assert tuple(header) == audit.rows.dtype.names
    assert len(lines) == N
    for line, row in zip(lines, audit.rows, strict=True):
        assert (int(line[0]), int(line[1])) == (row["user"], row["item"])
        values = [float(text) for text in line[2:-2]]
        np.testing.assert_allclose(values, [float(x) for x in row.tolist()[2:-2]], rtol=1e-6)
        assert line[-2:] == [str(bool(row[name])) for name in header[-2:]]


def test_printed_it_is_its_first_rows_under_the_names_of_the_fields() -> None:
    audit = trained().report()
    first, names, *rows = repr(audit).splitlines()
    assert first == f"{len(audit)} interactions, the most suspicious first"
    assert names.split() == list(audit.rows.dtype.names)
    assert len(rows) == 10
    assert len({len(line) for line in [names, *rows]}) == 1
    assert rows[0].split()[:2] == [str(audit[0]["user"]), str(audit[0]["item"])]
    assert float(rows[0].split()[2]) == pytest.approx(audit[0]["suspicion"], abs=5e-4)
    assert repr(Audit(audit[:2])).count("\n") == 3
    assert repr(Audit(audit[:0])).startswith("0 interactions")


def test_rows_and_columns_are_taken_as_of_an_array() -> None:
    audit = trained().report()
    assert audit[:3]["user"].tolist() == audit["user"][:3].tolist()
    assert isinstance(audit, np.ndarray)
    assert len(audit) == len(list(audit)) == N
    assert type(np.asarray(audit)) is type(audit.rows) is np.ndarray
    assert np.shares_memory(audit.rows, audit)
    for row in (audit[0], next(iter(audit))):
        assert isinstance(row, np.void)
        assert row["user"] == audit["user"][0]


def test_every_column_is_a_plain_array_that_becomes_a_tensor() -> None:
    audit = trained().report()
    for part in (audit, audit[::2], audit[audit["memorized"]], audit[["user", "memorized"]]):
        for name in part.dtype.names:
            assert type(part[name]) is np.ndarray
            column = torch.from_numpy(part[name])
            torch.testing.assert_close(column, torch.tensor(part[name].tolist()).to(column.dtype),
                                       equal_nan=True)


PARTS: dict[str, Callable[[Audit], Any]] = {
    "slice": lambda audit: audit[5:20],
    "mask": lambda audit: audit[audit["memorized"]],
    "indices": lambda audit: audit[np.array([3, 1, 1])],
    "list of indices": lambda audit: audit[[0, 7]],
    "none": lambda audit: audit[:0],
    "some fields": lambda audit: audit[["user", "item", "suspicion"]],
    "sorted": lambda audit: np.sort(audit, order=["user", "item"]),
    "copy": copy.copy,
    "deep copy": copy.deepcopy,
    "pickle": lambda audit: pickle.loads(pickle.dumps(audit)),
    "rows": lambda audit: Audit(audit.rows[:4]),
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_part_of_a_report_is_a_report(kind: str, tmp_path: Any) -> None:
    audit = trained().report()
    part = PARTS[kind](audit)
    assert type(part) is Audit
    expected = PARTS[kind](audit.rows) if kind != "rows" else audit.rows[:4]
    names = part.dtype.names
    for name in names:
        np.testing.assert_array_equal(part[name], expected[name])
    assert repr(part).startswith(f"{len(part)} interactions")
    assert str(part) == repr(part)
    assert repr(part).splitlines()[1].split() == list(names)
    part.to_csv(tmp_path / "part.csv")
    with open(tmp_path / "part.csv", newline="", encoding="utf-8") as file:
        header, *lines = list(csv.reader(file))
    assert tuple(header) == names
    assert [(int(line[0]), int(line[1])) for line in lines] == [
        (row["user"], row["item"]) for row in part
    ]
    frame = pytest.importorskip("pandas").DataFrame(part)
    for table in (frame, part.to_pandas()):
        assert tuple(table.columns) == names
        assert [str(kind) for kind in table.dtypes] == [str(part.dtype[name]) for name in names]
        assert table["item"].tolist() == part["item"].tolist()
    part.to_parquet(tmp_path / "part.parquet")
    table = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "part.parquet")
    assert tuple(table.column_names) == names
    assert table["user"].to_pylist() == part["user"].tolist()


def test_only_rows_in_order_are_said_to_be_in_order() -> None:
    audit = trained().report()
    first = f"{N} interactions"
    assert repr(audit).splitlines()[0] == f"{first}, the most suspicious first"
    assert repr(audit[::-1]).splitlines()[0] == first
    assert repr(audit[["user", "item"]]).splitlines()[0] == first
    some = audit[:3].copy()
    some["suspicion"] = 0.5, 0.25, np.nan
    assert repr(some).splitlines()[0] == "3 interactions, the most suspicious first"
    assert repr(some[[0, 2, 1]]).splitlines()[0] == "3 interactions"


def test_reports_compare_row_by_row_and_are_true_if_they_have_rows() -> None:
    audit = trained().report()[["user", "item", "suspicion"]]
    other = audit.copy()
    other["user"][2] += 1
    same = [True, True, False, True]
    assert (audit == other)[:4].tolist() == same
    assert (audit != other)[:4].tolist() == [not one for one in same]
    assert type(audit == other) is type(audit.rows == other) is np.ndarray
    assert audit
    assert not audit[:0]


def test_what_numpy_makes_of_a_report_that_has_no_rows_is_shown_by_numpy() -> None:
    order = np.argsort(trained().report()[:3], order="user")
    assert sorted(order.tolist()) == [0, 1, 2]
    assert repr(order).startswith("array([")


@pytest.mark.parametrize(
    ("package", "method"), [("pandas", "to_pandas"), ("pyarrow", "to_parquet")]
)
def test_what_is_not_installed_is_named(
    package: str, method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    arguments = [] if method == "to_pandas" else [tmp_path / "audit.parquet"]
    with pytest.raises(DenoiserError, match=rf"^Expected {package}, got none installed\. "):
        getattr(trained().report(), method)(*arguments)


def test_pandas_has_the_columns() -> None:
    pytest.importorskip("pandas")
    audit = trained().report()
    frame = audit.to_pandas()
    assert tuple(frame.columns) == audit.rows.dtype.names
    assert frame["user"].tolist() == audit["user"].tolist()


def test_parquet_has_the_columns(tmp_path: Any) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    audit = trained().report()
    audit.to_parquet(tmp_path / "audit.parquet")
    table = parquet.read_table(tmp_path / "audit.parquet")
    assert tuple(table.column_names) == audit.rows.dtype.names
    assert table["item"].to_pylist() == audit["item"].tolist()


# ------------------------------------------------------------------ out of turn


def test_nothing_watched_is_nothing_to_report() -> None:
    denoiser = tiny_denoiser(DATA, "lightgcn", config=WATCHING)
    with pytest.raises(OrderError, match=r"^Expected report after some batches, got none\. "):
        denoiser.report()


def test_a_denoiser_that_does_not_watch_has_nothing_to_report() -> None:
    denoiser = trained(epochs=1, config=WATCHING, enabled=False)
    with pytest.raises(
        OrderError,
        match=r"^Expected report of a denoiser that watches, got enabled=False\. Build it with "
        r"enabled=True\.$",
    ):
        denoiser.report()


def test_the_report_goes_on_after_loading() -> None:
    denoiser = trained(epochs=3)
    again = tiny_denoiser(DATA, "lightgcn", config=SWITCHING)
    again.load_state_dict(denoiser.state_dict())
    found, expected = again.report(), denoiser.report()
    for name in expected.dtype.names:
        assert found[name].tobytes() == expected[name].tobytes()
    assert torch.is_tensor(denoiser.state_dict()["tracker"]["losses"])
