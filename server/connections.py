"""Connections before they are requests: how many, how slow, and what malformed HTTP is answered.

Everything here happens before anybody is known, so all of it is bounded: the
connections in all and of one address, the time until a request's head is
complete, the least speed of a body. What is not HTTP gets the contract's JSON
and never an echo of what was sent, in the answer or in the log.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from server.auth.addresses import TrustedProxies
from server.errors import http_error
from server.headers import plain_headers
from server.listening import BACKLOG

_log = logging.getLogger(__name__)

_REFUSAL_SECONDS = 5
_STARTUP_DESCRIPTORS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long an unknown peer may take; seconds, and bytes a second."""

    head_seconds: float = 20.0
    body_check_seconds: float = 15.0
    body_bytes_per_second: float = 512.0
    tls_handshake_seconds: float = 10.0


class Limits:
    """How many connections there may be; those of loopback and of our proxies stand for many people."""

    def __init__(self, in_all: int | None, per_address: int, proxies: TrustedProxies) -> None:
        self._in_all = in_all if in_all is not None else _descriptors_left()
        self._per_address = per_address
        self._proxies = proxies
        self._open: Counter[str] = Counter()
        self._count = 0

    def enter(self, address: str) -> str | None:
        """Count a connection; why not, when it may not be. Each that may needs a ``leave``."""
        if self._count >= self._in_all:
            return "too many connections are open"
        is_one = not self._proxies.stands_for_many(address)
        if is_one and self._open[address] >= self._per_address:
            return "too many connections of this address are open"
        self._count += 1
        self._open[address] += 1
        return None

    def leave(self, address: str, *, is_shared: bool = False) -> None:
        """The connection is closed; ``is_shared``: ``share`` was called for it."""
        self._count -= 1
        if not is_shared:
            self.share(address)

    def share(self, address: str) -> None:
        """A connection stands for many people: it is counted in all only from now on."""
        self._open[address] -= 1
        if self._open[address] <= 0:
            del self._open[address]

    @property
    def count(self) -> int:
        """Connections that are open."""
        return self._count


def _descriptors_left() -> int:
    """Three quarters of the descriptors: spools, databases and files need some too."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, (soft - _STARTUP_DESCRIPTORS) * 3 // 4 if soft > 2 * _STARTUP_DESCRIPTORS else soft // 2)


class Connection(RequestHandler):
    """One TCP connection with aiohttp's protocol, bounded."""

    __slots__ = (
        "_address",
        "_body",
        "_body_timer",
        "_head_timer",
        "_is_shared",
        "_limits",
        "_patience",
        "_received",
    )

    def __init__(self, manager: web.Server, limits: Limits, patience: Patience, **options: Any) -> None:
        super().__init__(manager, **options)
        self._limits = limits
        self._patience = patience
        self._address: str | None = None
        self._is_shared = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._body: Any = None
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted; over a limit it is answered and closed."""
        name = transport.get_extra_info("peername")
        address = str(name[0]) if isinstance(name, tuple) else ""
        reason = self._limits.enter(address)
        if reason is not None:
            assert isinstance(transport, asyncio.Transport)
            transport.write(_refusal(reason))
            transport.close()
            return
        self._address = address
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is closed, by whomever."""
        for timer in (self._head_timer, self._body_timer):
            if timer is not None:
                timer.cancel()
        address, self._address = self._address, None
        if address is None:
            return
        self._limits.leave(address, is_shared=self._is_shared)
        super().connection_lost(exc)

    def stands_for_many(self) -> None:
        """Another replica has opened it, for whoever comes there; known with its first request only."""
        if self._address is not None and not self._is_shared:
            self._is_shared = True
            self._limits.share(self._address)

    def data_received(self, data: bytes) -> None:
        """Bytes came: the rest of a head, of a body, or of frames."""
        if self._address is None:
            return
        self._received += len(data)
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._stop_awaiting_head()
            self._watch_body()
        elif self._is_between_requests and self._head_timer is None:
            self._await_head()

    @property
    def _is_between_requests(self) -> bool:
        return self._waiter is not None and not self._waiter.done() and not self._messages

    def _await_head(self) -> None:
        self._head_timer = self._loop.call_later(self._patience.head_seconds, self._head_is_late)

    def _stop_awaiting_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._is_between_requests and self.transport is not None:
            self.transport.write(_late())
            self.force_close()

    def _watch_body(self) -> None:
        """Of the newest request, for only its body can be incomplete."""
        body = self._messages[-1][1] if self._messages else None
        if self._body_timer is not None or body is None or body.is_eof():
            return
        self._body = body
        self._expect_body(self._received)

    def _expect_body(self, received_before: int) -> None:
        delay = self._patience.body_check_seconds
        self._body_timer = self._loop.call_later(delay, self._check_body, received_before)

    def _check_body(self, received_before: int) -> None:
        self._body_timer = None
        if self._body is None or self._body.is_eof() or self.transport is None:
            self._body = None
            return
        wanted = self._patience.body_check_seconds * self._patience.body_bytes_per_second
        # While we do not read ourselves the peer cannot be blamed.
        is_ours = not self.transport.is_reading()
        if not is_ours and self._received - received_before < wanted:
            _log.info("a request whose body came too slowly was ended")
            self.transport.abort()
            return
        self._expect_body(self._received)

    def log_exception(self, *args: Any, **options: Any) -> None:
        """What broke below the middlewares, by the name of its kind: its text may quote what was sent."""
        error = options.get("exc_info")
        is_theirs = isinstance(error, web.RequestPayloadError | HttpProcessingError)
        _log.log(
            logging.DEBUG if is_theirs else logging.ERROR,
            "a connection failed",
            extra={"error": type(error).__name__},
        )

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Malformed HTTP, or what no middleware has caught: our JSON, our headers, then the end."""
        is_gone = self.transport is None or self.transport.is_closing()
        if isinstance(exc, ConnectionError) and is_gone:
            # Nobody is there to be answered, and nothing went wrong here.
            _log.debug("a client went away in a request", extra={"error": type(exc).__name__})
            raise exc
        if status >= 500 and _expects_the_unknown(request):
            status = 417
        if status >= 500:
            # Named only: its text may quote what was sent.
            _log.error("a request failed on our side", extra={"error": type(exc).__name__})
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        response = http_error(status)
        for name, value in plain_headers().items():
            response.headers[name] = value
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Errors that aiohttp raises before any middleware (an unmet ``Expect``) get our shape too."""
        if isinstance(resp, web.HTTPException) and resp.status >= 400:
            resp = self.handle_error(request, resp.status)
        return await super().finish_response(request, resp, start_time)


def _expects_the_unknown(request: web.BaseRequest) -> bool:
    """Such a request reaches no handler; aiohttp quotes it in its answer, and fails where it is no text."""
    expected = request.headers.get("Expect", "100-continue")
    return request.version == HttpVersion11 and expected.lower() != "100-continue"


class Site(web.SockSite):
    """The listening socket with bounded connections. ``web.SockSite`` has no way to give the protocol."""

    __slots__ = ("_limits", "_options", "_patience")

    def __init__(
        self,
        runner: web.AppRunner,
        sock: socket.socket,
        limits: Limits,
        patience: Patience,
        *,
        ssl_context: ssl.SSLContext | None = None,
        **options: Any,
    ) -> None:
        super().__init__(runner, sock, ssl_context=ssl_context, backlog=BACKLOG)
        self._limits = limits
        self._patience = patience
        self._options = options

    async def start(self) -> None:
        """Listen."""
        await web.BaseSite.start(self)
        server = self._runner.server
        assert server is not None
        deadline = self._patience.tls_handshake_seconds if self._ssl_context is not None else None
        self._server = await asyncio.get_running_loop().create_server(
            self._factory(server),
            sock=self._sock,
            ssl=self._ssl_context,
            backlog=self._backlog,
            ssl_handshake_timeout=deadline,
            ssl_shutdown_timeout=deadline,
        )

    def _factory(self, server: web.Server) -> Callable[[], Connection]:
        def made() -> Connection:
            loop = asyncio.get_running_loop()
            return Connection(server, self._limits, self._patience, loop=loop, **self._options)

        return made


def _refusal(reason: str) -> bytes:
    headers = {"Retry-After": str(_REFUSAL_SECONDS)}
    return _raw("503 Service Unavailable", "too_many_connections", reason, headers, _REFUSAL_SECONDS)


def _late() -> bytes:
    return _raw("408 Request Timeout", "bad_request", "the request did not come in time", {})


def _raw(
    status: str, code: str, message: str, headers: dict[str, str], retry_after: int | None = None
) -> bytes:
    """A whole answer as bytes, for where there is no request to answer."""
    error: dict[str, Any] = {"code": code, "message": message}
    if retry_after is not None:
        error["retry_after"] = retry_after
    body = msgspec.json.encode({"error": error})
    fixed = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **plain_headers(),
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fixed.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("ascii") + body
