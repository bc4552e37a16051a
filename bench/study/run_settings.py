"""What decides a run, and the name that follows from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench.data.interaction_data import InteractionData
from bench.study.grids import BENCHES, Trial
from sgdl_wrap import DenoiserConfig

# By name of a method or a model, 1 where it is not named. Raise it where a change of the code
# changes what the runs come to: finished runs of another revision do not count any more.
REVISIONS: dict[str, int] = {}


Defaults = Mapping[str, Mapping[str, Any]]
"""Fields of DenoiserConfig as they were at some time, of "pointwise" and of "ranking" losses."""


@dataclass(frozen=True)
class RunSettings:
    """All that decides the outcome of a run, but for the code that runs it, see `REVISIONS`."""

    data: str
    """As `fingerprint` gives it: a name, and a digest of the interactions."""
    model: str
    condition: str
    method: str
    options: dict[str, Any]
    """Fields of the method that differ from its defaults."""
    learning_rate: float
    l2: float
    batch_size: int
    epochs: int
    evaluate_every: int
    patience: int
    seed: int
    """Of the parameters, the batches, the denoiser, and of the noise that is injected."""

    @property
    def key(self) -> str:
        """A file name: what a person looks for, and a digest of everything."""
        text = json.dumps(asdict(self), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"{self.model}-{self.condition}-{self.method}-seed{self.seed}-{digest}"

    @property
    def revisions(self) -> dict[str, int]:
        """Of the code of its model and of its method."""
        return {name: REVISIONS.get(name, 1) for name in (self.model, self.method)}


def settings_of(
    data: str,
    model: str,
    condition: str,
    method: str,
    trial: Trial,
    seed: int,
    defaults: Defaults | None = None,
) -> RunSettings:
    """The settings of one trial under one seed, with the rest as the model's bench has it.

    Args:
        defaults: the denoiser's; None takes today's.
    """
    bench = BENCHES[model]
    return RunSettings(
        data=data,
        model=model,
        condition=condition,
        method=method,
        options=written_out(
            method, trial.options, pointwise=bench.recipe.pointwise, defaults=defaults
        ),
        learning_rate=trial.learning_rate,
        l2=trial.l2,
        batch_size=bench.recipe.batch_size,
        epochs=bench.recipe.epochs,
        evaluate_every=bench.evaluate_every,
        patience=bench.patience,
        seed=seed,
    )


def written_out(
    method: str,
    options: dict[str, Any],
    *,
    pointwise: bool,
    defaults: Defaults | None = None,
) -> dict[str, Any]:
    """The method's settings; the denoiser's in full, so that other defaults are another run.

    Args:
        pointwise: of the model's loss, which some of the denoiser's defaults follow.
        defaults: the denoiser's; None takes today's.
    """
    if method != "sgdl":
        return options
    own = options.get("config", {})
    if defaults is not None:
        kept = dict(defaults["pointwise" if pointwise else "ranking"])
        if not own.get("denoising_learning", True):
            kept["memorized_data"] = "switch"  # as `settled` chose it then
        reals = {name: float(own[name]) for name in own if isinstance(kept.get(name), float)}
        return {**options, "config": kept | own | reals}
    config = DenoiserConfig().but(**own).settled(pointwise=pointwise).as_dict()
    for name in {"seed", "history_length"} - set(own):  # the run's and the recipe's
        del config[name]
    return {**options, "config": config}


def changed_options(run: RunSettings) -> dict[str, Any]:
    """The method's settings with those of the denoiser that are not its defaults, for people."""
    config = run.options.get("config")
    if config is None:
        return run.options
    pointwise = BENCHES[run.model].recipe.pointwise
    defaults = DenoiserConfig().settled(pointwise=pointwise).as_dict()
    changed = {name: value for name, value in config.items() if value != defaults.get(name)}
    return {name: value for name, value in run.options.items() if name != "config"} | changed


def fingerprint(data: InteractionData) -> str:
    """The data's name and a digest of its splits and flags: "ml100k-0a1b2c3d"."""
    digest = hashlib.sha256(f"{data.n_users} {data.n_items}".encode())
    for split in ("train", "valid", "test"):
        for column in ("users", "items", "clean"):
            values = getattr(data, f"{split}_{column}")
            digest.update(b"-" if values is None else values.tobytes())
    return f"{data.name}-{digest.hexdigest()[:8]}"
