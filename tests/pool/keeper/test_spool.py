"""The spool: offsets without holes over segments, trims and restarts."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pool.keeper.spool import Spool


def make(directory: Path, segment_bytes: int = 1000) -> Spool:
    directory.mkdir(exist_ok=True)
    return Spool(directory, segment_bytes)


def read_all(spool: Spool, offset: int = 0) -> bytes:
    parts: list[bytes] = []
    while True:
        begin, data = spool.read(offset, 7000)
        if not data:
            return b"".join(parts)
        assert begin == max(offset, spool.start)
        parts.append(data)
        offset = begin + len(data)


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_segments_are_cut_at_the_first_line_end_above_the_size(tmp_path: Path) -> None:
    spool = make(tmp_path, 10)
    for data in (b"12345\n", b"1234567890123", b"456\nab\n", b"x" * 9 + b"\n", b"tail"):
        assert spool.append(data) == len(data)
    spool.close()
    assert names(tmp_path) == ["0000000000000000.out", "0000000000000023.out", "0000000000000036.out"]
    contents = [(tmp_path / name).read_bytes() for name in names(tmp_path)]
    assert contents == [b"12345\n1234567890123456\n", b"ab\n" + b"x" * 9 + b"\n", b"tail"]


def test_a_line_longer_than_many_segments_stays_whole(tmp_path: Path) -> None:
    spool = make(tmp_path, 10)
    line = b"y" * 5000 + b"\n"
    spool.append(line)
    spool.append(b"z\n")
    spool.close()
    assert (tmp_path / "0000000000000000.out").read_bytes() == line


def test_trimming_removes_whole_segments_and_reading_says_where_it_begins(tmp_path: Path) -> None:
    spool = make(tmp_path, 10)
    for index in range(10):
        spool.append(b"line %04d\n" % index)
    spool.trim(35)
    assert (spool.start, spool.end) == (30, 100)
    assert spool.read(0, 10) == (30, b"line 0003\n")
    spool.trim(10**9)
    assert spool.end == 100
    assert spool.read(0, 10) == (100, b"")
    spool.close()


def test_a_successor_reads_on_where_its_predecessor_stopped(tmp_path: Path) -> None:
    spool = make(tmp_path, 10)
    spool.append(b"0123456789\nabc")
    spool.close()
    again = make(tmp_path, 10)
    assert (again.start, again.end) == (0, 14)
    assert read_all(again) == b"0123456789\nabc"


def test_nothing_is_there_yet(tmp_path: Path) -> None:
    spool = make(tmp_path)
    assert (spool.start, spool.end, spool.read(0, 10), spool.read(99, 10)) == (0, 0, (0, b""), (99, b""))


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=60).map(lambda b: b.replace(b"\x01", b"\n")), max_size=30),
    size=st.integers(min_value=1, max_value=50),
)
def test_what_is_read_is_what_was_appended(chunks: list[bytes], size: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cp-") as directory:
        spool = Spool(Path(directory), size)
        whole = b""
        for chunk in chunks:
            assert spool.append(chunk) == len(chunk)
            whole += chunk
            assert spool.end == len(whole)
        assert read_all(spool) == whole
        for offset in range(0, len(whole), 7):
            assert spool.read(offset, 5)[1] == whole[offset : offset + 5][: len(spool.read(offset, 5)[1])]
        spool.close()
        joined = b"".join((Path(directory) / name).read_bytes() for name in names(Path(directory)))
        assert joined == whole


def test_a_disk_that_takes_nothing_loses_nothing(tmp_path: Path) -> None:
    spool = make(tmp_path / "s")
    assert spool.append(b"first\n") == 6
    spool.close()
    os.rename(tmp_path / "s", tmp_path / "away")
    assert spool.append(b"second\n") == 0
    assert str(spool.last_error).startswith("[Errno 2]")
    os.rename(tmp_path / "away", tmp_path / "s")
    assert spool.append(b"second\n") == 7
    assert str(spool.last_error) == "None"
    assert read_all(spool) == b"first\nsecond\n"
    spool.remove()
    assert not (tmp_path / "s").exists()
