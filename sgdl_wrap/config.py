"""The settings that a user may want, each with its range and its origin."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal, cast

from sgdl_wrap.fields import Range, check, kinds, refuse_unknown, refusing_unknown_names
from sgdl_wrap.variants import Variants

Ranking = Literal["sampled", "full"]
LossKind = Literal["auto", "ranking", "pointwise"]
OnNonFinite = Literal["raise", "skip"]

BY_LOSS_KIND: dict[str, dict[str, Any]] = {
    "ranking": {
        "meta_lr": 0.02,
        "memorized_data": "current",
        "weight_inputs": ("suspicion",),
        "weighting_entropy": 0.02,
    },
    "pointwise": {
        "meta_lr": 0.005,
        "memorized_data": "steady",
        "weight_inputs": ("loss",),
        "weighting_entropy": 0.0,
    },
}
"""What each setting that is None becomes, by the kind of the loss; see `DenoiserConfig.settled`."""


@refusing_unknown_names
@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """Settings of a denoiser; ``config.but(field=...)`` is a copy with some changed.

    None means that the denoiser finds the value itself (`noise_rate`, `meta_lr`), or that there is
    no limit (`switch_timeout`, `guidance_size`, `max_guidance_batch`). Origins: "paper" is the
    SGDL paper (SIGIR 2022), "authors" its published code and logs, "ours" a choice of this
    library, explained in docs/deviations.md.

    Raises:
        DenoiserError: at construction: a value outside its range, a name that is no field, or a
            value without a name.
    """

    # --- Phase I: memorization -------------------------------------------------------------

    history_length: Annotated[int, Range(1, 1000, closed=True)] = 20
    """h of Eq. 1: epochs of memorization history. Paper: tuned among 2, 5, 10, 20; the longest is
    the safest where large batches make epochs short: none switches within its first h/2."""

    switch_timeout: Annotated[int | None, Range(1)] = None
    """Switch after this many epochs even if Eq. 3 does not hold; None waits for ever. Ours."""

    noise_rate: Annotated[float | None, Range(0, 1)] = None
    """A known noise rate; None estimates it (Eq. 4). Ours."""

    ranking: Ranking = "sampled"
    """Candidates that decide memorization: a user's observed items against as many sampled
    unobserved ones ("sampled", authors), or against every item ("full", paper Sec. 3.1.1)."""

    ranking_chunk: Annotated[int, Range(1)] = 32_768
    """Pairs scored in one call of `score_fn` at an epoch's end. Ours: bounds memory, and fits a
    processor's cache; raise it for a graph model that trains in batches as large."""

    audit_only: bool = False
    """Phase I for ever: training stays as it is and is watched for `report()`. Ours."""

    # --- Phase II: self-guided learning ----------------------------------------------------

    loss_kind: LossKind = "auto"
    """"ranking": each sample compares an observed item with others. "pointwise": unobserved pairs
    are samples of their own, with a label. "auto" is what the batches of the last epoch of Phase I
    showed. Some settings follow it (`BY_LOSS_KIND`). Ours."""

    evidence_weights: bool = True
    """True: weights are b^(2 g(x; ψ)), b = 1 - p but for its mean in each fifth of popularity, p
    the probability that nobody chose the pair, as far as that is sure (deviation 23). Where nothing
    is sure p is 0 and weights are 1. False: g(x; ψ) alone (paper). Ours."""

    meta_lr: Annotated[float | None, Range(0)] = None
    """η2, Adam's learning rate for the weighting function ψ. Ours: None takes 0.02 for ranking
    losses and 0.005 for pointwise ones, which have fewer epochs left when Phase II begins."""

    guidance_interval: Annotated[int, Range(1)] = 4
    """Learn ψ and φ at every so many training steps. Paper: 1; ours costs less at the same
    quality (bench/results/README.md). Every step has its weights by the ψ of then."""

    guidance_size: Annotated[int | None, Range(1)] = 128
    """Guidance samples per step at most; None takes every memorized sample of the batch seen
    before. Ours, for speed."""

    max_guidance_batch: Annotated[int | None, Range(1)] = None
    """Guidance samples evaluated at once at most; more are evaluated in pieces whose gradients are
    added up, with the same result to rounding. None is all at once. A batch whose rows cannot be
    taken alone is refused where it is larger. Ours, for memory; may differ when a run goes on."""

    # --- the run ---------------------------------------------------------------------------

    on_nonfinite: OnNonFinite = "raise"
    """NaN or Inf in losses, gradients, ψ or φ: stop with a diagnosis ("raise"), or leave the batch
    out, count it in the epoch's record and go on ("skip"). No parameter changes by it. Ours."""

    seed: Annotated[int, Range(0, 2**63)] = 0
    """Seed of the denoiser's own generators; the global random state is never touched."""

    variants: Variants = field(default_factory=Variants)
    """Choices inside the method, which the paper's tables vary."""

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def paper(cls) -> DenoiserConfig:
        """The method as Sec. 3 and 4.1.4 print it (the slips of Eq. 12 mended).

        Source: Gao et al., SIGIR 2022; what remains different is in docs/deviations.md.
        """
        return _as_published(
            noise_rate_sample=1_000_000_000,
            gumbel_draws=1,
        ).but(
            ranking="full",
            switch_timeout=60,  # against every item the switch may never come
        )

    @classmethod
    def authors(cls) -> DenoiserConfig:
        """As the authors' published code runs: sampled ranking, an LSTM without history."""
        return _as_published(factor_history=1, gumbel_draws=64)

    @classmethod
    def fast(cls) -> DenoiserConfig:
        """The defaults with ψ and φ learned at every twelfth step."""
        return cls(guidance_interval=12)

    def settled(self, *, pointwise: bool) -> DenoiserConfig:
        """With what follows the kind of the loss filled in: no such setting is None any more.

        Args:
            pointwise: what the batches showed; `loss_kind` counts if it is not "auto".
        """
        kind = self.loss_kind
        if kind == "auto":
            kind = "pointwise" if pointwise else "ranking"
        defaults = dict(BY_LOSS_KIND[kind])
        if not self.variants.denoising_learning:
            defaults["memorized_data"] = "switch"
        if self.evidence_weights:
            defaults["weighting_entropy"] = 0.5
        open_ones = {name: value for name, value in defaults.items() if self._at(name) is None}
        return self.but(loss_kind=kind, **open_ones)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What g reads of a sample, by name. Settled: `weight_inputs` is not None."""
        return cast("tuple[str, ...]", self.variants.weight_inputs)

    @property
    def features(self) -> tuple[str, ...]:
        """What is read of a sample for its weight, by name: g's inputs, and b, where it counts."""
        return (*self.inputs, *(("belief",) if self.evidence_weights else ()))

    def but(self, **changes: Any) -> DenoiserConfig:
        """A copy with some fields changed, its own or those of its variants.

        Args:
            changes: fields and their new values.

        Raises:
            DenoiserError: a value outside its range, or a name that is no field.
        """
        refuse_unknown(changes, DenoiserConfig, Variants)
        inside = {name: changes.pop(name) for name in kinds(Variants) if name in changes}
        if inside:
            variants = changes.get("variants", self.variants)
            changes["variants"] = replace(variants, **inside)
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """All fields, those of the variants among them, in plain values, as a state dict holds
        them; ``DenoiserConfig().but(**fields)`` is the config again."""
        found = asdict(self)
        found |= found.pop("variants")
        if found["weight_inputs"] is not None:
            found["weight_inputs"] = list(found["weight_inputs"])
        return found

    def _at(self, name: str) -> Any:
        """A field of the config or of its variants."""
        return getattr(self if name in kinds(DenoiserConfig) else self.variants, name)


def _as_published(**variants: Any) -> DenoiserConfig:
    """What the paper and the authors' code share."""
    return DenoiserConfig(
        evidence_weights=False,
        guidance_interval=1,
        guidance_size=None,
        meta_lr=0.001,
        variants=Variants(
            assumed_lr=0.001,
            denoising_scheduler_entropy=0.0,
            denoising_scheduler_lr=0.001,
            memorized_data="switch",
            similarity="paper",
            weight_inputs=("loss",),
            weight_normalization="none",
            weighting_entropy=0.0,
            **variants,
        ),
    )
