"""A line a request in the log."""

from __future__ import annotations

import logging

from aiohttp import hdrs, web
from aiohttp.abc import AbstractAccessLogger

from server.auth.identity import IDENTITY
from server.errors import route_of

_QUIET_PATHS = ("/livez", "/readyz", "/health", "/metrics")


class AccessLog(AbstractAccessLogger):
    """One line a request: never the address as it was given, a header or a body."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Called by aiohttp when a request is over."""
        identity = request.get(IDENTITY)
        route = route_of(request)
        level = logging.DEBUG if route.endswith(_QUIET_PATHS) else logging.INFO
        self.logger.log(
            level,
            "request",
            extra={
                "method": request.method if request.method in hdrs.METH_ALL else "other",
                "route": route,
                "status": response.status,
                "milliseconds": round(time * 1000, 1),
                "user": identity.user_id if identity is not None else None,
            },
        )
