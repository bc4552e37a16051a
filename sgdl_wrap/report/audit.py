"""Which interactions look like noise, most suspicious first."""

from __future__ import annotations

import csv
import os
from typing import Any

import numpy as np

from sgdl_wrap.errors import DenoiserError, OrderError
from sgdl_wrap.report.snapshot import Snapshot

FIELDS = np.dtype(
    [
        ("user", np.int64),
        ("item", np.int64),
        ("suspicion", np.float32),
        ("weight", np.float32),
        ("loss", np.float32),
        ("smoothed_loss", np.float32),
        ("memorization_rate", np.float32),
        ("noise_posterior", np.float32),
        ("memorized", np.bool_),
        ("memorized_at_switch", np.bool_),
    ],
    align=True,  # rows of 48 bytes, not 42: torch.from_numpy takes a column as it is
)


class Audit(np.ndarray):
    """One row per interaction, most suspicious first; as made by ``denoiser.report()``.

    It is a structured numpy array, (N,). A column, ``report["weight"]``, is a plain array, which
    ``torch.from_numpy`` takes. Rows, ``report[:20]`` or ``report[report["memorized"]]``, are a
    report again, and so are some of the fields, ``report[["user", "item"]]``. One row,
    ``report[0]``, is a ``numpy.void``. ``pandas.DataFrame(report)`` is the table.

    Attributes:
        rows: structured array, (N,), with the fields

            - user, item: the pair;
            - suspicion: in [0, 1], how likely the pair is like those that nobody chose, by how
              little its user is like the item's other users
              (:func:`~sgdl_wrap.equations.suspicion.fitted`): an average over
              the epochs that gather evidence, of which the last counts 0.3. Some preferences
              are as strange: it orders, and does not say how many are noise. NaN before evidence is
              gathered, and where nothing is known, as of an item with one user;
            - weight: what g(·; ψ) gives it now, before any normalisation; 1 in Phase I. Where g
              reads the loss and none was seen yet in the epoch under way, by smoothed_loss;
            - loss: the last one seen, of the epoch under way or else of the one before; NaN if
              none was seen in it;
            - smoothed_loss: their exponential average over visits since the switch, or since the
              start with `audit_only`; NaN before;
            - memorization_rate: m^h_t(k) of Eq. 1;
            - noise_posterior: the probability that the pair is noise, as far as that is sure:
              suspicion times the confidence of the pair's fifth of popularity. Its mean is the
              middle of `denoiser.noise_share`. NaN before evidence is gathered, 0 where nothing
              is known;
            - memorized: whether it is in M, the data that guides; in Phase I, whether it would be;
            - memorized_at_switch: whether it was in M at the memorization point, from where M moves
              on unless `memorized_data` is "switch"; False in Phase I.

    Source: Eq. 1 and Eq. 4; the ranking is this library's.
    """

    def __new__(cls, rows: Any) -> Audit:
        """The report that some rows make; it shares their memory."""
        return np.asarray(rows).view(cls)

    @property
    def rows(self) -> np.ndarray:
        """The same memory as a plain structured array."""
        return self.view(np.ndarray)

    def __getitem__(self, which: Any) -> Any:
        """Rows or columns, as of the structured array: ``audit[:20]``, ``audit["weight"]``."""
        found = super().__getitem__(which)
        if isinstance(found, Audit) and not found._has_rows():  # a column
            return found.rows
        return found

    def _has_rows(self) -> bool:
        return self.dtype.names is not None and self.ndim == 1

    def __eq__(self, other: object) -> Any:
        """Which rows are equal, as of the structured array; NaN equals nothing."""
        return self.rows == (other.rows if isinstance(other, Audit) else other)

    def __ne__(self, other: object) -> Any:
        """Which rows differ."""
        return self.rows != (other.rows if isinstance(other, Audit) else other)

    def __bool__(self) -> bool:
        """Whether there are rows, as of any sequence."""
        return len(self) > 0

    def __repr__(self) -> str:
        """The number of rows and the first ten, a column a field."""
        if not self._has_rows():  # numpy may make an Audit of anything: of indices, in an argsort
            return repr(self.rows)
        head = self.rows[:10].tolist()
        texts = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row] for row in head]
        table = [list(self.dtype.names or ()), *texts]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(str.rjust, cells, widths)) for cells in table]
        order = ", the most suspicious first" if self._is_in_order() else ""
        return "\n".join([f"{len(self)} interactions{order}", *lines])

    __str__ = __repr__

    def _is_in_order(self) -> bool:
        """Whether no row is more suspicious than one before it; unknown ones are last."""
        if "suspicion" not in (self.dtype.names or ()):
            return False
        return not (np.diff(np.nan_to_num(self["suspicion"], nan=-1.0)) > 0).any()

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes a header and one line per interaction."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.dtype.names or ())
            writer.writerows(self.rows.tolist())

    def to_pandas(self) -> Any:
        """A pandas DataFrame.

        Raises:
            DenoiserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise DenoiserError(
                "Expected pandas, got none installed. Run `pip install \"sgdl-wrap[report]\"`, or "
                "use to_csv or rows."
            ) from error
        return pandas.DataFrame.from_records(self.rows)

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Writes a Parquet file.

        Raises:
            DenoiserError: pyarrow is not installed.
        """
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise DenoiserError(
                "Expected pyarrow, got none installed. Run `pip install \"sgdl-wrap[report]\"`, or "
                "use to_csv."
            ) from error
        columns = {name: np.ascontiguousarray(self[name]) for name in self.dtype.names or ()}
        parquet.write_table(pyarrow.table(columns), path)


def audit(known: Snapshot, came: str) -> Audit:
    """The report of what is known.

    Args:
        known: of the two phases.
        came: what came in the place of observed pairs, as the end of a message.

    Raises:
        OrderError: nothing was watched yet.
    """
    if np.isnan(known.losses).all() and np.isnan(known.suspicion).all():
        raise OrderError(
            f"Expected report after some batches, got {came}"
        )
    posterior = known.noise_probability
    rows = np.empty(len(known.losses), dtype=FIELDS)
    rows["user"] = known.interactions.users.numpy()
    rows["item"] = known.interactions.items.numpy()
    rows["weight"] = known.weights
    rows["loss"] = known.losses
    rows["smoothed_loss"] = np.nan if known.smoothed is None else known.smoothed
    rows["memorization_rate"] = known.rates
    rows["suspicion"] = known.suspicion
    rows["noise_posterior"] = np.nan if posterior is None else posterior
    rows["memorized"] = known.memorized
    rows["memorized_at_switch"] = known.memorized_at_switch
    return Audit(rows[np.argsort(-known.suspicion, kind="stable")])  # NaN sorts last
