"""Bytes in, lines with offsets out: the same lines however the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.protocol.framing import OVERSIZED_HEAD_BYTES, Line, LineFramer

BOUND = 12

awkward = st.sampled_from(
    [b"\n", b"\r\n", b"\r", b"\0", b"\xff\xfe", "ü".encode(), b"{}", b"x" * BOUND, b"y" * (BOUND + 1), b"z"]
)
streams = st.lists(awkward | st.binary(max_size=5), max_size=20).map(b"".join)


def reference(data: bytes, bound: int = BOUND, start: int = 0) -> list[Line]:
    """The plainest reading of the rule, one line at a time."""
    lines = []
    offset = start
    for piece in _by_newline(data):
        offset += len(piece)
        complete = piece.endswith(b"\n")
        body = piece[:-1] if complete else piece
        if len(body) > bound:
            lines.append(Line(offset, body[:OVERSIZED_HEAD_BYTES], True, complete))
        elif body.removesuffix(b"\r"):
            lines.append(Line(offset, body.removesuffix(b"\r"), False, complete))
    return lines


def _by_newline(data: bytes) -> list[bytes]:
    pieces = [piece + b"\n" for piece in data.split(b"\n")]
    pieces[-1] = pieces[-1][:-1]
    return [piece for piece in pieces if piece]


@given(streams, st.data())
def test_any_chunking_gives_the_lines_of_the_whole(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    framer = LineFramer(BOUND)
    lines = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        lines += framer.feed(stream[start:end])
        assert framer.fed_offset == end
    lines += framer.feed_eof()
    assert lines == reference(stream)
    assert framer.fed_offset == framer.line_offset == len(stream)


@given(streams)
def test_one_byte_at_a_time_gives_the_same(stream: bytes) -> None:
    framer = LineFramer(BOUND)
    lines = [line for byte in stream for line in framer.feed(bytes([byte]))]
    assert [*lines, *framer.feed_eof()] == reference(stream)


@given(streams, st.integers(0, 2**50))
def test_a_second_reader_that_begins_after_a_line_goes_on_with_the_same_offsets(
    stream: bytes, start: int
) -> None:
    whole = LineFramer(BOUND, start).feed(stream)
    for index, line in enumerate(whole):
        rest = LineFramer(BOUND, line.end_offset)
        assert rest.feed(stream[line.end_offset - start :]) == whole[index + 1 :]


def test_a_line_comes_with_the_offset_just_after_its_newline() -> None:
    framer = LineFramer()
    assert framer.feed(b'{"a":1}\n{"b"') == [Line(8, b'{"a":1}')]
    assert framer.line_offset == 8
    assert framer.fed_offset == 12
    assert framer.feed(b":2}\n") == [Line(16, b'{"b":2}')]


def test_empty_lines_say_nothing_but_count() -> None:
    assert LineFramer().feed(b"\n\r\n\na\r\n") == [Line(7, b"a")]


def test_a_line_above_the_bound_is_counted_and_dropped_and_the_next_one_is_read() -> None:
    framer = LineFramer(max_line_bytes=5000)
    for _ in range(100):
        assert framer.feed(b"x" * 1000) == []
    assert framer.feed(b"\nnext\n") == [
        Line(100_001, b"x" * OVERSIZED_HEAD_BYTES, oversized=True),
        Line(100_006, b"next"),
    ]


def test_a_line_of_exactly_the_bound_is_kept() -> None:
    assert LineFramer(5).feed(b"12345\n123456\n") == [Line(6, b"12345"), Line(13, b"123456", oversized=True)]


def test_what_stands_after_the_last_newline_is_a_partial_line_at_the_end() -> None:
    framer = LineFramer()
    assert framer.feed(b"whole\nhalf a li") == [Line(6, b"whole")]
    assert framer.feed_eof() == [Line(15, b"half a li", complete=False)]
    assert framer.feed_eof() == []


def test_an_oversized_line_without_an_end_holds_no_memory() -> None:
    framer = LineFramer(max_line_bytes=1000)
    for _ in range(1000):
        framer.feed(b"x" * 4096)
    held = framer.feed_eof()
    assert held == [Line(4_096_000, b"x" * OVERSIZED_HEAD_BYTES, oversized=True, complete=False)]


@pytest.mark.parametrize("chunk_bytes", [16, 4096])
def test_a_large_line_in_thousands_of_chunks_is_joined_once(chunk_bytes: int) -> None:
    # Quadratic joining would take minutes here; the test's timeout is the judge.
    size = 160_000 if chunk_bytes == 16 else 32_000_000
    framer = LineFramer()
    for _ in range(size // chunk_bytes):
        framer.feed(b"x" * chunk_bytes)
    (line,) = framer.feed(b"\n")
    assert len(line.data) == size - size % chunk_bytes
