"""Every promise of the README that can be run is run; every file that the docs name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import sgdl_wrap

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_first_code_block_runs_through_both_phases(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[0]
    names: dict[str, object] = {"__name__": "readme"}
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the code is a user's and draws from the global stream
        exec(compile(code, "README.md", "exec"), names)  # it is our own README
    denoiser = names["denoiser"]
    assert isinstance(denoiser, sgdl_wrap.SelfGuidedDenoiser)
    assert len(denoiser.history) == 30
    assert "Phase.SELF_GUIDED" in capsys.readouterr().out


def test_code_block_of_ones_own_backward_runs() -> None:
    code = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(2, 1))
        users, items = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        denoiser = sgdl_wrap.SelfGuidedDenoiser(
            model, optimizer,
            lambda m, b: m(torch.stack(b, 1).float()).squeeze(1).square(),
            interactions=(users, items),
            score_fn=lambda m, u, i: m(torch.stack([u, i], 1).float()).squeeze(1),
        )  # fmt: skip
        before = [p.detach().clone() for p in model.parameters()]
        names = {"torch": torch, "denoiser": denoiser, "optimizer": optimizer, "model": model}
        exec(code, {**names, "batch": (users, items)})
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_code_is_on_the_first_screen() -> None:
    assert README.splitlines().index("```python") < 12


def test_there_are_exactly_two_commands_and_the_check_runs_the_second() -> None:
    commands = re.findall(r"```bash\n(.*?)\n```", README, flags=re.DOTALL)
    assert [command.rsplit("&& ", 1)[1] for command in commands] == [
        ".venv/bin/python -m examples.quickstart",
        ".venv/bin/python -m pytest",
    ]
    marker = README.index("<!-- the project's check runs the next command -->")
    assert README.index(commands[1]) > marker > README.index(commands[0])
    assert "the project.s check runs" in (ROOT / ".ci" / "run").read_text()


def test_every_name_of_the_argument_table_is_an_argument() -> None:
    import inspect

    parameters = set(inspect.signature(sgdl_wrap.SelfGuidedDenoiser).parameters)
    named = set(re.findall(r"^\| `(\w+)", README, flags=re.MULTILINE))
    assert named <= parameters
    assert {"loss_fn", "interactions", "score_fn", "pair_fn"} <= named


@pytest.mark.parametrize(
    "page", ["README.md", "docs/method.md", "docs/deviations.md", "docs/distributed.md"]
)
def test_every_file_named_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`((?:sgdl_wrap|tests|examples|docs)/[\w/.]+)`", text))
    named |= set(re.findall(r"\]\(((?:docs|tests)/[\w/.]+)\)", text))
    assert named
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert missing == []


def test_public_names_are_sorted_and_present() -> None:
    assert sorted(sgdl_wrap.__all__) == sgdl_wrap.__all__
    for name in sgdl_wrap.__all__:
        assert hasattr(sgdl_wrap, name)
