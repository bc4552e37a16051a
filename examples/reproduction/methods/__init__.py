"""Ways of training, each in its own file, behind one loop."""

from __future__ import annotations

from examples.reproduction.methods.clean_only import CleanOnly
from examples.reproduction.methods.deca import DeCA
from examples.reproduction.methods.ir import InteractiveRelabelling
from examples.reproduction.methods.method import Epochs, Method
from examples.reproduction.methods.plain import Plain
from examples.reproduction.methods.r_ce import ReweightedLoss
from examples.reproduction.methods.sgcn import SGCN
from examples.reproduction.methods.sgdl import SGDL
from examples.reproduction.methods.sgl import SGL
from examples.reproduction.methods.t_ce import TruncatedLoss
from examples.reproduction.methods.wbpr import WBPR

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
