"""What a release promises: one version, quick and modest imports, docstrings that say it all."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sgdl_wrap
from sgdl_wrap.report.audit import Audit

ROOT = Path(__file__).resolve().parents[2]
UNASKED = (
    "accelerate", "lightning", "matplotlib", "pandas", "pyarrow",
    "pytorch_lightning", "recbole", "scipy", "sklearn", "tqdm",
)  # fmt: skip


def test_the_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (first, *_) = re.findall(r"^## (\S+)", text, flags=re.MULTILINE)
    assert first == sgdl_wrap.__version__


def test_the_package_is_typed_and_the_citation_names_the_paper() -> None:
    assert (ROOT / "sgdl_wrap" / "py.typed").exists()
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert "Self-Guided Learning to Denoise for Robust Recommendation" in citation


def test_an_import_brings_nothing_that_was_not_asked_for() -> None:
    script = "import sys, torch; had = set(sys.modules); import sgdl_wrap; " \
             "print('\\n'.join(set(sys.modules) - had))"  # fmt: skip
    command = [sys.executable, "-W", "error", "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    brought = set(ran.stdout.split())
    assert "sgdl_wrap.denoiser" in brought
    assert sorted(brought & set(UNASKED)) == []


# ------------------------------------------------------------------ docstrings


def public() -> Iterator[tuple[str, Any]]:
    """Every public name with each of its public methods and properties."""
    names = {name: getattr(sgdl_wrap, name) for name in sgdl_wrap.__all__}
    for name, thing in {**names, "Audit": Audit}.items():
        yield name, thing
        if inspect.isclass(thing):
            for part, value in vars(thing).items():
                value = getattr(value, "__func__", value)  # of a classmethod
                if not part.startswith("_") and (
                    inspect.isfunction(value) or isinstance(value, property)
                ):
                    yield f"{name}.{part}", value


PUBLIC = dict(public())
COMPUTES = [  # each stands for equations, or holds what they gave
    "SelfGuidedDenoiser", "SelfGuidedDenoiser.before_step", "SelfGuidedDenoiser.step",
    "SelfGuidedDenoiser.sample_weights", "SelfGuidedDenoiser.end_epoch",
    "SelfGuidedDenoiser.phase", "SelfGuidedDenoiser.memorization_point",
    "SelfGuidedDenoiser.noise_rate", "DenoiserConfig.paper", "EpochRecord", "Phase", "Audit",
]  # fmt: skip


def _is_error(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, Exception)


def text_of(thing: Any) -> str:
    return inspect.getdoc(thing.fget if isinstance(thing, property) else thing) or ""


def section(text: str, title: str) -> str:
    """The indented lines below a title of a docstring."""
    found = re.search(rf"^{title}:\n((?:[ ]+.*\n|\n)*)", text + "\n", flags=re.MULTILINE)
    return found.group(1) if found else ""


def parameters_of(thing: Any) -> list[str]:
    if isinstance(thing, property):
        return []
    if inspect.isclass(thing):  # fields of a dataclass are attributes, errors take a message
        if "__init__" not in vars(thing) or hasattr(thing, "__dataclass_fields__"):
            return []
        thing = thing.__init__
    return [name for name in inspect.signature(thing).parameters if name not in ("self", "cls")]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_says_what_it_is_and_takes(name: str) -> None:
    text = text_of(PUBLIC[name])
    assert text, f"{name} has no docstring"
    arguments = section(text, "Args")
    for parameter in parameters_of(PUBLIC[name]):
        if parameter == "path":
            continue  # a path is a path
        named = rf"^ +(\w+, )*{parameter}(, \w+)*:"
        assert re.search(named, arguments, flags=re.MULTILINE), f"{name} is silent on {parameter}"


def raises(function: Callable[..., Any]) -> set[str]:
    """The errors that a function raises by itself."""
    return set(re.findall(r"raise (\w+Error)\(", inspect.getsource(function)))


@pytest.mark.parametrize("name", [n for n, t in PUBLIC.items() if inspect.isfunction(t)])
def test_a_function_says_what_it_raises(name: str) -> None:
    told = section(text_of(PUBLIC[name]), "Raises")
    assert sorted(error for error in raises(PUBLIC[name]) if error not in told) == []


@pytest.mark.parametrize("name", COMPUTES)
def test_what_stands_for_a_formula_names_its_source(name: str) -> None:
    assert re.search(r"Eq\. \d|Sec\. \d", text_of(PUBLIC[name]))


def test_every_field_of_the_config_has_a_docstring_with_its_origin() -> None:
    source = inspect.getsource(sgdl_wrap.DenoiserConfig)
    fields = sgdl_wrap.DenoiserConfig.__dataclass_fields__
    documented = dict(
        re.findall(r'^    (\w+): [^\n]*\n    """(.*?)"""', source, flags=re.MULTILINE | re.DOTALL)
    )
    assert sorted(set(fields) - set(documented)) == []


def test_the_api_page_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: sgdl_wrap\.(\S+)$", page, flags=re.MULTILINE))
    errors = {n for n in sgdl_wrap.__all__ if _is_error(getattr(sgdl_wrap, n))}
    assert "errors" in shown  # a module, with all of them
    assert set(sgdl_wrap.__all__) - errors <= shown
