"""What the README and the pages name exists; tests/pages/test_pages.py runs their code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sgdl_wrap

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_code_is_on_the_first_screen() -> None:
    assert README.splitlines().index("```python") < 12


def test_it_is_read_in_some_minutes() -> None:
    assert len(re.sub(r"```.*?```", "", README, flags=re.DOTALL).split()) <= 900


def test_there_are_exactly_two_commands_and_the_check_runs_the_second() -> None:
    assert "`pip install sgdl-wrap`" in README
    commands = re.findall(r"```bash\n(.*?)\n```", README, flags=re.DOTALL)
    assert [command.rsplit("&& ", 1)[1] for command in commands] == [
        ".venv/bin/python -m examples.quickstart",
        ".venv/bin/python -m pytest",
    ]
    marker = README.index("<!-- the project's check runs the next command -->")
    assert README.index(commands[1]) > marker > README.index(commands[0])
    assert commands[1] in (ROOT / ".ci" / "tests").read_text().splitlines()


def test_every_name_of_the_argument_table_is_an_argument() -> None:
    import inspect

    parameters = set(inspect.signature(sgdl_wrap.SelfGuidedDenoiser).parameters)
    named = set(re.findall(r"^\| `(\w+)", README, flags=re.MULTILINE))
    assert named <= parameters
    assert {"loss_fn", "interactions", "score_fn", "pair_fn"} <= named


NAMING = ["README.md", *(f"docs/{name}.md" for name in (
    "deviations", "distributed", "limits", "method", "wrap_your_own",
))]  # fmt: skip


@pytest.mark.parametrize("page", NAMING)
def test_every_file_named_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`((?:sgdl_wrap|tests|examples|docs)/[\w/.]+)`", text))
    named |= set(re.findall(r"\]\(((?:docs|tests)/[\w/.]+)\)", text))
    if page.startswith("docs/"):
        named |= {f"docs/{name}" for name in re.findall(r"\]\(([\w/]+\.\w+)(?:#[^)]*)?\)", text)}
    assert named
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert missing == []


def test_public_names_are_sorted_and_present() -> None:
    assert sorted(sgdl_wrap.__all__) == sgdl_wrap.__all__
    for name in sgdl_wrap.__all__:
        assert hasattr(sgdl_wrap, name)
