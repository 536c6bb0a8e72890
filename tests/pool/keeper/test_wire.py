"""Frames survive any way of being split, and nonsense is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.keeper import wire

_frames = st.lists(st.binary(max_size=2000), max_size=8)


@given(contents=_frames, cuts=st.lists(st.integers(min_value=0, max_value=20000)))
def test_frames_come_out_as_they_went_in_however_they_are_split(
    contents: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(wire.encode_output(7, index, data) for index, data in enumerate(contents))
    decoder = wire.Decoder()
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    frames = [frame for begin, end in pairwise(places) for frame in decoder.feed(stream[begin:end])]
    assert [wire.decode_stream(payload) for _kind, payload in frames] == [
        (7, index, data) for index, data in enumerate(contents)
    ]


def test_every_kind_says_what_it_was_told() -> None:
    decoder = wire.Decoder()
    [(kind, payload)] = decoder.feed(wire.encode_json({"op": "list", "id": 3}))
    assert (kind, wire.decode_json(payload)) == (wire.KIND_JSON, {"op": "list", "id": 3})
    [(kind, payload)] = decoder.feed(wire.encode_input(1, 2**40, b"line\n"))
    assert (kind, wire.decode_stream(payload)) == (wire.KIND_INPUT, (1, 2**40, b"line\n"))
    [(kind, payload)] = decoder.feed(wire.encode_read(9, 2**50, b""))
    assert (kind, wire.decode_read(payload)) == (wire.KIND_READ, (9, 2**50, b""))


def test_a_frame_above_the_limit_is_refused_before_it_is_read() -> None:
    decoder = wire.Decoder(max_frame_bytes=100)
    with pytest.raises(wire.WireError, match="101"):
        decoder.feed(wire.encode_output(1, 0, b"x" * 89)[:5])


@pytest.mark.parametrize("payload", [b"", b"null", b"[1]", b"{", b"\xff"])
def test_json_frames_hold_an_object(payload: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_json(payload)


def test_short_stream_frames_are_refused() -> None:
    with pytest.raises(wire.WireError):
        wire.decode_stream(b"123")
    with pytest.raises(wire.WireError):
        wire.decode_read(b"123")
