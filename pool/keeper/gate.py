"""The rule for what may reach a CLI's stdin: one malformed line ends the CLI.

The CLI exits on anything that is not JSON as JavaScript reads it, on ``null``,
on a user message without a message of role ``user`` and on a control request
without a request (measured). Lines of other types are ignored by it or mean
nothing good (an injected ``assistant`` line, a change of its environment), so
only the five types that a host has to send pass.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_LINE_BYTES = 128 * 1024 * 1024


class BadLine(ValueError):
    """The line may not be written; the text says why. Nothing of it was."""


def check_line(line: bytes) -> bytes:
    """The line with exactly one newline at its end. Raises ``BadLine``."""
    body = line[:-1] if line.endswith(b"\n") else line
    if not body.strip():
        raise BadLine("an empty line")
    if len(body) >= MAX_LINE_BYTES:
        raise BadLine(f"a line of {len(body)} bytes")
    if b"\n" in body or b"\r" in body or b"\0" in body:
        raise BadLine("a newline or NUL inside the line")
    frame = _parse(body)
    if not isinstance(frame, dict):
        raise BadLine("not a JSON object")
    kind = frame.get("type")
    rule = _RULES.get(kind) if isinstance(kind, str) else None
    if rule is None:
        raise BadLine(f"not a type that a CLI is sent: {str(kind)[:40]!r}")
    rule(frame)
    return body + b"\n"


def _parse(body: bytes) -> object:
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise BadLine("nested too deeply") from None
    except ValueError as error:
        raise BadLine(f"not JSON: {error}"[:200]) from None


def _refuse_constant(name: str) -> NoReturn:
    # Python reads NaN and Infinity, JavaScript's JSON.parse throws
    raise BadLine(f"{name} is not JSON")


def _check_user(frame: dict[str, Any]) -> None:
    message = frame.get("message")
    if not isinstance(message, dict) or message.get("role") != "user":
        raise BadLine("a user frame needs a message of role 'user'")
    if not isinstance(message.get("content"), str | list):
        raise BadLine("a user message needs content: text or a list of blocks")


def _check_request(frame: dict[str, Any]) -> None:
    request = frame.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("subtype"), str):
        raise BadLine("a control_request needs a request with a subtype")
    _check_request_id(frame)


def _check_response(frame: dict[str, Any]) -> None:
    response = frame.get("response")
    if not isinstance(response, dict) or not isinstance(response.get("subtype"), str):
        raise BadLine("a control_response needs a response with a subtype")
    _check_request_id(response)


def _check_request_id(frame: dict[str, Any]) -> None:
    if not isinstance(frame.get("request_id"), str):
        raise BadLine("a control frame needs a request_id")


def _check_nothing(_frame: dict[str, Any]) -> None:
    pass


_RULES = {
    "user": _check_user,
    "control_request": _check_request,
    "control_response": _check_response,
    "control_cancel_request": _check_request_id,
    "keep_alive": _check_nothing,
}
