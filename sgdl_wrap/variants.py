"""What the paper's tables vary: choices inside the method that most users never touch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from sgdl_wrap.fields import Range, check, refusing_unknown_names

LossNormalization = Literal["user", "global"]
DenoisingSchedulerName = Literal["lstm", "mlp", "top_f", "none"]
MemorizedData = Literal["switch", "current", "steady"]
Similarity = Literal["alignment", "paper"]
WeightInput = Literal["loss", "smoothed_loss", "memorization_rate", "suspicion", "observed"]
WeightNormalization = Literal["none", "mean"]
GuidanceLabels = Literal["both", "observed"]


@refusing_unknown_names
@dataclass(frozen=True, kw_only=True)
class Variants:
    """Choices inside the method; ``DenoiserConfig(variants=Variants(field=...))``.

    None means that the denoiser finds the value itself: for `memorized_data`, `weight_inputs` and
    `weighting_entropy` by the kind of the loss (`sgdl_wrap.config.BY_LOSS_KIND`), for `assumed_lr`
    from the optimizer. Origins: "paper" is the SGDL paper (SIGIR 2022), "authors" its published
    code and logs, "ours" a choice of this library, explained in docs/deviations.md.

    Raises:
        DenoiserError: at construction: a value outside its range, a name that is no field, or a
            value without a name.
    """

    # --- Phase I: memorization -------------------------------------------------------------

    loss_normalization: LossNormalization = "user"
    """Min-max scaling before the mixture: per user (authors) or over all interactions."""

    noise_rate_shift: Annotated[float, Range(-1, 1, closed=True)] = 0.0
    """Added to the noise rate before the switch is decided. Paper: Table 4, -0.1 to +0.1."""

    noise_rate_sample: Annotated[int, Range(10)] = 4_000
    """Losses the mixture is fitted on at most, evenly spaced by rank; its posterior is averaged
    over all. Ours."""

    # --- Phase II: self-guided learning ----------------------------------------------------

    denoising_learning: bool = True
    """False trains on the memorized data alone after the switch (paper, Table 3, w/o DLS)."""

    memorized_data: MemorizedData | None = None
    """M, the data that guide: those memorized at the switch ("switch", paper); by the last epoch
    ("current", ours); or, from the first epoch of Phase II on, those of them that were memorized in
    at least 95 % of the epochs of the history that have been lived ("steady", ours). M of an early
    switch are the easy interactions alone; guided by them for good, a model that is not yet done
    stays there. "switch" without `denoising_learning`."""

    guidance_labels: GuidanceLabels = "both"
    """Pointwise losses: guide by memorized positives and memorized negatives ("both", paper
    Sec. 2, where D holds y = 0 too), or by positives alone ("observed")."""

    assumed_lr: Annotated[float | None, Range(0)] = None
    """η1 of Eq. 7; None takes the first learning rate above 0 of the optimizers' groups. Paper:
    η1 = η2 tuned among 1e-4, 1e-3, 1e-2; ψ's own Adam cancels its scale to first order."""

    # --- the weighting function g ----------------------------------------------------------

    weight_inputs: tuple[WeightInput, ...] | None = None
    """What g reads of a sample. Paper: its loss ("loss"). Ours: what `report()` ranks by, from the
    switch on ("suspicion"), the losses' exponential average over visits since ("smoothed_loss"),
    the share of epochs it was memorized ("memorization_rate"), whether the pair was observed
    ("observed"). Losses are divided by the mean one of Phase I's last epoch, where that is above 1
    (deviation 21). By default ranking losses have the suspicion, as their loss of the moment
    depends on the negative that was drawn; pointwise ones the loss, as a history would tell g
    which samples are negatives, which have none."""

    weight_normalization: WeightNormalization = "mean"
    """"none": the sigmoid output (paper). "mean": divided by the batch mean, so that the data
    term keeps its scale against the user's penalty (ours)."""

    weighting_entropy: Annotated[float | None, Range(0)] = None
    """λ of the entropy term that keeps g from giving all to what aligns best with the guidance,
    however little it is ahead; its unit is the standard deviation of the samples' products with
    the guidance gradient (Eq. 16). 0 is the paper. Ours: None is 0.5 with `evidence_weights`,
    where "even" is what follows the evidence."""

    weight_hidden: Annotated[int, Range(1)] = 64
    """Hidden units of the weighting function g. Paper: 64."""

    loss_smoothing: Annotated[float, Range(0, 1)] = 0.8
    """Share of the past in the exponential average of a sample's loss. Ours."""

    # --- the denoising scheduler -----------------------------------------------------------

    denoising_scheduler: DenoisingSchedulerName = "lstm"
    """How guidance is chosen among the memorized. Paper: lstm; Table 5: mlp, top_f; Table 3,
    w/o ADS: none."""

    denoising_scheduler_lr: Annotated[float, Range(0)] = 0.005
    """η3, Adam's learning rate for the denoising scheduler φ. Ours, equal to η2."""

    denoising_scheduler_hidden: Annotated[int, Range(1)] = 64
    """Hidden units of the LSTM or MLP scheduler. Paper: 64."""

    denoising_scheduler_entropy: Annotated[float, Range(0)] = 30.0
    """λ of the entropy term that keeps the scheduler from giving all to the easiest samples, in
    standard deviations of the guidance losses; 0 is the paper. Ours: bench/results/README.md."""

    factor_history: Annotated[int, Range(1, 1000, closed=True)] = 3
    """T: visits of a memorized sample that the LSTM reads. Ours: the paper gives no length, the
    authors' code feeds one."""

    similarity: Similarity = "alignment"
    """The gradient factor of Eq. 10: "alignment" with the guidance gradient, standardised over
    the batch (ours), or "paper", the cosine before and after the assumed update, which is
    constant in practice (docs/deviations.md)."""

    gumbel_tau: Annotated[float, Range(1e-6)] = 0.05
    """τ of Eq. 12. Paper: 0.05."""

    gumbel_draws: Annotated[int | None, Range(1)] = None
    """Gumbel-softmax draws averaged per step. Paper: 1, which is almost one-hot. Ours: None is no
    limit, the expectation of the draw: shares = π of Eq. 11 with its exact gradient."""

    def __post_init__(self) -> None:
        check(self)
