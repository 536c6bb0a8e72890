"""Reading usage from passing bytes: exact, whatever the chunks are, and never confused by what is said."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.gateway.meter import MAX_LINE_BYTES, Reading, StreamMeter, Tokens, meter_for
from tests.server.gateway.wire import cut_at, event, message, stream

COUNTS = st.integers(0, 2**40)
TOKENS = st.builds(Tokens, COUNTS, st.integers(1, 2**40), COUNTS, COUNTS)
TRAPS = ['"usage"', '"usage": {"output_tokens": 9}', "\r\ndata: ", "message_delta", "é\u2028", ""]
WORDS = st.lists(st.sampled_from(TRAPS) | st.text(max_size=20), max_size=8)
PLACES = st.lists(st.integers(0, 10_000), max_size=40)


def read(pieces: list[bytes], kind: str = "text/event-stream; charset=utf-8", encoding: str = "") -> Reading:
    reading = Reading()
    meter = meter_for(kind, encoding, reading)
    assert meter is not None
    for piece in pieces:
        meter.feed(piece)
    meter.close()
    return reading


@settings(deadline=None)
@given(TOKENS, WORDS, PLACES, st.sampled_from(["\n", "\r\n", "\r"]))
def test_a_completed_stream_is_counted_exactly(
    tokens: Tokens, words: list[str], places: list[int], end: str
) -> None:
    reading = read(cut_at(b"".join(stream(tokens, words, end=end)), places))
    assert (reading.tokens, reading.model, reading.is_final) == (tokens, "claude-x", True)
    assert not reading.is_unreadable


@settings(deadline=None)
@given(TOKENS, WORDS, PLACES, st.integers(0, 10_000))
def test_a_cut_stream_is_counted_as_far_as_the_wire_told(
    tokens: Tokens, words: list[str], places: list[int], cut: int
) -> None:
    events = stream(tokens, words)
    raw = b"".join(events)
    cut %= len(raw)
    reading = read(cut_at(raw[:cut], places))
    # An event has told its figures with the end of its data line, one byte before its own end.
    first_told = cut >= len(events[0]) - 1
    last_told = cut >= len(raw) - len(events[-1]) - 1
    assert (reading.is_told, reading.is_final) == (first_told, last_told)
    expected = Tokens(tokens.input, tokens.output if last_told else 1, tokens.cache_write, tokens.cache_read)
    assert reading.tokens == (expected if first_told else Tokens())


@given(TOKENS, PLACES, st.sampled_from(["", "gzip"]))
@settings(max_examples=100, deadline=None)
def test_a_whole_message_is_counted_exactly(tokens: Tokens, places: list[int], encoding: str) -> None:
    raw = json.dumps(message(tokens, 'said "usage"')).encode()
    if encoding:
        raw = gzip.compress(raw)
    reading = read(cut_at(raw, places), "application/json", encoding)
    assert (reading.tokens, reading.model, reading.is_final) == (tokens, "claude-x", True)


def test_later_figures_replace_earlier_ones_and_nulls_do_not() -> None:
    start = {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 5}}}
    first = {"type": "message_delta", "usage": {"output_tokens": 3, "cache_read_input_tokens": 7}}
    second = {"type": "message_delta", "usage": {"output_tokens": 9, "cache_read_input_tokens": None}}
    reading = read([event(start), event(first), event(second)])
    assert reading.tokens == Tokens(input=5, output=9, cache_write=0, cache_read=7)


def test_events_without_a_name_line_count_too() -> None:
    body = {"type": "message_delta", "usage": {"output_tokens": 3}}
    assert read([b"data:" + json.dumps(body).encode() + b"\n\n"]).tokens.output == 3


def test_usage_in_other_events_is_not_counted() -> None:
    body = {"type": "content_block_start", "usage": {"output_tokens": 3}, "content_block": {"usage": 1}}
    assert not read([event(body)]).is_told


@pytest.mark.parametrize("usage", ["3", "[]", '{"output_tokens": "3"}', '{"output_tokens": 1.5}', "{"])
def test_figures_that_make_no_sense_are_told_as_such(usage: str) -> None:
    raw = f'data: {{"type": "message_delta", "usage": {usage}}}\n\n'.encode()
    reading = read([raw])
    assert reading.is_unreadable
    assert not reading.is_told


def test_a_line_without_end_is_not_held_in_memory() -> None:
    reading = Reading()
    meter = StreamMeter(reading)
    for _ in range(3 * MAX_LINE_BYTES // 65536):
        meter.feed(b"x" * 65536)
        assert len(meter._rest) <= MAX_LINE_BYTES
    meter.feed(b'"usage"\n' + event({"type": "message_delta", "usage": {"output_tokens": 3}}))
    assert reading.tokens.output == 3


def test_a_compressed_body_that_is_none_is_told_as_such() -> None:
    assert read([b"no gzip"], "text/event-stream", "gzip").is_unreadable


@pytest.mark.parametrize(("kind", "encoding"), [("text/html", ""), ("", ""), ("application/json", "br")])
def test_what_cannot_be_read_has_no_meter(kind: str, encoding: str) -> None:
    assert meter_for(kind, encoding, Reading()) is None
