"""Every choice of the method in one frozen object, each default with its origin."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from functools import wraps
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, get_args

from sgdl_wrap.errors import DenoiserError

Ranking = Literal["sampled", "full"]
LossNormalization = Literal["user", "global"]
DenoisingSchedulerName = Literal["lstm", "mlp", "top_f", "none"]
MemorizedData = Literal["auto", "switch", "current", "steady"]
Similarity = Literal["alignment", "paper"]
WeightInput = Literal["loss", "smoothed_loss", "memorization_rate", "suspicion", "observed"]
WeightNormalization = Literal["none", "mean"]
GuidanceLabels = Literal["both", "observed"]
OnNonFinite = Literal["raise", "skip"]

_Config = TypeVar("_Config")


def _refusing_unknown_fields(config: type[_Config]) -> type[_Config]:
    """The dataclass, which now answers a name that is no field of it with the nearest one.

    Its signature stays the one that `dataclass` wrote, for editors and type checkers.
    """
    made_by_dataclass = config.__init__

    @wraps(made_by_dataclass)
    def init(self: _Config, *unnamed: Any, **settings: Any) -> None:
        if unnamed:
            raise DenoiserError(
                f"Expected fields of {config.__name__} by name, got {unnamed[0]!r} without one. "
                f"Write {config.__name__}(field=value); of a dict, {config.__name__}(**settings)."
            )
        known = [field.name for field in fields(config)]  # type: ignore[arg-type]
        unknown = [name for name in settings if name not in known]
        if unknown:
            nearest = _nearest(unknown, known)
            remedy = f"Did you mean {', '.join(nearest)}?" if nearest else (
                f"Choose among {', '.join(known)}."
            )
            raise DenoiserError(
                f"Expected fields of {config.__name__}, got {', '.join(map(repr, unknown))}. "
                f"{remedy}"
            )
        made_by_dataclass(self, **settings)

    config.__init__ = init  # type: ignore[method-assign, assignment]
    return config


def _nearest(unknown: Iterable[str], known: Sequence[str]) -> list[str]:
    """The known name nearest to each unknown one, or all that contain it: `lr` is near to none."""
    found: list[str] = []
    for name in map(str.lower, unknown):
        found += get_close_matches(name, known, n=1) or [field for field in known if name in field]
    return list(dict.fromkeys(found))


@_refusing_unknown_fields
@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """Settings of a denoiser; ``config.but(field=...)`` is a copy with some changed.

    Origins: "paper" is the SGDL paper (SIGIR 2022), "authors" its published code and logs,
    "ours" a choice of this library, explained in docs/deviations.md.

    Raises:
        DenoiserError: at construction: a value outside its range, a name that is no field, or a
            value without a name.
    """

    # --- Phase I: memorization -------------------------------------------------------------

    history_length: int = 20
    """h of Eq. 1: epochs of memorization history. Paper: tuned among 2, 5, 10, 20; the longest is
    the safest where large batches make epochs short: none switches within its first h/2."""

    ranking: Ranking = "sampled"
    """Candidates that decide memorization: a user's observed items against as many sampled
    unobserved ones ("sampled", authors), or against every item ("full", paper Sec. 3.1.1)."""

    ranking_chunk: int = 32_768
    """Pairs scored in one call of `score_fn` at an epoch's end. Ours: bounds memory, and fits a
    processor's cache; raise it for a graph model that trains in batches as large."""

    loss_normalization: LossNormalization = "user"
    """Min-max scaling before the mixture: per user (authors) or over all interactions."""

    noise_rate: float | None = None
    """A known noise rate in [0, 1); None estimates it (Eq. 4). Ours."""

    noise_rate_shift: float = 0.0
    """Added to the noise rate before the switch is decided. Paper: Table 4, -0.1 to +0.1."""

    noise_rate_sample: int = 4_000
    """Losses the mixture is fitted on at most, evenly spaced by rank; its posterior is averaged
    over all. Ours."""

    switch_timeout: int | None = None
    """Switch after this many epochs even if Eq. 3 does not hold; None waits for ever. Ours."""

    audit_only: bool = False
    """Phase I for ever: training stays as it is and is watched for `report()`. Ours."""

    # --- Phase II: self-guided learning ----------------------------------------------------

    memorized_data: MemorizedData = "auto"
    """M, the data that guide: those memorized at the switch ("switch", paper); by the last epoch
    ("current", ours); or, from the first epoch of Phase II on, those of them that were memorized in
    at least 95 % of the epochs of the history that have been lived ("steady", ours). M of an early
    switch are the easy interactions alone; guided by them for good, a model that is not yet done
    stays there. "auto" is "current" for ranking losses, "steady" for pointwise ones, and "switch"
    without `denoising_learning`."""

    denoising_learning: bool = True
    """False trains on the memorized data alone after the switch (paper, Table 3, w/o DLS)."""

    assumed_lr: float | None = None
    """η1 of Eq. 7; None takes the first learning rate above 0 of the optimizers' groups. Paper:
    η1 = η2 tuned among 1e-4, 1e-3, 1e-2; ψ's own Adam cancels its scale to first order."""

    meta_lr: float | None = None
    """η2, Adam's learning rate for the weighting function ψ. Ours: None takes 0.02 for ranking
    losses and 0.005 for pointwise ones, which have fewer epochs left when Phase II begins."""

    denoising_scheduler_lr: float = 0.005
    """η3, Adam's learning rate for the denoising scheduler φ. Ours, equal to η2."""

    weight_hidden: int = 64
    """Hidden units of the weighting function g. Paper: 64."""

    weight_inputs: tuple[WeightInput, ...] | Literal["auto"] = "auto"
    """What g reads of a sample. Paper: its loss ("loss"). Ours: what `report()` ranks by, from the
    switch on ("suspicion"), the losses' exponential average over visits since ("smoothed_loss"),
    the share of epochs it was memorized ("memorization_rate"), whether the pair was observed
    ("observed"). Losses are divided by the mean one of Phase I's last epoch, where that is above 1
    (deviation 21). "auto" is the suspicion for ranking losses, whose loss of the moment depends on
    the negative that was drawn, and the loss for pointwise ones, where a history would tell g
    which samples are negatives, which have none."""

    evidence_weights: bool = True
    """True: weights are b^(2 g(x; ψ)), b = 1 - p but for its mean in each fifth of popularity, p
    the probability that nobody chose the pair, as far as that is sure (deviation 23). Where nothing
    is sure p is 0 and weights are 1. False: g(x; ψ) alone (paper). Ours."""

    weight_normalization: WeightNormalization = "mean"
    """"none": the sigmoid output (paper). "mean": divided by the batch mean, so that the data
    term keeps its scale against the user's penalty (ours)."""

    weighting_entropy: float | None = None
    """λ of the entropy term that keeps g from giving all to what aligns best with the guidance,
    however little it is ahead; its unit is the standard deviation of the samples' products with
    the guidance gradient (Eq. 16). 0 is the paper. Ours: None takes 0.5 with
    `evidence_weights`, where "even" is what follows the evidence; else 0.02 for ranking losses, see
    docs/reproduction.md, and 0 for pointwise ones."""

    loss_smoothing: float = 0.8
    """Share of the past in the exponential average of a sample's loss. Ours."""

    denoising_scheduler: DenoisingSchedulerName = "lstm"
    """How guidance is chosen among the memorized. Paper: lstm; Table 5: mlp, top_f; Table 3,
    w/o ADS: none."""

    denoising_scheduler_hidden: int = 64
    """Hidden units of the LSTM or MLP scheduler. Paper: 64."""

    denoising_scheduler_entropy: float = 30.0
    """λ of the entropy term that keeps the scheduler from giving all to the easiest samples, in
    standard deviations of the guidance losses; 0 is the paper. Ours, see docs/results.md."""

    factor_history: int = 3
    """T: visits of a memorized sample that the LSTM reads. Ours: the paper gives no length, the
    authors' code feeds one."""

    similarity: Similarity = "alignment"
    """The gradient factor of Eq. 10: "alignment" with the guidance gradient, standardised over
    the batch (ours), or "paper", the cosine before and after the assumed update, which is
    constant in practice (docs/deviations.md)."""

    gumbel_tau: float = 0.05
    """τ of Eq. 12. Paper: 0.05."""

    gumbel_draws: int | None = None
    """Gumbel-softmax draws averaged per step. Paper: 1, which is almost one-hot. Ours: None is the
    expectation of the draw, shares = π of Eq. 11 with its exact gradient."""

    guidance_size: int | None = 128
    """Guidance samples per step at most; None takes every memorized sample of the batch seen
    before. Ours, for speed."""

    max_guidance_batch: int | None = None
    """Guidance samples evaluated at once at most; more are evaluated in pieces whose gradients are
    added up, with the same result to rounding. None is all at once. A batch whose rows cannot be
    taken alone is refused where it is larger. Ours, for memory; may differ when a run goes on."""

    guidance_labels: GuidanceLabels = "both"
    """Pointwise losses: guide by memorized positives and memorized negatives ("both", paper
    Sec. 2, where D holds y = 0 too), or by positives alone ("observed")."""

    guidance_interval: int = 4
    """Learn ψ and φ at every so many training steps. Paper: 1; ours costs less at the same
    quality (docs/results.md). Every step has its weights by the ψ of then."""

    on_nonfinite: OnNonFinite = "raise"
    """NaN or Inf in losses, gradients, ψ or φ: stop with a diagnosis ("raise"), or leave the batch
    out, count it in the epoch's record and go on ("skip"). No parameter changes by it. Ours."""

    seed: int = 0
    """Seed of the denoiser's own generators; the global random state is never touched."""

    def __post_init__(self) -> None:
        if isinstance(self.weight_inputs, (tuple, list)):
            object.__setattr__(self, "weight_inputs", tuple(self.weight_inputs))
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            try:  # the choice itself: a state dict holds none of numpy's strings and bools
                object.__setattr__(self, name, allowed[allowed.index(value)])
            except ValueError:
                raise DenoiserError(
                    f"Expected {name} to be one of {', '.join(map(repr, allowed))}, got "
                    f"{value!r}. Choose one of them."
                ) from None
        for name, (low, high, open_end) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if isinstance(value, bool) or not isinstance(value, Real):
                raise DenoiserError(f"Expected {name} to be a number, got {value!r}. Give one.")
            # numpy's numbers become Python's: a state dict holds plain values only. A real number
            # is a float even where it was written as 0, as stored text is compared, too.
            plain: float
            if name in _WHOLE:
                if not isinstance(value, Integral):
                    raise DenoiserError(
                        f"Expected {name} to be a whole number, got {value!r}. Give an int."
                    )
                plain = int(value)
            else:
                try:
                    plain = float(value)
                except OverflowError:
                    plain = math.inf
            object.__setattr__(self, name, plain)
            inside = low <= plain < high if open_end else low <= plain <= high
            if not inside:  # also where value is NaN
                bracket = ")" if open_end else "]"
                raise DenoiserError(
                    f"Expected {name} in [{low}, {high}{bracket}, got {value!r}. "
                    "Give a value in that range."
                )
        names = self.weight_inputs
        allowed_names = get_args(WeightInput)
        if names != "auto" and (
            not isinstance(names, tuple)
            or not names
            or any(name not in allowed_names for name in names)
            or len(set(names)) < len(names)
        ):
            raise DenoiserError(
                f"Expected weight_inputs to be 'auto' or distinct names out of {allowed_names}, "
                f"got {names!r}. Name at least one, each once."
            )
        if names != "auto":
            object.__setattr__(self, "weight_inputs", tuple(map(str, names)))

    @classmethod
    def paper(cls) -> DenoiserConfig:
        """The method as Sec. 3 and 4.1.4 print it (the slips of Eq. 12 mended).

        Source: Gao et al., SIGIR 2022; what remains different is in docs/deviations.md.
        """
        return cls(
            ranking="full",
            switch_timeout=60,  # against every item the switch may never come
            noise_rate_sample=1_000_000_000,
            gumbel_draws=1,
            similarity="paper",
            guidance_size=None,
            guidance_interval=1,
            assumed_lr=0.001,
            meta_lr=0.001,
            denoising_scheduler_lr=0.001,
            denoising_scheduler_entropy=0.0,
            weighting_entropy=0.0,
            memorized_data="switch",
            weight_inputs=("loss",),
            evidence_weights=False,
            weight_normalization="none",
        )

    @classmethod
    def authors(cls) -> DenoiserConfig:
        """As the authors' published code runs: sampled ranking, an LSTM without history."""
        return cls(
            ranking="sampled",
            gumbel_draws=64,
            similarity="paper",
            factor_history=1,
            guidance_size=None,
            guidance_interval=1,
            assumed_lr=0.001,
            meta_lr=0.001,
            denoising_scheduler_lr=0.001,
            denoising_scheduler_entropy=0.0,
            weighting_entropy=0.0,
            memorized_data="switch",
            weight_inputs=("loss",),
            evidence_weights=False,
            weight_normalization="none",
        )

    @classmethod
    def fast(cls) -> DenoiserConfig:
        """The defaults with ψ and φ learned at every twelfth step."""
        return cls(guidance_interval=12)

    def settled(self, *, pointwise: bool) -> DenoiserConfig:
        """With each "auto", and `meta_lr` and `weighting_entropy` of None, replaced by what suits
        the loss.

        Args:
            pointwise: whether unobserved pairs are samples of their own, with a label.
        """
        inputs, memorized = self.weight_inputs, self.memorized_data
        if inputs == "auto":
            inputs = ("loss",) if pointwise else ("suspicion",)
        if memorized == "auto":
            memorized = "steady" if pointwise else "current"
            if not self.denoising_learning:
                memorized = "switch"
        meta_lr = self.meta_lr
        if meta_lr is None:
            meta_lr = 0.005 if pointwise else 0.02
        entropy = self.weighting_entropy
        if entropy is None:
            entropy = 0.5 if self.evidence_weights else 0.0 if pointwise else 0.02
        return replace(
            self, weight_inputs=inputs, memorized_data=memorized, meta_lr=meta_lr,
            weighting_entropy=entropy,
        )  # fmt: skip

    @property
    def features(self) -> tuple[str, ...]:
        """What is read of a sample for its weight, by name: g's inputs, and b, where it counts.

        Settled: `weight_inputs` is not "auto".
        """
        return (*self.weight_inputs, *(("belief",) if self.evidence_weights else ()))

    def but(self, **changes: Any) -> DenoiserConfig:
        """A copy with some fields changed.

        Args:
            changes: fields and their new values.

        Raises:
            DenoiserError: a value outside its range, or a name that is no field.
        """
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Plain values only, as a state dict holds them."""
        inputs = self.weight_inputs
        return {**asdict(self), "weight_inputs": inputs if inputs == "auto" else list(inputs)}


_CHOICES: dict[str, tuple[Any, ...]] = {
    "ranking": get_args(Ranking),
    "loss_normalization": get_args(LossNormalization),
    "denoising_scheduler": get_args(DenoisingSchedulerName),
    "similarity": get_args(Similarity),
    "weight_normalization": get_args(WeightNormalization),
    "guidance_labels": get_args(GuidanceLabels),
    "denoising_learning": (True, False),
    "on_nonfinite": get_args(OnNonFinite),
    "audit_only": (True, False),
    "evidence_weights": (True, False),
    "memorized_data": get_args(MemorizedData),
}
# name: (lowest, highest, is the upper end open)
_RANGES: dict[str, tuple[float, float, bool]] = {
    "history_length": (1, 1000, False),
    "ranking_chunk": (1, math.inf, True),
    "noise_rate": (0, 1, True),
    "noise_rate_shift": (-1, 1, False),
    "noise_rate_sample": (10, math.inf, True),
    "switch_timeout": (1, math.inf, True),
    "assumed_lr": (0, math.inf, True),
    "meta_lr": (0, math.inf, True),
    "denoising_scheduler_lr": (0, math.inf, True),
    "denoising_scheduler_entropy": (0, math.inf, True),
    "weighting_entropy": (0, math.inf, True),
    "weight_hidden": (1, math.inf, True),
    "loss_smoothing": (0, 1, True),
    "denoising_scheduler_hidden": (1, math.inf, True),
    "factor_history": (1, 1000, False),
    "gumbel_tau": (1e-6, math.inf, True),
    "gumbel_draws": (1, math.inf, True),
    "guidance_size": (1, math.inf, True),
    "max_guidance_batch": (1, math.inf, True),
    "guidance_interval": (1, math.inf, True),
    "seed": (0, 2**63, True),
}
_OPTIONAL = {
    "noise_rate", "switch_timeout", "assumed_lr", "meta_lr", "weighting_entropy", "guidance_size",
    "max_guidance_batch", "gumbel_draws",
}  # fmt: skip
_WHOLE = {
    "history_length", "ranking_chunk", "noise_rate_sample", "switch_timeout", "weight_hidden",
    "denoising_scheduler_hidden", "factor_history", "gumbel_draws", "guidance_size",
    "max_guidance_batch", "guidance_interval", "seed",
}  # fmt: skip
