"""JSON of the CLI's protocol: strict reading that never surprises, writing in one line."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import msgspec

_DECODER = msgspec.json.Decoder()
_ENCODER = msgspec.json.Encoder()
_VALIDATOR = msgspec.json.Decoder(msgspec.Raw)


def decode(data: bytes) -> Any:
    """Read one JSON value. Raises ``ValueError`` for anything else, invalid UTF-8 included.

    What msgspec refuses but JSON allows is read by the standard library: lone
    surrogates (the CLI cuts texts between the two halves of an emoji) and
    numbers beyond 64 bits.
    """
    try:
        return _DECODER.decode(data)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def is_json(data: bytes) -> bool:
    """Would ``decode`` take it? Builds no values: a fraction of a microsecond for a delta."""
    try:
        _VALIDATOR.decode(data)
        if not data.isascii():
            data.decode("utf-8")
    except (ValueError, RecursionError):
        return _is_json_after_all(data)
    return True


def encode(value: Any) -> bytes:
    """Write ``value`` as JSON in one line without its newline.

    U+2028 and U+2029 are escaped: readers of lines in JavaScript take them
    for line ends.
    """
    try:
        data = _ENCODER.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    if b"\xe2\x80" in data:
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return data


def _is_json_after_all(data: bytes) -> bool:
    try:
        decode(data)
    except ValueError:
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
