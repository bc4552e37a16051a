"""Every code block of docs/models_you_have_not_written.md runs, one after the other."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from sgdl_wrap import Phase
from tests.integrations.test_integration_pages import run_blocks

pytest.importorskip("lightning")
with warnings.catch_warnings():  # it scripts a class when it is imported, which torch has retired
    warnings.filterwarnings("ignore", "`torch.jit.*` is deprecated", DeprecationWarning)
    pytest.importorskip("torch_geometric.nn")


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_page_on_models_that_others_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_blocks("models_you_have_not_written.md", 4, {"__name__": "page"})
    for denoiser in (names["denoiser"], names["guided"].denoiser):
        assert denoiser.phase is Phase.SELF_GUIDED
        assert len(denoiser.history) == 12
