"""JSON as the CLI writes and reads it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.protocol.encoding import decode, encode, is_json

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_what_is_written_is_read_back_and_is_one_line_for_any_reader(value: Any) -> None:
    line = encode(value)
    assert decode(line) == value
    assert json.loads(line) == value
    assert not re.search("[\n\r\u2028\u2029]", line.decode())
    assert is_json(line)


@given(st.binary(max_size=40))
def test_the_check_agrees_with_the_reader(data: bytes) -> None:
    try:
        decode(data)
    except ValueError:
        assert not is_json(data)
    else:
        assert is_json(data)


def test_half_an_emoji_is_read_and_written_as_an_escape() -> None:
    assert decode(b'{"a":"\\ud83d"}') == {"a": "\ud83d"}
    assert encode({"a": "\ud83d"}) == b'{"a":"\\ud83d"}'
    assert is_json(b'{"a":"\\ud83d"}')


def test_numbers_beyond_64_bits_are_read() -> None:
    assert decode(b"123456789012345678901234567890") == 123456789012345678901234567890


@pytest.mark.parametrize(
    "data", [b"", b"NaN", b"[Infinity]", b'"\xff"', b"{} {}", b"\xef\xbb\xbf{}", b'"\x00"', b"[" * 100_000]
)
def test_what_is_not_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- the type is the contract, not the text
        decode(data)
    assert not is_json(data)


def test_line_separators_of_javascript_are_escaped() -> None:
    assert encode("a\u2028b\u2029c – d") == '"a\\u2028b\\u2029c – d"'.encode()
