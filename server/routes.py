"""What a route is: one row from which the router, the sign-in rules and the OpenAPI document are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

import msgspec
from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict

from pool.errors import BadRequest
from server.auth.identity import IDENTITY, identity_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Model = TypeVar("_Model", bound=BaseModel)


class Access(Enum):
    """Who may use a route."""

    OPEN = "open"
    USER = "user"
    ADMIN = "admin"
    SCRAPER = "admin, or an address of server.metrics_addresses"


class Schema(BaseModel):
    """A JSON body or query of ours: unknown fields are refused, types are not guessed."""

    model_config = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One status that a route answers with; ``schema`` None: no body, or one that is not JSON."""

    description: str
    schema: type[BaseModel] | None = None
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method on one path (without ``server.base_path``).

    ``errors`` are the codes that it answers with besides those that every
    route has. A route that is not a GET needs a credential that may write,
    unless ``only_reads``.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, Answer]
    errors: tuple[str, ...] = ()
    access: Access = Access.USER
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    only_reads: bool = False

    @property
    def name(self) -> str:
        """The operation's id: unique, made of the handler's name."""
        return getattr(self.handler, "__name__", "operation")


def add_routes(app: web.Application, routes: Iterable[Route], base_path: str) -> None:
    """Serve ``routes`` below ``base_path``. A GET answers HEAD as well."""
    for route in routes:
        guarded = _guarded(route)
        path = base_path + route.path
        if route.method == hdrs.METH_GET:
            app.router.add_get(path, guarded, allow_head=_has_end(route))
        else:
            app.router.add_route(route.method, path, guarded)


def _has_end(route: Route) -> bool:
    """Is the answer a whole body, and neither a stream nor a socket?"""
    return 200 in route.answers and route.answers[200].media_type != "text/event-stream"


def _guarded(route: Route) -> Handler:
    needs_write = route.method not in (hdrs.METH_GET, hdrs.METH_HEAD) and not route.only_reads

    async def guarded(request: web.Request) -> web.StreamResponse:
        # Without an identity the gate has let the request in by its address.
        if route.access is Access.SCRAPER and IDENTITY in request:
            identity_of(request).require_admin()
        elif route.access in (Access.USER, Access.ADMIN):
            identity = identity_of(request)
            if route.access is Access.ADMIN:
                identity.require_admin()
            if needs_write:
                identity.require_write()
        return await route.handler(request)

    return guarded


def json_response(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json", headers=headers
    )


async def body_of(request: web.Request, schema: type[_Model]) -> _Model:
    """The JSON body. Raises ``BadRequest`` or a validation error that becomes one."""
    raw = await request.read()
    if not raw:
        return schema.model_validate({})
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest("the body is not JSON") from error
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return schema.model_validate(body)


def query_of(request: web.Request, schema: type[_Model]) -> _Model:
    """The query, each parameter at most once. Raises a validation error, or ``BadRequest``."""
    values = dict(request.query)
    if len(values) != len(request.query):
        raise BadRequest("a query parameter is given twice")
    return schema.model_validate(values, strict=False)
