"""Self-guided denoising learning for any PyTorch recommender (SGDL, SIGIR 2022)."""

from sgdl_wrap.checkpoint import load_checkpoint, save_checkpoint
from sgdl_wrap.config import DenoiserConfig
from sgdl_wrap.denoiser import SelfGuidedDenoiser
from sgdl_wrap.errors import (
    BatchError,
    DenoiserError,
    DenoiserWarning,
    InteractionsError,
    LossError,
    NoiseRateError,
    NonFiniteError,
    OptimizerError,
    OrderError,
    ScoreError,
    StateError,
    SwitchError,
    UnsupportedModelError,
)
from sgdl_wrap.ranks.resharding import merge_states
from sgdl_wrap.records import EpochRecord, Phase
from sgdl_wrap.variants import Variants

__version__ = "0.1.0"

__all__ = [
    "BatchError",
    "DenoiserConfig",
    "DenoiserError",
    "DenoiserWarning",
    "EpochRecord",
    "InteractionsError",
    "LossError",
    "NoiseRateError",
    "NonFiniteError",
    "OptimizerError",
    "OrderError",
    "Phase",
    "ScoreError",
    "SelfGuidedDenoiser",
    "StateError",
    "SwitchError",
    "UnsupportedModelError",
    "Variants",
    "load_checkpoint",
    "merge_states",
    "save_checkpoint",
]
