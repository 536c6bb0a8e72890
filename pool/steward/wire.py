"""What server and steward say to each other over their pair of sockets.

A frame is four bytes of length and a body. The server's are JSON, since a
steward unpickles nothing that came from a server: ``{"id", "verb",
"arguments"}``. The steward's are pickled ``(id, kind, value)``; it is root and
can do to the server what it likes anyway.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Mapping
from typing import Any, Protocol

from pool import errors
from pool.errors import PoolError

RESULT = "result"
"""The verb's result."""
ITEM = "item"
"""The next item of what it gives piece by piece."""
END = "end"
"""There are no more items."""
FAILURE = "failure"
"""It raised: what ``failure`` makes of it."""

MAX_REQUEST_BYTES = 8 * 1024 * 1024
_HEAD = struct.Struct(">I")

Reply = tuple[int, str, Any]


class Socket(Protocol):
    """What of a socket is needed here."""

    def recv(self, size: int, /) -> bytes:
        """See ``socket``."""

    def sendall(self, data: bytes, /) -> None:
        """See ``socket``."""

    def shutdown(self, how: int, /) -> None:
        """See ``socket``."""


class BadFrame(Exception):
    """What came is no frame of ours."""


def request(number: int, verb: str, arguments: Mapping[str, Any]) -> bytes:
    """A request as it is sent. Raises ``TypeError`` for arguments that are not plain."""
    body = json.dumps({"id": number, "verb": verb, "arguments": dict(arguments)}).encode()
    return _HEAD.pack(len(body)) + body


def parse_request(body: bytes) -> tuple[int, str, dict[str, Any]]:
    """(id, verb, arguments). Raises ``BadFrame``."""
    try:
        plain = json.loads(body)
        number, verb, arguments = plain["id"], plain["verb"], plain["arguments"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadFrame("not a request") from error
    if type(number) is not int or not isinstance(verb, str) or not isinstance(arguments, dict):
        raise BadFrame("not a request")
    return number, verb, arguments


def reply(number: int, kind: str, value: Any) -> bytes:
    """A reply as it is sent."""
    body = pickle.dumps((number, kind, value))
    return _HEAD.pack(len(body)) + body


def parse_reply(body: bytes) -> Reply:
    """The way back."""
    number, kind, value = pickle.loads(body)
    return number, kind, value


def receive(sock: Socket, limit: int | None = None) -> bytes | None:
    """The next frame's body, None at the end. Raises ``BadFrame`` above ``limit`` bytes, ``OSError``."""
    head = _exactly(sock, _HEAD.size)
    if head is None:
        return None
    (size,) = _HEAD.unpack(head)
    if limit is not None and size > limit:
        raise BadFrame(f"a frame of {size} bytes")
    return _exactly(sock, size)


def _exactly(sock: Socket, size: int) -> bytes | None:
    found = bytearray()
    while len(found) < size:
        piece = sock.recv(min(size - len(found), 1 << 20))
        if not piece:
            return None
        found += piece
    return bytes(found)


def failure(error: BaseException) -> dict[str, Any]:
    """An error as plain data: a ``PoolError`` whole, an ``OSError`` by its number, of others the type."""
    if isinstance(error, PoolError):
        return {
            "type": type(error).__name__,
            "message": error.message,
            "retry_after_seconds": error.retry_after_seconds,
            "details": error.details,
        }
    if isinstance(error, OSError):
        return {"errno": error.errno, "message": error.strerror or str(error)}
    return {"type": "PoolError", "message": f"the steward failed: {type(error).__name__}"}


def raised(plain: Mapping[str, Any]) -> Exception:
    """The way back from ``failure``."""
    if "errno" in plain:
        return OSError(plain["errno"], plain["message"])
    kind = getattr(errors, plain["type"], PoolError)
    if not (isinstance(kind, type) and issubclass(kind, PoolError)):
        kind = PoolError
    return kind(
        plain["message"],
        retry_after_seconds=plain.get("retry_after_seconds"),
        details=plain.get("details"),
    )
