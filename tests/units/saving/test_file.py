"""The file itself: every damage is refused, every writer succeeds, and odd paths are named."""

from __future__ import annotations

import os
import random
import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sgdl_wrap import StateError, load_checkpoint, save_checkpoint
from tests.support.crafted_files import changed, crafted, with_digest, with_pickle, without_digest
from tests.support.interrupts import Interrupt
from tests.support.models_zoo import assert_identical

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX files")
CONTENT = {"table": torch.arange(12.0).reshape(3, 4), "epoch": 7, "name": "run"}
WHOLE = r"^Expected a whole checkpoint, got "


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "run.pt", **CONTENT)
    return tmp_path / "run.pt"


# ------------------------------------------------------------------ damage


def test_every_flipped_bit_is_refused(place: Path) -> None:
    whole = place.read_bytes()
    with open(place, "r+b", buffering=0) as file:
        for at, byte in enumerate(whole):
            for bit in range(8):
                file.seek(at)
                file.write(bytes([byte ^ 1 << bit]))
                with pytest.raises(StateError, match=WHOLE):
                    load_checkpoint(place)
            file.seek(at)
            file.write(bytes([byte]))
    assert_identical(load_checkpoint(place), CONTENT)


def test_flipped_bits_of_a_large_file_are_refused(place: Path) -> None:
    """Larger than what is read at a time."""
    save_checkpoint(place, table=torch.rand(700_000))
    whole = place.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(whole)), 30):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        place.write_bytes(damaged)
        with pytest.raises(StateError, match=WHOLE + r".*run\.pt with another digest: changed or"):
            load_checkpoint(place)


@pytest.mark.parametrize("change", [lambda whole: whole + b"\0", lambda whole: b"\0" + whole])
def test_bytes_before_or_after_are_refused(place: Path, change: Callable[[bytes], bytes]) -> None:
    place.write_bytes(change(place.read_bytes()))
    with pytest.raises(StateError, match=WHOLE):
        load_checkpoint(place)


# ------------------------------------------------------------------ files made to be read wrongly


def directory_of(archive: bytes) -> int:
    """Where its directory begins."""
    return int(struct.unpack_from("<Q", archive, len(archive) - 98 + 48)[0])


def entries_of(archive: bytes) -> list[int]:
    """Where each entry of its directory begins."""
    found, start = [], directory_of(archive)
    while archive[start : start + 4] == b"PK\1\2":
        found.append(start)
        start += 46 + sum(struct.unpack_from("<3H", archive, start + 28))
    return found


def test_the_archive_is_read_as_these_tests_take_it(place: Path) -> None:
    archive = without_digest(place)
    assert len(entries_of(archive)) >= 5
    with_digest(place, archive)
    assert_identical(load_checkpoint(place), CONTENT)
    changed(place, lambda name, data: data)
    assert_identical(load_checkpoint(place), CONTENT)


def test_a_directory_attribute_is_refused_although_the_digest_fits(place: Path) -> None:
    """torch leaves the memory of such an entry as it was."""
    archive = without_digest(place)
    for start in entries_of(archive):
        altered = bytearray(archive)
        altered[start + 38] |= 0x10
        with_digest(place, bytes(altered))
        with pytest.raises(StateError, match=WHOLE + r".*never writes: archive/\S+ is a folder"):
            load_checkpoint(place)


def test_content_that_would_inflate_is_refused(place: Path) -> None:
    changed(place, lambda name, data: data, compressed=True)
    with pytest.raises(StateError, match=r"never writes: archive/\S+ is compressed or encrypted"):
        load_checkpoint(place)


def test_any_byte_of_the_directory_changed_is_refused_or_changes_nothing(place: Path) -> None:
    archive = without_digest(place)
    draw = random.Random(1)
    for at in range(directory_of(archive), len(archive) - 2):
        altered = bytearray(archive)
        altered[at] = (altered[at] + draw.randrange(1, 256)) % 256
        with_digest(place, bytes(altered))
        try:
            found = load_checkpoint(place)
        except StateError:
            continue
        assert_identical(found, CONTENT)


def test_an_entry_under_two_names_is_refused(place: Path) -> None:
    archive = without_digest(place)
    assert archive.count(b"archive/version") == 2
    with_digest(place, archive.replace(b"archive/version", b"archive/Data/0\0"))
    with pytest.raises(StateError, match=r"never writes: names that can be taken for one another"):
        load_checkpoint(place)


PICKLES = {
    "bytearray(2**35)": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x08\x85R.",
    "another one": b"\x80\x02c__builtin__\nbytearray\nJ\x00\x00\x00\x7f\x85R.",
    "a number as persistent id": b"\x80\x02K\x05Q.",
    "a list as persistent id": b"\x80\x02]Q.",
    "a short persistent id": b"\x80\x02X\x07\x00\x00\x00storage\x85Q.",
    "an unhashable key": b"\x80\x02}]K\x01s.",
    "nothing to return": b"\x80\x02.",
    "unknown opcodes": b"\x80\x02\xff\xfe.",
    "a torn pickle": b"\x80\x02X\xff\x00\x00\x00ab",
    "no pickle": b"",
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_crafted_pickle_is_refused(place: Path, name: str) -> None:
    with_pickle(place, PICKLES[name])
    with pytest.raises(StateError, match=r"^Expected .*run\.pt.* Load another checkpoint"):
        load_checkpoint(place)


def test_a_bytearray_is_refused_by_its_name(place: Path) -> None:
    with_pickle(place, PICKLES["bytearray(2**35)"])
    with pytest.raises(StateError, match=r"^Expected tensors and plain values .* got bytearray in"):
        load_checkpoint(place)
    with pytest.raises(StateError, match=r"got bytearray in .* Save bytes or a tensor in its plac"):
        save_checkpoint(place, mask=bytearray(3))
    save_checkpoint(place, mask=b"\0\0\0", kind="bytearray")
    assert load_checkpoint(place) == {"mask": b"\0\0\0", "kind": "bytearray"}


@pytest.mark.parametrize(
    "parts",
    [None, [], 3, "model", {1: 2}, {"a": 1, 2: 3}, {None: 0, "a": 1}, {("a",): 1}],
    ids=repr,
)
def test_parts_that_have_no_names_are_refused(place: Path, parts: Any) -> None:
    crafted(place, {"sgdl_wrap_checkpoint": 2, "parts": parts})
    with pytest.raises(StateError, match=r"^Expected parts by their names in the checkpoint .*run"):
        load_checkpoint(place, model=torch.nn.Linear(1, 1))


@pytest.mark.parametrize("mark", [None, True, 2.0, "2", [2], torch.ones(2)], ids=str)
def test_another_kind_of_format_is_refused(place: Path, mark: Any) -> None:
    crafted(place, {"sgdl_wrap_checkpoint": mark, "parts": {}})
    with pytest.raises(StateError, match=r"^Expected checkpoint format 2, got "):
        load_checkpoint(place)


# ------------------------------------------------------------------ writers


def test_twenty_writers_to_one_path_all_succeed(tmp_path: Path) -> None:
    place = tmp_path / "run.pt"
    failures: list[BaseException] = []

    def write(writer: int) -> None:
        try:
            for turn in range(5):
                value = 100 * writer + turn
                save_checkpoint(place, table=torch.full((2000,), value), value=value)
                found = load_checkpoint(place)  # whoever wrote it: whole
                assert found["table"].eq(found["value"]).all()
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    assert load_checkpoint(place)["value"] % 100 == 4  # somebody's last
    assert list(tmp_path.iterdir()) == [place]


# at the line where it would have been closed, nothing can close a file but the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupted_at_any_line_the_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    place = tmp_path / "run.pt"
    save_checkpoint(place, table=torch.zeros(50), epoch=1)
    kept = place.read_bytes()
    outcomes = []
    for at in range(1, 10_000):
        place.write_bytes(kept)
        with Interrupt(at) as interrupt:
            save_checkpoint(place, table=torch.ones(50), epoch=2)
        outcomes.append(load_checkpoint(place)["epoch"])
        assert list(tmp_path.iterdir()) == [place]
        if interrupt.lines < at:
            break
    assert outcomes == sorted(outcomes)  # old ones, then new ones
    assert outcomes.count(1) > 50
    assert outcomes[-1] == 2


def test_an_interrupt_is_raised_although_another_error_is_being_handled(place: Path) -> None:
    class Pressed:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    try:
        raise OSError("of the caller")
    except OSError:
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(place, part=Pressed())
        with pytest.raises(StateError, match=r"^Expected to write .* got .*lambda.*\. Save "):
            save_checkpoint(place, part=lambda: None)
    assert_identical(load_checkpoint(place), CONTENT)


@POSIX
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_the_permissions_of_a_file_survive(place: Path, mode: int) -> None:
    place.chmod(mode)
    save_checkpoint(place, epoch=8)
    assert stat.S_IMODE(place.stat().st_mode) == mode
    assert load_checkpoint(place) == {"epoch": 8}


@POSIX
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_new_file_has_the_permissions_of_any_new_file(
    tmp_path: Path, mask: int, mode: int
) -> None:
    before = os.umask(mask)
    try:
        save_checkpoint(tmp_path / "run.pt", epoch=8)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run.pt").stat().st_mode) == mode


@POSIX
def test_what_was_left_there_is_neither_written_to_nor_in_the_way(place: Path) -> None:
    precious = place.with_name("precious.txt")
    precious.write_text("precious")
    place.with_name("run.pt.partial").symlink_to(precious)
    place.with_name("run.pt.partial-0123456789abcdef").write_bytes(place.read_bytes()[:100])
    save_checkpoint(place, epoch=8)
    assert load_checkpoint(place) == {"epoch": 8}
    assert precious.read_text() == "precious"
    assert len(list(place.parent.iterdir())) == 4


@POSIX
def test_a_dangling_link_gets_its_file(tmp_path: Path) -> None:
    (tmp_path / "link.pt").symlink_to(tmp_path / "run.pt")
    save_checkpoint(tmp_path / "link.pt", epoch=8)
    assert load_checkpoint(tmp_path / "run.pt") == {"epoch": 8}
    assert (tmp_path / "link.pt").is_symlink()


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    place = tmp_path / ("n" * 252 + ".pt")
    save_checkpoint(place, epoch=8)
    assert load_checkpoint(place) == {"epoch": 8}
    assert list(tmp_path.iterdir()) == [place]


# ------------------------------------------------------------------ paths that are no file's


def a_loop(folder: Path) -> Path:
    (folder / "one").symlink_to(folder / "other")
    (folder / "other").symlink_to(folder / "one")
    return folder / "one"


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def a_socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(folder)  # their names are short
        try:
            listener.bind("socket")
        finally:
            os.chdir(before)
    return folder / "socket"


def under_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "run.pt"


ODD: dict[str, Callable[[Path], Any]] = {
    "a folder": lambda folder: folder,
    "the root": lambda _: "/",
    "nothing": lambda _: "",
    "a NUL byte": lambda folder: str(folder / "run\0.pt"),
    "a loop of links": a_loop,
    "a name too long": lambda folder: folder / ("n" * 300),
    "a pipe": a_pipe,
    "a socket": a_socket,
    "a device": lambda _: "/dev/null",
    "an endless device": lambda _: "/dev/zero",
    "a file as a folder": under_a_file,
    "no path": lambda _: None,
    "bytes": lambda folder: os.fsencode(folder / "run.pt"),
}


@POSIX
@pytest.mark.parametrize("name", ODD)
def test_a_path_that_can_be_no_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = ODD[name](tmp_path)
    before = sorted(tmp_path.iterdir())
    for call in (lambda: save_checkpoint(path, epoch=1), lambda: load_checkpoint(path)):
        with pytest.raises(StateError, match=r"(?s)^Expected .*, got .*\. Pass the path of a file"):
            call()
    assert sorted(tmp_path.iterdir()) == before


@POSIX
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_refused_by_its_reason(place: Path) -> None:
    place.chmod(0)
    with pytest.raises(StateError, match=r"^Expected to read .*run\.pt, got PermissionError: "):
        load_checkpoint(place)
