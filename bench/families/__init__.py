"""The families of recommenders that the bench wraps, in plain PyTorch."""

from bench.families.factorization import BPR_MF, FM, POINTWISE_MF
from bench.families.family import Family, Settings
from bench.families.in_batch import MULT_VAE, TWO_TOWERS
from bench.families.of_paper import CDAE, LIGHTGCN, NEUMF, NGCF
from bench.families.sequences import GRU4REC, SASREC_BCE, SASREC_CE

FAMILIES = {
    family.name: family
    for family in (
        BPR_MF, NEUMF, CDAE, NGCF, LIGHTGCN, SASREC_BCE, SASREC_CE, GRU4REC, MULT_VAE, TWO_TOWERS,
        POINTWISE_MF, FM,
    )
}  # fmt: skip

__all__ = ["FAMILIES", "Family", "Settings"]
