"""Ways of training, each in its own file, behind one loop."""

from __future__ import annotations

from bench.methods.clean_only import CleanOnly
from bench.methods.deca import DeCA
from bench.methods.ir import InteractiveRelabelling
from bench.methods.method import Epochs, Method
from bench.methods.plain import Plain
from bench.methods.r_ce import ReweightedLoss
from bench.methods.sgcn import SGCN
from bench.methods.sgdl import SGDL
from bench.methods.sgl import SGL
from bench.methods.t_ce import TruncatedLoss
from bench.methods.wbpr import WBPR

METHODS: dict[str, type[Method]] = {
    "plain": Plain,
    "clean_only": CleanOnly,
    "sgdl": SGDL,
    "t_ce": TruncatedLoss,
    "r_ce": ReweightedLoss,
    "wbpr": WBPR,
    "ir": InteractiveRelabelling,
    "deca": DeCA,
    "sgcn": SGCN,
    "sgl": SGL,
}

__all__ = ["METHODS", "Epochs", "Method"]
