"""Runs before every route: where from, who, and may they."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from pool import Caller, calling, check_name, shortened
from pool.errors import InvalidName
from server.auth.addresses import TrustedProxies
from server.auth.identity import IDENTITY, Identity
from server.auth.origin import OriginRules
from server.auth.sign_in import SignIn
from server.errors import Unauthorized

COOKIE = "claude_pool_session"
NOBODY = "@nobody"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gate:
    """The middleware: refuses foreign pages first, then finds out who asks.

    A route without sign-in gets an identity too when there is a good one. A
    bad credential is refused on every route but those of signing in and health.
    """

    def __init__(
        self,
        rules: OriginRules,
        sign_in: SignIn,
        proxies: TrustedProxies,
        *,
        proxy_header: str | None,
        is_open: Callable[[web.Request], bool],
    ) -> None:
        self._rules = rules
        self._sign_in = sign_in
        self._proxies = proxies
        self._proxy_header = proxy_header
        self._is_open = is_open

    # How aiohttp tells a middleware of today's kind; ``web.middleware`` sets it on functions.
    __middleware_version__ = 1

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """One request through the gate."""
        self._rules.check(request)
        with calling(self._caller(request, NOBODY)):
            if self._is_open(request):
                return await handler(request)
            identity = await self.identify(request)
            if identity is None:
                raise Unauthorized("sign in first: send a bearer token or the session cookie")
            request[IDENTITY] = identity
            with calling(self._caller(request, identity.user_id)):
                return await handler(request)

    def _caller(self, request: web.Request, actor: str) -> Caller:
        is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        return Caller(
            actor=actor,
            channel="websocket" if is_socket else "rest",
            address=self._proxies.client_address(request),
            agent=shortened(request.headers.get("User-Agent")),
        )

    async def identify(self, request: web.Request) -> Identity | None:
        """Who asks; None without any credential. Raises ``Unauthorized`` for a bad one."""
        header = request.headers.get("Authorization")
        if header is not None:
            scheme, _, token = header.partition(" ")
            if scheme.lower() != "bearer" or not token.strip():
                raise Unauthorized("the Authorization header must be 'Bearer TOKEN'")
            return await self._sign_in.identify(token.strip())
        if self._proxy_header and self._proxies.speaks_for(request):
            named = request.headers.getall(self._proxy_header, ())
            if len(named) > 1:
                # Which of them the proxy wrote, and which the client, nobody can tell.
                raise Unauthorized("the proxy named more than one user")
            if named:
                return await self._sign_in.vouched(_proxied_name(named[0]))
        cookie = request.cookies.get(COOKIE)
        if cookie:
            return await self._sign_in.identify(cookie, by_cookie=True)
        return None


def _proxied_name(text: str) -> str:
    try:
        return check_name(text, "user_id")
    except InvalidName as error:
        raise Unauthorized("the proxy named a user that cannot be one") from error
