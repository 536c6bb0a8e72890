"""Errors in the shape of the Messages API, which the CLI understands."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from server.gateway.budgets import Use
    from server.gateway.rates import TooFast
    from server.gateway.upstream import UpstreamTrouble


def error_body(kind: str, message: str) -> dict[str, Any]:
    """The body of an error of type ``kind``."""
    return {"type": "error", "error": {"type": kind, "message": message}}


def error_answer(status: int, kind: str, message: str, *, retry: bool | None = None) -> web.Response:
    """An error answer; ``retry`` tells the client whether to try again, None leaves it to the status."""
    headers = {} if retry is None else {"x-should-retry": str(retry).lower()}
    return web.json_response(error_body(kind, message), status=status, headers=headers)


def budget_answer(user: str, use: Use) -> web.Response:
    """The user has used up a limit: told at once and not retried: hours may pass until it resets."""
    message = f"The usage limit of {user or 'this session'} is reached: {use}. An administrator can raise it."
    # Measured with the CLI: 429 reads as a limit and x-should-retry ends it at once; a 403 it words
    # as a failure to authenticate.
    return error_answer(429, "rate_limit_error", message, retry=False)


def rate_answer(reached: TooFast) -> web.Response:
    """The user or a team calls too fast: the CLI waits as long as it is told and tries again by itself."""
    message = f"Too many model calls or tokens in a minute; {reached}."
    response = error_answer(429, "rate_limit_error", message, retry=True)
    response.headers["retry-after"] = str(max(1, math.ceil(reached.seconds)))
    return response


def model_answer(message: str) -> web.Response:
    """The model is not one that this user, or this provider, may be asked for."""
    return error_answer(400, "invalid_request_error", message, retry=False)


def key_answer(provider: str) -> web.Response:
    """Users bring their own keys for this provider, and this one has not."""
    message = f"The provider {provider} needs a key of your own: enter one in your account."
    return error_answer(400, "invalid_request_error", message, retry=False)


def trouble_answer(trouble: UpstreamTrouble) -> web.Response:
    """There is no answer of the provider; clients try again by their own rules."""
    response = error_answer(trouble.status, trouble.kind, str(trouble))
    if trouble.retry_after_seconds is not None:
        response.headers["retry-after"] = str(math.ceil(trouble.retry_after_seconds))
    return response
