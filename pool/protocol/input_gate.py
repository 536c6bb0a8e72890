"""What may be written to the CLI's stdin: one bad line there ends the process.

The rule, which the keeper implements a second time with the standard library
only (``tests/pool/protocol/input_corpus.py`` checks both):

1. One line of UTF-8: after at most one newline at its end there is no other
   line break (LF, CR) and no NUL byte.
2. A JSON object; NaN and Infinity are not JSON.
3. Its ``type`` is one of these, with at least these parts:

   - ``user``: ``message`` is an object with ``role`` "user" and ``content``, a
     string or a list.
   - ``control_request``: ``request_id`` is a string, ``request`` is an object
     whose ``subtype`` is a string.
   - ``control_response``: ``response`` is an object whose ``request_id`` and
     ``subtype`` are strings.
   - ``control_cancel_request``: ``request_id`` is a string.
   - ``keep_alive``.

What a user's message may hold is a matter of ``pool.protocol.content``: this
rule only keeps the process alive.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

from pool.errors import BadRequest


def check_input_line(line: bytes) -> dict[str, Any]:
    """The object of a line that is fit for the CLI. Raises ``BadRequest`` for any other."""
    body = line.removesuffix(b"\n")
    if b"\n" in body or b"\r" in body or b"\0" in body:
        raise BadRequest("input must be one line without line breaks or NUL bytes")
    try:
        # Not msgspec: the keeper has only the standard library, and both must agree on every byte.
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"input is not JSON in UTF-8: {error}"[:200]) from None
    if not isinstance(value, dict):
        raise BadRequest("input must be a JSON object")
    kind = value.get("type")
    check = _CHECKS.get(kind) if isinstance(kind, str) else None
    if check is None:
        raise BadRequest(f"input type must be one of {', '.join(_CHECKS)}")
    problem = check(value)
    if problem is not None:
        raise BadRequest(f"{kind}: {problem}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_user(value: dict[str, Any]) -> str | None:
    message = value.get("message")
    if not isinstance(message, dict) or message.get("role") != "user":
        return "message must be an object with role 'user'"
    if not isinstance(message.get("content"), str | list):
        return "content must be text or a list of blocks"
    return None


def _check_request(value: dict[str, Any]) -> str | None:
    request = value.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("subtype"), str):
        return "request must be an object with a subtype"
    return _check_id(value)


def _check_response(value: dict[str, Any]) -> str | None:
    response = value.get("response")
    if not isinstance(response, dict) or not isinstance(response.get("subtype"), str):
        return "response must be an object with a subtype"
    return _check_id(response)


def _check_id(value: dict[str, Any]) -> str | None:
    return None if isinstance(value.get("request_id"), str) else "request_id must be a string"


_CHECKS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "user": _check_user,
    "control_request": _check_request,
    "control_response": _check_response,
    "control_cancel_request": _check_id,
    "keep_alive": lambda _: None,
}
