"""From where may a browser speak to us: the rules for Host, Origin and content type.

A Host header that is not ours means DNS rebinding; an Origin that is not ours
means another site's page. Programs that send no Origin are not browsers and
are judged by their credential alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import web

from server.auth.hop import HOP
from server.errors import BadOrigin
from server.loopback import is_loopback

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

HostPort = tuple[str, int | None]


def split_host(text: str) -> HostPort | None:
    """``host:port`` in lower case; None when it is not one."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or parts.netloc != text or "@" in text:
        return None
    return host.rstrip(".").lower(), port


class OriginRules:
    """The rules for one server."""

    def __init__(self, host: str, allowed_origins: Iterable[str]) -> None:
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in allowed_origins)
        names = {urlsplit(origin).hostname or "" for origin in self._allowed}
        self._names = frozenset(names | {host.lower()}) - {"", "0.0.0.0", "::"}

    def check_host(self, request: web.Request) -> HostPort:
        """The Host header, when it is ours. Raises ``BadOrigin``."""
        given = split_host(request.headers.get("Host", ""))
        if given is None:
            raise BadOrigin("the Host header is missing or malformed")
        host = given[0]
        if host in self._names or is_loopback(host) or host == _own_address(request):
            return given
        raise BadOrigin("this server is not known by that host name; see server.allowed_origins")

    def check_origin(self, request: web.Request, host: HostPort) -> None:
        """Raises ``BadOrigin`` for a page that is not ours. No Origin header passes."""
        origin = request.headers.get("Origin")
        if origin is None:
            if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
                raise BadOrigin("a page of another site may not do this")
            return
        if origin.lower() in self._allowed:
            return
        parts = urlsplit(origin)
        default = _DEFAULT_PORTS.get(parts.scheme)
        theirs = split_host(parts.netloc)
        if default is None or theirs is None:
            raise BadOrigin("the Origin is not allowed")
        if (theirs[0], theirs[1] or default) != (host[0], host[1] or default):
            raise BadOrigin("the Origin is not allowed; see server.allowed_origins")

    def check(self, request: web.Request) -> None:
        """All rules for one request. Raises ``BadOrigin``.

        What another replica sends was held to them there: only that one knows its own address.
        """
        if HOP in request:
            return
        host = self.check_host(request)
        changes = request.method not in _SAFE_METHODS
        if changes or request.headers.get("Upgrade", "").lower() == "websocket":
            self.check_origin(request, host)
        if changes and request.body_exists and request.content_type != "application/json":
            raise BadOrigin("the body must be JSON, sent as application/json")


def _own_address(request: web.Request) -> str | None:
    """The address that the connection came to: a page cannot make a name of its own resolve to the
    literal address in the Host header."""
    transport = request.transport
    name = transport.get_extra_info("sockname") if transport is not None else None
    return str(name[0]).lower() if isinstance(name, tuple) else None
