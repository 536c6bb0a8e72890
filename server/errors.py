"""The one table from errors to HTTP statuses and the JSON body that every error has.

``{"error": {"code", "message", "retry_after"?, "details"?}}``. An error that
nobody raised on purpose is ``internal``: its details go to the log only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import ValidationError

from pool.errors import BadRequest, PoolError, Refused, StoreTimeout
from server.counts import Counts

_log = logging.getLogger(__name__)

DEFAULT_RETRY_AFTER_SECONDS = 5.0
_CODE = web.ResponseKey("error_code", str)


class Unauthorized(Refused):
    """No credential, or one that is not valid (any more)."""

    code: ClassVar[str] = "unauthorized"


class BadOrigin(Refused):
    """The request comes from a page, or under a host name, that is not ours."""

    code: ClassVar[str] = "bad_origin"


class MethodNotAllowed(Refused):
    """There is such a path, but not with this method."""

    code: ClassVar[str] = "method_not_allowed"


class TooManyConnections(Refused):
    """The caller has as many open sockets and streams as one user may have."""

    code: ClassVar[str] = "too_many_connections"


class NoOwner(Refused):
    """No replica owns the pool now, or not the one that was asked; another takes over."""

    code: ClassVar[str] = "no_owner"


STATUSES: Mapping[str, int] = {
    "invalid_name": 400,
    "bad_request": 400,
    "bad_cursor": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "bad_origin": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "already_resolved": 409,
    "key_reused": 409,
    "conflict": 409,
    "too_large": 413,
    "quota_exceeded": 429,
    "rate_limited": 429,
    "internal": 500,
    "launch_failed": 502,
    "instance_gone": 502,
    "input_blocked": 503,
    "isolation_unavailable": 503,
    "uids_exhausted": 503,
    "keeper_unavailable": 503,
    "host_refused": 503,
    "host_unavailable": 503,
    "store_unavailable": 503,
    "queue_full": 503,
    "too_many_connections": 503,
    "pool_full": 503,
    "launches_paused": 503,
    "draining": 503,
    "no_owner": 503,
}

# What aiohttp itself raises, by status; any other is a bad request.
_CODES_OF_STATUSES = {403: "forbidden", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
_MESSAGES = {
    404: "there is nothing at this address",
    405: "this address does not know the method",
    413: "the body is above the configured bound",
}
_BAD = "this is no request that can be understood"


def status_of(error: PoolError) -> int:
    """The HTTP status of an error of ours; 500 for a code without a row."""
    return STATUSES.get(error.code, 500)


def describe(error: PoolError) -> dict[str, Any]:
    """``code``, ``message``, ``retry_after`` and ``details`` of an error, for any of the views."""
    status = status_of(error)
    if status == 500:
        return {"code": "internal", "message": "something went wrong on the server; its log says what"}
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    retry_after = retry_after_seconds(error)
    if retry_after is not None:
        body["retry_after"] = retry_after
    if error.details and isinstance(error, Refused | StoreTimeout):
        body["details"] = error.details
    return body


def retry_after_seconds(error: PoolError) -> int | None:
    """Whole seconds after which to try again; always known for 429 and 503."""
    seconds = error.retry_after_seconds
    if seconds is None:
        if status_of(error) not in (429, 503):
            return None
        seconds = DEFAULT_RETRY_AFTER_SECONDS
    return max(1, -int(-seconds // 1))


def error_response(error: PoolError, *, headers: Mapping[str, str] | None = None) -> web.Response:
    """The JSON answer for ``error``."""
    body = describe(error)
    all_headers = dict(headers or {})
    if "retry_after" in body:
        all_headers["Retry-After"] = str(body["retry_after"])
    if error.code == "unauthorized":
        all_headers["WWW-Authenticate"] = 'Bearer realm="claude-pool"'
    response = web.Response(
        body=msgspec.json.encode({"error": body}, enc_hook=str),
        status=status_of(error),
        content_type="application/json",
        headers=all_headers,
    )
    response[_CODE] = body["code"]
    return response


def from_validation(error: ValidationError) -> PoolError:
    """A refused body as ``bad_request`` with one line for each bad field."""
    fields = [
        {"field": ".".join(map(str, item["loc"])), "message": item["msg"].removeprefix("Value error, ")}
        for item in error.errors(include_input=False, include_url=False, include_context=False)
    ]
    text = "; ".join(f"{item['field'] or 'body'}: {item['message']}" for item in fields)
    return BadRequest(f"the body does not fit: {text}", details={"fields": fields})


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def route_of(request: web.BaseRequest) -> str:
    """The address as it is declared, for logs: what stands in the place of a name may be a secret."""
    try:
        resource = request.match_info.route.resource if isinstance(request, web.Request) else None
    except AssertionError:
        # Malformed HTTP: it was never held against the routes.
        resource = None
    return resource.canonical if resource is not None else "none"


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns whatever is raised below it into the contract's answer."""
    try:
        return await handler(request)
    except PoolError as error:
        if status_of(error) == 500:
            _log.exception("a request failed on our side", extra={"route": route_of(request)})
        return error_response(error)
    except ValidationError as error:
        return error_response(from_validation(error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return http_error(error.status, error.headers.get("Allow"))
    except (web.RequestPayloadError, HttpProcessingError):
        # A chunk, a length or a compression that is none: what is left on the connection means nothing.
        response = http_error(400)
        response.force_close()
        return response
    except (asyncio.CancelledError, ConnectionError):
        raise
    except Exception:  # noqa: BLE001 - the net under all requests
        _log.exception("a request failed on our side", extra={"route": route_of(request)})
        return error_response(PoolError("internal"))


def http_error(status: int, allow: str | None = None) -> web.Response:
    """The JSON answer for an error of HTTP itself; nothing of the request is in it."""
    code = _CODES_OF_STATUSES.get(status, "internal" if status >= 500 else "bad_request")
    message = _MESSAGES.get(status) or (describe(PoolError("internal"))["message"] if status >= 500 else _BAD)
    response = web.Response(
        body=msgspec.json.encode({"error": {"code": code, "message": message}}),
        status=status,
        content_type="application/json",
        headers={} if allow is None else {"Allow": allow},
    )
    response[_CODE] = code
    return response


def count_errors(counts: Counts) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """A signal of aiohttp's: counts every error that is about to be answered."""

    async def count(_request: web.Request, response: web.StreamResponse) -> None:
        code = response.get(_CODE)
        if code is not None:
            counts.errors.add("http", code)

    return count
