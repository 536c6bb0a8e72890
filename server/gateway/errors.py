"""Errors in the shape of the Messages API, which the CLI understands."""

from __future__ import annotations

from typing import Any

from aiohttp import web


def error_body(kind: str, message: str) -> dict[str, Any]:
    """The body of an error of type ``kind``."""
    return {"type": "error", "error": {"type": kind, "message": message}}


def error_answer(status: int, kind: str, message: str, *, retry: bool | None = None) -> web.Response:
    """An error answer; ``retry`` tells the client whether to try again, None leaves it to the status."""
    headers = {} if retry is None else {"x-should-retry": str(retry).lower()}
    return web.json_response(error_body(kind, message), status=status, headers=headers)
