"""The whole of Phase I over several epochs against a slow simulation of it."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from sgdl_wrap.batches.interactions import Interactions
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.equations.suspicion import evened, fitted, histograms, looked_up
from sgdl_wrap.errors import NoiseRateError, OrderError, ScoreError
from sgdl_wrap.loop.switch import Switch, Verdict
from sgdl_wrap.variants import Variants
from sgdl_wrap.watching.notebook import EpochFindings, Notebook

N_ITEMS = 40


def commit(tracker: Notebook, findings: EpochFindings) -> int:
    """The tracker is the one after the epoch; |M_t|."""
    vars(tracker).update(vars(tracker.ended(findings)))
    return tracker.memorized()


def ids(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.int64)


def floats(values: Any) -> np.ndarray:
    """Losses of a visit."""
    return np.asarray(values, dtype=np.float32)


def some_pairs(seed: int) -> list[tuple[int, int]]:
    """Users with many and with single items, one who has seen all, gaps in the ids."""
    rng = np.random.default_rng(seed)
    sizes = {0: 25, 1: 1, 3: 30, 4: 12, 9: N_ITEMS, 11: 18, 12: 2, 17: 35}
    return sorted(
        (user, int(item))
        for user, size in sizes.items()
        for item in rng.choice(N_ITEMS, size=size, replace=False)
    )


def interactions_of(pairs: list[tuple[int, int]]) -> Interactions:
    return Interactions([u for u, _ in pairs], [i for _, i in pairs], n_items=N_ITEMS)


# ------------------------------------------------------------------ a training run, made up


@dataclass
class Run:
    """What a model would show: per epoch the batches' losses and a table of scores.

    Clean interactions are learned early and noisy ones late. Each user's losses lie close to one
    of two levels of its own, both of which it shows, so that the share of the upper level is the
    noise rate of any sensible mixture.
    """

    pairs: list[tuple[int, int]]
    seed: int
    epochs: int = 9
    batches: list[list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        n = len(self.pairs)
        users = np.array([u for u, _ in self.pairs])
        first = np.array([k == 0 or users[k] != users[k - 1] for k in range(n)])
        second = np.roll(first, 1) & ~first
        scale = rng.uniform(0.2, 5, size=users.max() + 1)[users]
        for epoch in range(1, self.epochs + 1):
            upper = rng.random(n) < 0.55 - 0.03 * epoch
            level = np.where(upper, rng.uniform(0.97, 1, n), rng.uniform(0, 0.03, n))
            level[first], level[second] = 0.0, 1.0
            losses = (scale * (2 + level)).astype(np.float32)
            seen = np.flatnonzero((rng.random(n) < 0.9) | first | second)
            order = rng.permutation(seen)
            # some come twice in an epoch, and in one batch; first with a loss that must not count
            early = rng.choice(order, size=15, replace=False)
            visits = [(k, np.float32(scale[k] * 9)) for k in early]
            visits += [(k, losses[k]) for k in order]
            self.batches.append([
                (np.array([k for k, _ in part]), np.array([x for _, x in part], dtype=np.float32))
                for part in (visits[start : start + 32] for start in range(0, len(visits), 32))
            ])  # fmt: skip
            table = rng.integers(0, 12, size=(users.max() + 1, N_ITEMS)).astype(np.float64)
            for user, item in self.pairs:
                table[user, item] += epoch * rng.uniform(0.5, 3.0)
            self.scores.append(np.round(table))  # whole numbers, so that ties are common


class Scorer:
    """Looks scores up and notes the pairs asked for."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table
        self.asked: dict[int, list[int]] = {}

    def __call__(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        for user, item in zip(users.tolist(), items.tolist(), strict=True):
            self.asked.setdefault(user, []).append(item)
        return torch.from_numpy(self.table[users.numpy(), items.numpy()])


# ------------------------------------------------------------------ the slow simulation


@dataclass
class Slow:
    """Phase I as the method's text has it, one interaction at a time."""

    pairs: list[tuple[int, int]]
    h: int
    shift: float = 0.0
    bits: list[list[bool]] = field(default_factory=list)
    last: dict[int, float] = field(default_factory=dict)
    smoothed: dict[int, float] = field(default_factory=dict)

    def record(self, places: np.ndarray, losses: np.ndarray, share: float) -> None:
        batch = {int(k): float(x) for k, x in zip(places, losses, strict=True)}  # the last counts
        for k, loss in batch.items():
            self.last[k] = loss
            past = self.smoothed.get(k)
            self.smoothed[k] = loss if past is None else share * past + (1 - share) * loss

    def noise_rate(self) -> float:
        """Share of seen losses at the upper level after scaling each user's to [0, 1]."""
        upper = 0
        for k, loss in self.last.items():
            own = [x for j, x in self.last.items() if self.pairs[j][0] == self.pairs[k][0]]
            low, high = min(own), max(own)
            upper += high > low and (loss - low) / (high - low) > 0.5
        return upper / len(self.last)

    def end_epoch(self, table: np.ndarray, asked: dict[int, list[int]]) -> None:
        observed: dict[int, set[int]] = {}
        for user, item in self.pairs:
            observed.setdefault(user, set()).add(item)
        row = []
        for user, item in self.pairs:
            own = observed[user]
            order = sorted(asked[user], key=lambda i: (-table[user, i], i in own))
            row.append(item in order[: len(own)])
        self.bits.append(row)
        self.last = {}

    def rate(self, k: int) -> float:
        return sum(row[k] for row in self.bits[-self.h :]) / self.h

    def memorized(self) -> list[int]:
        return [k for k in range(len(self.pairs)) if self.rate(k) > 0.5]


# ------------------------------------------------------------------ all of Phase I


@pytest.mark.parametrize("ranking", ["sampled", "full"])
@pytest.mark.parametrize(("h", "shift"), [(1, 0.0), (2, 0.1), (3, -0.1), (6, 0.05)])
@pytest.mark.parametrize("seed", [0, 1])
def test_follows_the_method_epoch_by_epoch(ranking, h, shift, seed):
    pairs = some_pairs(seed)
    run, slow = Run(pairs, seed), Slow(pairs, h, shift)
    tracker = Notebook(
        interactions_of(pairs),
        DenoiserConfig(
            history_length=h, ranking=ranking, ranking_chunk=70, seed=seed,
            variants=Variants(weight_inputs=("loss", "smoothed_loss"), loss_smoothing=0.7),
        ),
    )  # fmt: skip
    detector, switched, expected_switch, counts = Switch(shift), None, None, []
    for epoch in range(1, run.epochs + 1):
        for places, losses in run.batches[epoch - 1]:
            tracker.record(ids(places), losses)
            slow.record(places, losses, 0.7)
        scorer = Scorer(run.scores[epoch - 1])
        findings = tracker.examine(scorer, with_noise_rate=True)
        memorized = commit(tracker, findings)
        # user 0 has 25 observed items of 40; what is asked after them is for the evidence
        each = {u: sum(v == u for v, _ in run.pairs) for u in scorer.asked}
        each = {u: 2 * n if n < N_ITEMS else n for u, n in each.items()}
        if ranking == "full":
            each = dict.fromkeys(each, N_ITEMS)
        assert each[0] == (50 if ranking == "sampled" else 40)
        asked = {u: items[: each[u]] for u, items in scorer.asked.items()}

        noise_rate = slow.noise_rate()
        slow.end_epoch(run.scores[epoch - 1], asked)
        assert findings.noise_rate.value == pytest.approx(noise_rate, abs=1e-6)
        assert tracker.memorized_ids().tolist() == slow.memorized()
        assert memorized == len(slow.memorized())
        surest = [k for k in slow.memorized() if slow.rate(k) * h >= 0.95 * min(h, epoch)]
        expected = surest or slow.memorized()
        assert tracker.memorized_ids(steady=True).tolist() == expected
        every = np.arange(len(pairs))
        assert tracker.buffer.rates(every) == pytest.approx([slow.rate(k) for k in every])
        np.testing.assert_allclose(
            tracker.smoothed, [slow.smoothed.get(k, np.nan) for k in every], rtol=1e-6
        )

        counts.append(memorized)
        verdict = detector.decide(
            epoch=epoch, memorized=memorized, total=len(pairs),
            noise_rate=findings.noise_rate.value,
        )  # fmt: skip
        if verdict is Verdict.REACHED and switched is None:
            switched = epoch
        needed = min(max(1 - noise_rate - shift, 0), 1) * len(pairs)
        if expected_switch is None and slow.memorized() and len(slow.memorized()) >= needed:
            expected_switch = epoch
    assert switched == expected_switch
    assert len(set(counts)) > 2  # the run is not a trivial one
    if ranking == "sampled":
        assert switched is not None
        assert switched >= h // 2 + 1


# ------------------------------------------------------------------ record


def small(**changes: Any) -> Notebook:
    return Notebook(
        interactions_of([(0, 1), (0, 2), (2, 0), (2, 1), (2, 5), (3, 3)]),
        DenoiserConfig().but(**{"history_length": 4, **changes}),
    )


def test_nothing_is_seen_at_first():
    tracker = small(weight_inputs=("smoothed_loss",))
    assert np.isnan(tracker.losses).all()
    assert np.isnan(tracker.smoothed).all()
    assert tracker.memorized_ids().tolist() == []


def test_last_visit_wins_over_batches_and_within_one():
    tracker = small()
    tracker.record(ids([0, 3, 0]), floats([1.0, 2.0, 4.0]))
    assert tracker.losses[[0, 3]].tolist() == [4.0, 2.0]
    tracker.record(ids([3]), floats([8.0]))
    assert tracker.losses[[0, 3]].tolist() == [4.0, 8.0]
    assert np.isnan(tracker.losses[[1, 2, 4, 5]]).all()


def test_losses_of_every_precision_are_kept_as_float32():
    tracker = small()
    for kind in (np.float32, np.float64):
        tracker.record(ids([1]), np.array([0.5], dtype=kind))
        assert tracker.losses.dtype == np.float32
        assert tracker.losses[1] == 0.5


def test_smoothing_is_an_exponential_average_from_the_first_visit_on():
    tracker = small(weight_inputs=("smoothed_loss",), loss_smoothing=0.75)
    seen = [8.0, 4.0, 0.0, 2.0]
    expected = [8.0, 7.0, 5.25, 4.4375]  # 3/4 of the past and 1/4 of the new
    for loss, average in zip(seen, expected, strict=True):
        tracker.record(ids([2]), floats([loss]))
        assert tracker.smoothed[2] == average
    assert np.isnan(tracker.smoothed[[0, 1, 3, 4, 5]]).all()


def test_smoothing_of_an_id_named_twice_takes_its_last_loss():
    tracker = small(weight_inputs=("smoothed_loss",), loss_smoothing=0.75)
    tracker.record(ids([2]), floats([8.0]))
    tracker.record(ids([2, 2]), floats([100.0, 4.0]))
    assert tracker.smoothed[2] == 7.0


def test_smoothed_losses_take_no_memory_unless_read():
    assert small(weight_inputs=("loss", "memorization_rate", "observed")).smoothed is None


def test_the_next_epoch_forgets_the_losses_and_keeps_the_smoothed_ones():
    tracker = small(weight_inputs=("smoothed_loss",), noise_rate=0.2, loss_smoothing=0.5)
    tracker.record(ids([0, 1]), floats([1.0, 2.0]))
    commit(tracker, tracker.examine(lambda u, i: u * 1.0, with_noise_rate=True))
    assert tracker.losses[:2].tolist() == [1.0, 2.0]
    tracker.record(ids([1]), floats([4.0]))
    assert tracker.losses[1] == 4.0
    assert np.isnan(tracker.losses[0])
    assert tracker.smoothed[:2].tolist() == [1.0, 3.0]


def test_an_epoch_without_losses_is_not_judged_by_those_before():
    tracker = small()
    tracker.record(ids([0, 1, 2, 3]), floats([1.0, 2.0, 1.0, 3.0]))
    commit(tracker, tracker.examine(lambda u, i: u * 1.0, with_noise_rate=True))
    with pytest.raises(NoiseRateError, match="Expected at least two losses"):
        tracker.examine(lambda u, i: u * 1.0, with_noise_rate=True)


@pytest.mark.parametrize("ended", [False, True])
def test_where_the_losses_belong_survives_saving(ended):
    tracker, again = small(noise_rate=0.2), small(noise_rate=0.2)
    tracker.record(ids([0, 1]), floats([1.0, 2.0]))
    if ended:
        commit(tracker, tracker.examine(lambda u, i: u * 1.0, with_noise_rate=True))
    again.load_state_dict(tracker.state_dict())
    again.record(ids([1]), floats([4.0]))
    assert np.isnan(again.losses[0]) == ended


def test_smoothing_begins_with_the_last_losses_seen():
    tracker = small(noise_rate=0.2, loss_smoothing=0.5)
    tracker.record(ids([0, 1]), floats([1.0, 2.0]))
    findings = tracker.examine(lambda u, i: u * 1.0, with_noise_rate=True)
    commit(tracker, findings)
    tracker.note_switch(findings)
    tracker.record(ids([1, 2]), floats([4.0, 8.0]))
    tracker.note_switch(findings)  # it has begun
    assert tracker.smoothed[:3].tolist() == [1.0, 3.0, 8.0]
    again = small(noise_rate=0.2, loss_smoothing=0.5)
    again.load_state_dict(tracker.state_dict())
    assert again.smoothed[:3].tolist() == [1.0, 3.0, 8.0]


def watched_epoch(tracker: Notebook, losses: list[float]) -> np.ndarray | None:
    """Ends an epoch that showed losses of the first interactions; how strange they were in it."""
    tracker.record(ids(range(len(losses))), floats(losses))
    findings = tracker.examine(
        lambda u, i: torch.sin(u * 3.0 + i * i + tracker.buffer.epochs), with_noise_rate=True
    )
    commit(tracker, findings)
    tracker.findings = findings  # type: ignore[attr-defined]
    return None if findings.strangeness is None else findings.strangeness.strange


def suspicions(shown: list[np.ndarray], tracker: Notebook) -> np.ndarray:
    """Averages of some epochs' strangeness, as the tracker is to have them."""
    fifths = tracker.evidence._fifths[tracker.interactions.items.numpy()]
    average, suspicion = np.zeros((5, 128)), None
    for strange in shown:
        counts = histograms(strange, fifths)
        average = counts if suspicion is None else 0.7 * average + 0.3 * counts
        now = looked_up(fitted(average)[0], strange, fifths)
        suspicion = now if suspicion is None else 0.7 * suspicion + 0.3 * now
    assert suspicion is not None
    assert tracker.evidence.histograms == pytest.approx(average)
    return suspicion


def test_suspicion_averages_what_epochs_show_of_the_interactions():
    rng = np.random.default_rng(0)
    pairs = sorted({(int(u), int(i)) for u, i in rng.integers((30, 12), size=(150, 2))})
    config = DenoiserConfig(noise_rate=0.2, history_length=2)
    tracker = Notebook(interactions_of(pairs), config)
    assert np.isnan(tracker.evidence.suspicion).all()
    assert tracker.evidence.mean is None
    shown = [watched_epoch(tracker, losses) for losses in ([1.0, 2.0], [3.0, 2.0], [0.0, 1.0])]
    expected = suspicions(shown, tracker)
    assert tracker.evidence.suspicion == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert any((shown[0] != strange).any() for strange in shown)
    again = Notebook(interactions_of(pairs), config)
    again.load_state_dict(tracker.state_dict())
    for one in (tracker, again):
        watched_epoch(one, [4.0, 4.5, 0.0])
    np.testing.assert_array_equal(again.evidence.suspicion, tracker.evidence.suspicion)
    assert again.evidence.mean == tracker.evidence.mean


def test_where_nothing_is_known_nothing_is_suspected():
    tracker = small(noise_rate=0.2, audit_only=True)
    strange = watched_epoch(tracker, [1.0, 2.0])
    lone = np.isnan(strange)  # of items with one user
    assert lone.any()
    assert np.isnan(tracker.evidence.suspicion[lone]).all()
    assert (tracker.evidence.noise_probability(np.arange(6))[lone] == 0).all()
    kept = floats([0.5] * 6)
    tracker.evidence.suspicion = kept.copy()  # as of epochs that knew of them
    watched_epoch(tracker, [1.0, 2.0])
    assert (tracker.evidence.suspicion[lone] == 0.5).all()


def test_evidence_is_gathered_from_shortly_before_the_switch_to_ten_epochs_after():
    tracker = small(noise_rate=0.2, history_length=12)  # no switch before epoch 7
    before = [watched_epoch(tracker, [1.0, 2.0]) is not None for _ in range(7)]
    assert before == [False] * 3 + [True] * 4
    tracker.note_switch(tracker.findings)
    after = [watched_epoch(tracker, [1.0, 2.0]) is not None for _ in range(12)]
    assert after == [True] * 10 + [False] * 2
    kept = tracker.evidence.suspicion.copy()
    watched_epoch(tracker, [1.0, 2.0])
    np.testing.assert_array_equal(tracker.evidence.suspicion, kept)


def test_an_audit_gathers_evidence_in_every_epoch():
    tracker = small(noise_rate=0.2, audit_only=True, history_length=40)
    assert all(watched_epoch(tracker, [1.0, 2.0]) is not None for _ in range(3))


@pytest.mark.parametrize("seed", [0, 2**62, 2**63 - 1])
def test_evidence_follows_from_any_seed(seed):
    shown = []
    for _ in range(2):
        tracker = small(noise_rate=0.2, audit_only=True, seed=seed)
        shown.append(watched_epoch(tracker, [1.0, 2.0]))
    np.testing.assert_array_equal(*shown)


def test_the_probability_of_noise_is_suspicion_as_far_as_it_is_sure():
    tracker = small(noise_rate=0.2, audit_only=True)
    assert tracker.evidence.noise_probability(ids([0, 5])).tolist() == [0.0, 0.0]
    watched_epoch(tracker, [1.0, 2.0])
    evidence = tracker.evidence
    evidence.share = replace(evidence.share, confidence=(0.5, 0.25, 0.0, 1.0, 1.0))
    evidence._fifths = np.arange(tracker.interactions.n_items, dtype=np.uint8) % 5
    evidence.suspicion = floats([0.2, 0.4, 0.6, 0.8, np.nan, 1.0])
    fifths = tracker.interactions.items.numpy() % 5
    confidence = np.array([0.5, 0.25, 0.0, 1.0, 1.0])[fifths]
    expected = np.nan_to_num(evidence.suspicion) * confidence
    assert evidence.noise_probability(np.arange(6)) == pytest.approx(expected)
    sizes, noise = evidence._noise_by_fifth()
    assert sizes.tolist() == np.bincount(fifths, minlength=5).tolist()
    assert noise == pytest.approx(np.bincount(fifths, expected, minlength=5))

    evidence._factors = np.array([1.0, 1.5, 0.5, 0.7, 1.0])
    believed = np.minimum(1, (1 - expected) * evidence._factors[fifths])
    assert evidence.belief(np.arange(6)) == pytest.approx(believed)
    names = ("belief", "suspicion")
    found = tracker.features(ids([1, -1]), torch.ones(2), names)
    assert found[0].tolist() == pytest.approx([believed[1], 0.4])
    assert found[1].tolist() == [1.0, 0.0]


def test_the_mean_probability_of_noise_is_that_of_the_last_epoch_that_was_gathered():
    tracker = small(noise_rate=0.2, audit_only=True)
    assert tracker.evidence.mean is None
    watched_epoch(tracker, [1.0, 2.0])
    probabilities = tracker.evidence.noise_probability(np.arange(6))
    assert tracker.evidence.mean == pytest.approx(probabilities.mean())
    sizes, noise = tracker.evidence._noise_by_fifth()
    factors = evened(sizes, noise / np.maximum(sizes, 1))
    assert tracker.evidence._factors == pytest.approx(factors)


# ------------------------------------------------------------------ features


def memorize(tracker: Notebook, rows: list[list[int]]) -> None:
    for row in rows:
        tracker.buffer = tracker.buffer.pushed(np.packbits(np.array(row, dtype=bool)))


COLUMNS = {  # for ids 4, -1, 0, 4, 5 below
    "loss": [0.5, 1.5, 2.5, 3.5, 4.5],
    # 3/4 of 6, 3 and 6, and 1/4 of this loss; unobserved and never seen: the loss itself
    "smoothed_loss": [4.625, 1.5, 2.875, 5.375, 4.5],
    "memorization_rate": [0.75, 0.0, 0.25, 0.75, 0.0],
    "suspicion": [0.875, 0.0, 0.25, 0.875, 0.0],  # of 5 nothing was seen
    "observed": [1.0, 0.0, 1.0, 1.0, 1.0],
}


@pytest.mark.parametrize(
    "names",
    [("loss",), ("smoothed_loss",), ("memorization_rate",), ("observed",), ("observed", "loss"),
     ("suspicion",), ("loss", "suspicion"),
     ("loss", "smoothed_loss", "memorization_rate", "observed"),
     ("memorization_rate", "observed", "smoothed_loss")],
    ids="+".join,
)  # fmt: skip
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16])
def test_features_are_the_columns_named_in_their_order(names, kind):
    tracker = small(weight_inputs=names, loss_smoothing=0.75)
    tracker.record(ids([4, 0]), floats([6.0, 3.0]))
    memorize(tracker, [[1, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0]])
    tracker.evidence.suspicion = floats([0.25, 0.5, 0.5, 0.5, 0.875, np.nan])
    losses = torch.tensor(COLUMNS["loss"], dtype=kind, requires_grad=True)
    found = tracker.features(ids([4, -1, 0, 4, 5]), losses * 1, names)
    assert found.shape == (5, len(names))
    assert found.dtype == kind
    assert not found.requires_grad
    assert found.T.tolist() == [COLUMNS[name] for name in names]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_the_smoothed_feature_is_what_record_writes_down_of_the_visit(kind):
    rng = np.random.default_rng(2)
    names = ("loss", "smoothed_loss")
    tracker = small(weight_inputs=names, loss_smoothing=0.7)
    for _ in range(8):
        places = rng.choice(6, size=3, replace=False)
        losses = torch.from_numpy(rng.gamma(1.0, size=3)).to(kind)
        read = tracker.features(ids([*places, -1]), torch.cat([losses, losses[:1]]), names)[:, 1]
        tracker.record(ids(places), losses.double().numpy())
        written = torch.from_numpy(tracker.smoothed[places])
        assert torch.equal(read, torch.cat([written, losses[:1].float()]).to(kind))


def test_features_write_nothing_down():
    tracker = small(weight_inputs=("loss", "smoothed_loss"))
    losses = torch.tensor([1.0, 2.0])
    tracker.features(ids([0, -1]), losses, ("loss", "smoothed_loss")).fill_(9)
    assert losses.tolist() == [1.0, 2.0]
    assert np.isnan(tracker.smoothed).all()


def test_features_of_unobserved_samples_alone():
    tracker = small(weight_inputs=tuple(COLUMNS), audit_only=True)
    found = tracker.features(ids([-1, -1]), torch.tensor([1.0, 2.0]), tuple(COLUMNS))
    assert found.tolist() == [[1.0, 1.0, 0.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0, 0.0]]


def test_averages_are_not_read_before_they_begin():
    tracker = small(noise_rate=0.2)
    with pytest.raises(OrderError, match="Expected smoothed_loss to be averaged by now, got Phase"):
        tracker.features(ids([0]), torch.tensor([1.0]), ("smoothed_loss",))


# ------------------------------------------------------------------ examine


def visit(tracker: Notebook) -> None:
    """One epoch's losses."""
    tracker.record(ids(range(6)), floats([0.0, 1.0, 0.0, 0.1, 2.0, 5.0]))


def constant(users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(users))


def test_examining_writes_nothing_down():
    tracker = small()
    visit(tracker)
    before = tracker.losses.copy()
    tracker.examine(constant, with_noise_rate=True)
    assert tracker.buffer.epochs == 0
    assert tracker.cut.isnan().all()
    assert (tracker.losses == before).all()


def test_a_failed_examination_can_be_repeated():
    tracker = small()
    visit(tracker)
    with pytest.raises(ScoreError, match=r"^Expected scores that are finite or -inf, got \d+ NaN"):
        tracker.examine(lambda u, i: torch.full((len(u),), torch.nan), with_noise_rate=True)
    commit(tracker, tracker.examine(constant, with_noise_rate=True))
    assert tracker.buffer.epochs == 1


def test_losses_without_spread_are_said_before_anything_is_scored():
    tracker = small()
    tracker.record(ids([0, 1]), floats([1.0, 1.0]))
    scorer = Scorer(np.zeros((4, N_ITEMS)))
    with pytest.raises(NoiseRateError, match="Expected losses that differ, got all 2 equal to 1"):
        tracker.examine(scorer, with_noise_rate=True)
    assert scorer.asked == {}


def test_a_known_noise_rate_or_none_wanted_estimates_nothing():
    known = small(noise_rate=0.3)
    assert known.examine(constant, with_noise_rate=True).noise_rate is None
    assert small().examine(constant, with_noise_rate=False).noise_rate is None


def test_losses_are_scaled_over_all_when_the_config_says_so():
    found = {}
    for normalization in ("user", "global"):
        tracker = small(loss_normalization=normalization)
        # per user one high loss of two; over all, user 2's three against the rest
        tracker.record(ids(range(5)), floats([0.0, 1.0, 500.0, 500.0, 501.0]))
        found[normalization] = tracker.examine(constant, with_noise_rate=True).noise_rate.value
    assert found["user"] == pytest.approx(2 / 5, abs=1e-3)
    assert found["global"] == pytest.approx(3 / 5, abs=1e-3)


def test_the_cut_is_that_of_the_last_epoch_committed():
    tracker = small(noise_rate=0.1, ranking="full")
    for level in (1.0, 2.0):
        findings = tracker.examine(
            lambda u, i, level=level: torch.full((len(u),), level), with_noise_rate=True
        )
        commit(tracker, findings)
        assert tracker.cut.tolist() == [level] * 3


def test_on_ranked_reaches_all_interactions():
    seen: list[tuple[int, int]] = []
    small(noise_rate=0.1, ranking_chunk=4).examine(
        constant, with_noise_rate=True, on_ranked=lambda done, of: seen.append((done, of))
    )
    assert seen[-1] == (6, 6)
    assert len(seen) > 1


# ------------------------------------------------------------------ state


def advance(tracker: Notebook, run: Run, epochs: range) -> list[Any]:
    """Everything that the epochs find: the pairs asked for, the estimates, M_t, features."""
    found: list[Any] = []
    for epoch in epochs:
        for places, losses in run.batches[epoch]:
            names = tracker.config.inputs
            found.append(tracker.features(ids(places), torch.from_numpy(losses), names).tolist())
            tracker.record(ids(places), losses)
        scorer = Scorer(run.scores[epoch])
        findings = tracker.examine(scorer, with_noise_rate=True)
        found += [scorer.asked, findings.noise_rate, commit(tracker, findings)]
        found += [tracker.memorized_ids().tolist(), tracker.cut.nan_to_num(-9).tolist()]
    return found


def resumable() -> tuple[Notebook, Run]:
    pairs = some_pairs(3)
    config = DenoiserConfig(
        history_length=3, seed=8, ranking_chunk=70,
        variants=Variants(
            noise_rate_sample=60, weight_inputs=("loss", "smoothed_loss", "memorization_rate")
        ),
    )  # fmt: skip
    return Notebook(interactions_of(pairs), config), Run(pairs, 3)


@pytest.mark.parametrize("epochs", [0, 1, 4])
def test_a_loaded_state_goes_on_identically(epochs):
    first, run = resumable()
    advance(first, run, range(epochs))
    places, losses = run.batches[epochs][0]
    first.record(ids(places), losses)  # and in the middle of an epoch
    stored = io.BytesIO()
    torch.save(first.state_dict(), stored)
    stored.seek(0)
    second, _ = resumable()
    second.load_state_dict(torch.load(stored, weights_only=True))
    rest = range(epochs, 8)
    assert advance(second, run, rest) == advance(first, run, rest)


def test_other_seeds_draw_other_candidates():
    first, run = resumable()
    second = Notebook(first.interactions, first.config.but(seed=9))
    assert advance(first, run, range(1)) != advance(second, run, range(1))


def test_a_state_taken_or_loaded_is_not_changed_by_going_on():
    first, run = resumable()
    advance(first, run, range(2))
    places, losses = run.batches[2][0]
    first.record(ids(places), losses)  # so that some losses are known
    state = first.state_dict()
    kept = copy.deepcopy(state)
    second, _ = resumable()
    second.load_state_dict(state)
    advance(first, run, range(2, 4))
    advance(second, run, range(2, 4))
    evidence, kept_evidence = state.pop("evidence"), kept.pop("evidence")
    for now, before in ((state, kept), (evidence, kept_evidence)):
        assert now.keys() == before.keys()
        for name, value in before.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(now[name], value, rtol=0, atol=0, equal_nan=True)
            else:
                assert now[name] == value


def test_examining_and_committing_leave_the_global_streams_alone():
    tracker, run = resumable()
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002 - the user's stream
    advance(tracker, run, range(1))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
