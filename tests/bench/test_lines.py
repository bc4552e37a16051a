from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from bench.lines import Lines


def test_each_line_is_new_once(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "deeper" / "file.jsonl")
    assert lines.new() == []
    lines.add({"a": 1})
    Lines(lines.path).add({"b": 2})
    assert [json.loads(line) for line in lines.new()] == [{"a": 1}, {"b": 2}]
    assert lines.new() == []
    lines.add({"c": 3})
    assert [json.loads(line) for line in lines.new()] == [{"c": 3}]


def test_a_torn_line_is_not_continued(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "file.jsonl")
    lines.path.write_text('{"a": 1}\n{"b"')
    assert lines.new() == [b'{"a": 1}']
    lines.add({"c": 3})
    assert lines.new() == [b'{"b"', b'{"c": 3}']


def test_what_json_has_no_word_for_is_not_written(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "file.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        lines.add({"a": float("nan")})
    assert not lines.path.exists()


def write(path: str, writer: int) -> None:
    for number in range(50):
        Lines(path).add({"writer": writer, "number": number, "filling": "x" * 5000})


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    path = tmp_path / "file.jsonl"
    writers = [context.Process(target=write, args=(str(path), number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = [json.loads(line) for line in Lines(path).new()]
    for number in range(3):
        assert [r["number"] for r in found if r["writer"] == number] == list(range(50))
