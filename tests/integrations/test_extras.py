"""Frameworks are imported only when asked for, and one that is missing is named with its extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMEWORKS = {"accelerate": "Accelerate", "lightning": "Lightning", "recbole": "RecBole",
              "huggingface": "Transformers"}  # fmt: skip
PACKAGES = {"huggingface": "transformers"}  # where the name is not the extra's


def printed(code: str) -> str:
    """By a process of its own, in which nothing is imported yet."""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_library_imports_no_framework() -> None:
    code = "import sys, sgdl_wrap, sgdl_wrap.integrations; print(*sys.modules)"
    assert set(printed(code).split()) & {*FRAMEWORKS, *PACKAGES.values()} == set()


@pytest.mark.parametrize(("extra", "name"), FRAMEWORKS.items())
def test_a_framework_that_is_missing_is_named_with_its_extra(extra: str, name: str) -> None:
    said = printed(
        f"import sys; name = '{PACKAGES.get(extra, extra)}'\n"
        "sys.modules[name] = None; sys.modules[f'{name}.pytorch'] = None\n"
        f"try: import sgdl_wrap.integrations.{extra}\n"
        "except ImportError as error: print(error)"
    )
    assert said.startswith(f"Expected {name}, got ")
    assert said.endswith(f". Run `pip install \"sgdl-wrap[{extra}]\"`.\n")
