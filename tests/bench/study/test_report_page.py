"""The page as a command: a small picture, and beside it where it came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.study.report_page import main


def test_the_page_is_saved_with_its_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pictures"
    main(["--data", "generated", "--model", "lightgcn", "--epochs", "1", "--out", str(out)])
    from PIL import Image

    picture = out / "lightgcn.png"
    with Image.open(picture) as image:
        assert image.size == (1080, 1200)
    assert picture.stat().st_size < 150_000
    origin = (out / "lightgcn.txt").read_text(encoding="utf-8").splitlines()
    command = "python -m bench.study.report_page --data FOLDER --model lightgcn --epochs 1 --seed 0"
    assert origin[0] == command
    assert origin[1].startswith("commit ")
    assert capsys.readouterr().out.startswith("epoch 1, memorization: ")
