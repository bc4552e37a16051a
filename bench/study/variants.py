"""SGDL with one of its parts changed, under the trial that was chosen for SGDL itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from bench.study.grids import Trial
from bench.study.run_settings import RunSettings
from bench.study.store import ResultStore
from bench.study.study import Cell

# What a table changes of the denoiser's configuration, row by row. SGDL as it is comes first: it is
# the paper's "+0 %" of Table 4 and, its scheduler being an LSTM, its "LSTM" of Table 5.
VARIANTS: dict[int, dict[str, dict[str, Any]]] = {
    3: {
        "w/o DLS": {"denoising_learning": False},
        "w/o ADS": {"denoising_scheduler": "none"},
    },
    4: {
        "σ̂ +10 %, early": {"noise_rate_shift": 0.1},
        "σ̂ +5 %, early": {"noise_rate_shift": 0.05},
        "σ̂ -5 %, late": {"noise_rate_shift": -0.05},
        "σ̂ -10 %, late": {"noise_rate_shift": -0.1},
    },
    5: {
        "top_f": {"denoising_scheduler": "top_f"},
        "mlp": {"denoising_scheduler": "mlp"},
    },
}


@dataclass(frozen=True)
class VariantCell(Cell):
    """SGDL with other settings of the denoiser; it waits until SGDL itself is tuned.

    It is not tuned anew: a difference between two rows is that of the part alone.
    """

    name: str = ""
    change: dict[str, Any] = field(default_factory=dict)
    """Fields of DenoiserConfig that differ."""

    @property
    def label(self) -> str:
        """The row's name."""
        return self.name

    def tuning_runs(self) -> list[RunSettings]:
        """None of its own."""
        return []

    def chosen(self, store: ResultStore) -> Trial | None:
        """The trial that is chosen for SGDL, with the change."""
        trial = super().chosen(store)
        if trial is None:
            return None
        config = trial.options.get("config", {}) | self.change
        return replace(trial, options={**trial.options, "config": config})

    def n_runs(self) -> int:
        """Number of its runs, finished or not."""
        return len(self.seeds)


def with_variants(cell: Cell, table: int) -> list[Cell]:
    """A cell of SGDL, and a cell for each of the table's variants of it."""
    return [
        cell,
        *(
            VariantCell(**vars(cell), name=name, change=change)
            for name, change in VARIANTS[table].items()
        ),
    ]
