"""What goes between server and steward comes out as it went in, and nothing else does."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import Conflict, NotFound, PoolError, QuotaExceeded
from pool.steward import wire

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.integers(), st.text(), st.dictionaries(st.text(), plain, max_size=3))
def test_a_request_comes_out_as_it_went_in(number: int, verb: str, arguments: dict[str, Any]) -> None:
    body = wire.request(number, verb, arguments)[4:]
    assert wire.parse_request(body) == (number, verb, arguments)


@given(st.binary(max_size=200) | plain.map(lambda value: __import__("json").dumps(value).encode()))
def test_whatever_is_no_request_is_a_bad_frame(body: bytes) -> None:
    try:
        number, verb, arguments = wire.parse_request(body)
    except wire.BadFrame:
        return
    assert type(number) is int
    assert isinstance(verb, str)
    assert isinstance(arguments, dict)


def test_frames_that_come_byte_by_byte_are_whole() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for byte in wire.request(1, "homes", {}) + wire.request(2, "homes", {}):
            theirs.send(bytes([byte]))
        theirs.close()
        for number in (1, 2):
            body = wire.receive(ours, wire.MAX_REQUEST_BYTES)
            assert body is not None
            assert wire.parse_request(body)[0] == number
        assert wire.receive(ours) is None


def test_a_frame_that_is_too_long_is_refused_before_it_is_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send((wire.MAX_REQUEST_BYTES + 1).to_bytes(4, "big"))
        with pytest.raises(wire.BadFrame):
            wire.receive(ours, wire.MAX_REQUEST_BYTES)


def test_errors_of_the_pool_come_back_whole() -> None:
    error = QuotaExceeded("too much", retry_after_seconds=3, details={"of": "disk"})
    back = wire.raised(wire.failure(error))
    assert isinstance(back, QuotaExceeded)
    assert (back.message, back.retry_after_seconds, back.details) == ("too much", 3, {"of": "disk"})
    assert isinstance(wire.raised(wire.failure(NotFound("no"))), NotFound)
    assert not isinstance(wire.raised(wire.failure(NotFound("no"))), Conflict)


def test_errors_of_the_system_come_back_by_their_number() -> None:
    back = wire.raised(wire.failure(FileNotFoundError(errno.ENOENT, "gone", "/a/secret/place")))
    assert isinstance(back, FileNotFoundError)
    assert "secret" not in str(back)


def test_of_any_other_error_only_the_type_is_told() -> None:
    back = wire.raised(wire.failure(ValueError("a secret")))
    assert isinstance(back, PoolError)
    assert back.message == "the steward failed: ValueError"
