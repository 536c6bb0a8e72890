"""Files that a start request names: opened where they are said to be, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pool.keeper import opening
from pool.keeper.opening import open_file, open_log

WAYS: list[Callable[[Path, Path], None]] = [
    lambda path, target: path.symlink_to(target),
    lambda path, target: path.hardlink_to(target),
    lambda path, _target: os.mkfifo(path),
    lambda path, _target: path.mkdir(),
]


@contextmanager
def opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_a_file_is_read_from_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox" / "rules").write_text("rules")
    with opened(open_file(str(tmp_path / "sandbox" / "rules"))) as file:
        assert os.read(file, 9) == b"rules"
        assert not os.get_inheritable(file)


def test_a_log_is_made_with_its_directories_and_grows_at_its_end(tmp_path: Path) -> None:
    log = tmp_path / "egress" / "alice" / "connections.jsonl"
    for line in (b"one", b"two"):
        with opened(open_log(str(log))) as file:
            os.write(file, line)
    assert log.read_text() == "onetwo"
    assert {path.stat().st_mode & 0o077 for path in (log, log.parent, log.parent.parent)} == {0}


def test_a_long_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_LONG_LOG_BYTES", 3)
    log = tmp_path / "egress" / "alice" / "connections.jsonl"
    for line in (b"first", b"second"):
        with opened(open_log(str(log))) as file:
            os.write(file, line)
    assert log.read_text() == "second"
    assert log.with_name("connections.jsonl.1").read_text() == "first"


@pytest.mark.parametrize(
    ("make", "depth"),
    # a directory has one name, and is what is wanted above the file
    [*((make, 0) for make in WAYS), *((make, depth) for make in WAYS[::2] for depth in (1, 2))],
)
def test_what_is_something_else_is_neither_opened_nor_written_to(
    make: Callable[[Path, Path], None], depth: int, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    log = tmp_path / "egress" / "alice" / "connections.jsonl"
    place = [log, log.parent, log.parent.parent][depth]
    if depth:
        (target / "alice").mkdir(parents=True)
    else:
        target.write_text("of root")
    place.parent.mkdir(parents=True, exist_ok=True)
    make(place, target)
    with pytest.raises(OSError):  # noqa: PT011 - by the kernel or by us
        open_log(str(log))
    if depth == 0:
        with pytest.raises(OSError):  # noqa: PT011 - as above
            open_file(str(log))
        assert target.read_text() == "of root"
    else:
        assert list(target.iterdir()) == [target / "alice"]
        assert list((target / "alice").iterdir()) == []


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_file(str(tmp_path / "a" / "b"))
    assert list(tmp_path.iterdir()) == []
