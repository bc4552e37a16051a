"""Every equation is a pure function of arrays, with its source and an example that runs."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import sgdl_wrap.equations

FOLDER = Path(sgdl_wrap.equations.__file__).parent
MODULES = [
    importlib.import_module(f"sgdl_wrap.equations.{path.stem}")
    for path in sorted(FOLDER.glob("[a-z]*.py"))
]
# equations may use each other, and these; nothing of them knows a config, ranks or a model
ALLOWED = {"__future__", "collections", "dataclasses", "math", "numpy", "sklearn", "torch",
           "typing", "warnings"}  # fmt: skip
FORBIDDEN = ("Generator", "manual_seed", "get_rng_state", "distributed", "Module", "random")


def functions(module: ModuleType) -> Iterator[FunctionType]:
    for name, one in vars(module).items():
        if inspect.isfunction(one) and one.__module__ == module.__name__ and name[0] != "_":
            yield one


ALL = [pytest.param(one, id=one.__name__) for module in MODULES for one in functions(module)]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_examples_run(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert tried > 0
    assert failed == 0


@pytest.mark.parametrize("function", ALL)
def test_it_has_an_example_and_names_its_source(function: FunctionType) -> None:
    text = inspect.getdoc(function) or ""
    assert f"{function.__name__}(" in text.partition(">>>")[2]
    assert "Source: " in text


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "."


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_it_knows_no_config_no_ranks_no_streams_and_no_user_code(path: Path) -> None:
    tree = ast.parse(path.read_text())
    others = {name for name in imported(tree) if not name.startswith("sgdl_wrap.equations")}
    assert {name.partition(".")[0] for name in others} <= ALLOWED
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not names & set(FORBIDDEN)
