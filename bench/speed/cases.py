"""The rows of the benchmark."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

ModelName = Literal["neumf", "lightgcn", "two-tower", "mf"]
OptimizerName = Literal["Adam", "SGD", "SparseAdam"]


@dataclass(frozen=True)
class RandomPairs:
    """Interactions drawn uniformly: what a table's size costs does not depend on who likes what."""

    n_users: int
    n_items: int
    n_pairs: int


@dataclass(frozen=True)
class Case:
    """One row: a model on some data at one batch size."""

    name: str
    model: ModelName
    batch_size: int
    pairs: RandomPairs | None = None
    """None: the data of --data, else generated data of the size of MovieLens-100K."""
    optimizer: OptimizerName = "Adam"
    learning_rate: float = 0.001
    large: bool = False
    """Needs some GiB: its variants are measured one at a time beside plain, over fewer steps, and
    `--rows small` leaves it out."""
    toy: bool = False
    """Shrunk by --quick: the numbers mean nothing."""

    @property
    def pointwise(self) -> bool:
        """Whether a batch is (users, items, labels), else (users, positives, negatives)."""
        return self.model == "neumf"

    @property
    def pool(self) -> int:
        """Batches that training goes round; few, so that a few rounds warm up every variant."""
        return 2 if self.large or self.toy else 8

    def shrunk(self) -> Case:
        """The same row at a size at which only its running is tried."""
        pairs = None if self.pairs is None else RandomPairs(60, 80, 1000)
        return replace(self, pairs=pairs, batch_size=min(self.batch_size, 64), toy=True)


def _tables(name: str, rows: int, *, large: bool, optimizer: OptimizerName = "Adam") -> Case:
    """Matrix factorisation over `rows` rows in all, always with the same number of pairs.

    The pairs are few, so that no data structure but the tables grows from row to row.
    """
    return Case(
        f"mf-{name}",
        "mf",
        2048,
        RandomPairs(rows // 2, rows // 2, 200_000),
        optimizer=optimizer,
        large=large,
    )


CASES = {
    case.name: case
    for case in (
        *(Case(f"neumf-{size}", "neumf", size) for size in (128, 1024, 2048)),
        *(
            Case(f"lightgcn-{size}", "lightgcn", size, learning_rate=0.005)
            for size in (128, 1024, 2048)
        ),
        Case("two-tower-1024", "two-tower", 1024),
        Case("neumf-50k", "neumf", 2048, RandomPairs(50_000, 20_000, 1_000_000)),
        Case("neumf-1m", "neumf", 2048, RandomPairs(1_000_000, 100_000, 2_000_000), large=True),
        _tables("10k", 10_000, large=False),
        _tables("100k", 100_000, large=False),
        _tables("1m", 1_000_000, large=True),
        _tables("5m", 5_000_000, large=True),
        _tables("5m-sgd", 5_000_000, large=True, optimizer="SGD"),
        _tables("5m-sparse", 5_000_000, large=True, optimizer="SparseAdam"),
    )
}


def chosen(names: list[str], *, quick: bool) -> list[Case]:
    """The cases that --rows names, each by its name, or all of "all" or "small".

    Raises:
        ValueError: an unknown name.
    """
    cases: dict[str, Case] = {}
    for name in names:
        if name in ("all", "small"):
            found = [c for c in CASES.values() if name == "all" or not c.large]
        elif name in CASES:
            found = [CASES[name]]
        else:
            raise ValueError(
                f"Expected rows out of all, small, {', '.join(CASES)}, got {name}. "
                "Name some of them."
            )
        cases.update({case.name: case.shrunk() if quick else case for case in found})
    return list(cases.values())
