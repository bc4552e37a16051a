"""Frameworks are imported only when asked for, and one that is missing is named with its extra."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_a_missing_recbole_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("sgdl_wrap.integrations.recbole")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.split(".")[0] == "recbole"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "recbole", None)
    with pytest.raises(ImportError, match=r"Run `pip install sgdl-wrap\[recbole\]`\.$"):
        import sgdl_wrap.integrations.recbole  # noqa: F401


def test_the_library_imports_no_framework() -> None:
    code = "import sys, sgdl_wrap, sgdl_wrap.integrations; print('recbole' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert ran.stdout.strip() == "False", ran.stderr
