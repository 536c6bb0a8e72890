"""The frames between a keeper and its server: length, kind, payload.

A frame is a 4-byte big-endian length of the payload, one byte of kind, and
the payload::

    1 JSON     one object: a request, an answer or an event
    2 OUTPUT   u32 handle, u64 offset, bytes      keeper to server
    3 INPUT    u32 handle, u64 sequence, bytes    server to keeper: one line
    4 READ     u64 request id, u64 offset, bytes  keeper to server

A request is ``{"id": n, "op": name, …}``; its answer has ``"re": n`` and
either the result's keys or ``"error": code`` with ``"message"``. A request
without an id gets no answer. An event is ``{"event": name, …}``. The first
request of a connection is ``hello`` with the range of versions that the
server speaks.

Version 2 added the requests ``upgrade`` and ``replace_gateway`` and the key
``code`` of the hello. Version 3 added ``rights`` to ``start``: below it they
would be passed over in silence, so a server must not ask such a keeper for any.
A keeper with ``gateway_uid`` in its hello takes that key in ``replace_gateway`` too; one of later code
also ``gateway_shown``, which others pass over.

A server whose connection may be held by somebody in between (SSH) promises in its hello
to say something every ``speaks_every`` seconds. A keeper with that key in its answer holds
it to it: the lease counts from its last word. ``alive`` is the word of who has nothing to say.
"""

from __future__ import annotations

import json
import struct
from typing import Any

VERSION_MIN = 1
VERSION_MAX = 3

KIND_JSON = 1
KIND_OUTPUT = 2
KIND_INPUT = 3
KIND_READ = 4

MAX_FRAME_BYTES = 136 * 1024 * 1024
DEFAULT_WINDOW_BYTES = 4 * 1024 * 1024

_HEADER = struct.Struct("!IB")
_STREAM = struct.Struct("!IQ")
_READ = struct.Struct("!QQ")


class WireError(Exception):
    """The peer sent bytes that are no frame; the connection is of no more use."""


def _frame(kind: int, *parts: bytes) -> bytes:
    return b"".join((_HEADER.pack(sum(map(len, parts)), kind), *parts))


def encode_json(message: dict[str, Any]) -> bytes:
    """A JSON frame."""
    return _frame(KIND_JSON, json.dumps(message, separators=(",", ":")).encode())


def encode_output(handle: int, offset: int, data: bytes) -> bytes:
    """Output of the instance attached as ``handle``; ``data`` begins at ``offset``."""
    return _frame(KIND_OUTPUT, _STREAM.pack(handle, offset), data)


def encode_input(handle: int, sequence: int, line: bytes) -> bytes:
    """One line for the stdin of the instance attached as ``handle``."""
    return _frame(KIND_INPUT, _STREAM.pack(handle, sequence), line)


def encode_read(request: int, offset: int, data: bytes) -> bytes:
    """The answer to a ``read`` request."""
    return _frame(KIND_READ, _READ.pack(request, offset), data)


def decode_json(payload: bytes) -> dict[str, Any]:
    """The object of a JSON frame. Raises ``WireError``."""
    try:
        message = json.loads(payload)
    except ValueError as error:
        raise WireError(f"not JSON: {error}") from None
    if not isinstance(message, dict):
        raise WireError("not a JSON object")
    return message


def decode_stream(payload: bytes) -> tuple[int, int, bytes]:
    """(handle, offset or sequence, bytes) of an OUTPUT or INPUT frame. Raises ``WireError``."""
    if len(payload) < _STREAM.size:
        raise WireError("short stream frame")
    handle, number = _STREAM.unpack_from(payload)
    return handle, number, payload[_STREAM.size :]


def decode_read(payload: bytes) -> tuple[int, int, bytes]:
    """(request id, offset, bytes) of a READ frame. Raises ``WireError``."""
    if len(payload) < _READ.size:
        raise WireError("short read frame")
    request, offset = _READ.unpack_from(payload)
    return request, offset, payload[_READ.size :]


class Decoder:
    """Cuts a byte stream into frames, however it was split on the way."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max = max_frame_bytes
        self._buffer = bytearray()

    @property
    def rest(self) -> bytes:
        """What came and is no whole frame yet."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take bytes in, give the (kind, payload) pairs that are complete. Raises ``WireError``."""
        self._buffer += data
        frames = []
        position = 0
        while len(self._buffer) - position >= _HEADER.size:
            length, kind = _HEADER.unpack_from(self._buffer, position)
            if length > self._max:
                raise WireError(f"a frame of {length} bytes is above the limit of {self._max}")
            end = position + _HEADER.size + length
            if end > len(self._buffer):
                break
            frames.append((kind, bytes(memoryview(self._buffer)[position + _HEADER.size : end])))
            position = end
        if position:
            del self._buffer[:position]
        return frames
