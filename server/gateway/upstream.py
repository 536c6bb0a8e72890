"""Calls passed through to a provider, byte by byte, with the real credential in place of the dummy.

Before the first byte of an answer has gone out a failed attempt may be made
again (``server.gateway.retrying``), and an upstream that keeps failing is
left alone for a while (``server.gateway.breaker``).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from server.gateway.body import RequestBody
from server.gateway.breaker import FAILING_STATUSES, Breaker, Permit
from server.gateway.metering import Call
from server.gateway.retrying import QUICK_SECONDS, RETRIED_STATUSES, pause_before
from server.gateway.settings import Provider

_REQUEST_HEADERS = frozenset(
    {
        "accept",
        "anthropic-beta",
        "anthropic-dangerous-direct-browser-access",
        "anthropic-version",
        "content-encoding",
        "content-length",
        "content-type",
        "user-agent",
        "x-app",
    }
)
_RESPONSE_HEADERS = frozenset(
    {
        "content-encoding",
        "content-length",
        "content-type",
        "request-id",
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
    }
)
# No limit on the whole call: an answer may stream for very long. Anthropic
# sends a ping at least every few seconds; other servers may think in silence.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=660)


_SEAT_SECONDS = 30.0


class UpstreamTrouble(Exception):
    """There is no answer to pass on; the text says why and holds no secret."""

    status = 502
    kind = "api_error"
    retry_after_seconds: float | None = None


class UpstreamUnreachable(UpstreamTrouble):
    """The provider gave no answer at all."""


class UpstreamResting(UpstreamTrouble):
    """It failed too often and is left alone, or all its connections are taken."""

    status = 529
    kind = "overloaded_error"

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


def new_client() -> aiohttp.ClientSession:
    """The one client of a gateway: keeps connections, follows no redirect, keeps no cookie."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=_TIMEOUT,
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
    )


@dataclass(slots=True)
class _Upstream:
    """What is known of one provider's address."""

    seats: int
    taken: asyncio.Semaphore
    breaker: Breaker = field(default_factory=Breaker)


class Upstreams:
    """All providers as they do at the moment. ``monotonic`` gives the breakers their time."""

    def __init__(
        self, client: aiohttp.ClientSession, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._monotonic = monotonic
        self._known: dict[tuple[str, str], _Upstream] = {}

    async def pass_through(
        self, request: web.BaseRequest, body: RequestBody, name: str, provider: Provider, call: Call | None
    ) -> web.StreamResponse:
        """Send the call on and stream the answer back as it arrives; ``call`` is told of every byte.

        Cancelling the caller closes the upstream connection. Raises
        ``UpstreamTrouble`` when there is no answer to pass on; an answer that
        breaks off breaks off the same way for the caller.
        """
        upstream = self._upstream(name, provider)
        async with _seat(upstream, name), await self._answer(request, body, name, provider) as answer:
            response = web.StreamResponse(status=answer.status, headers=_to_caller(answer.headers))
            if call is not None:
                call.begin(answer.status, answer.headers)
            await response.prepare(request)
            is_whole = await _relay(answer, response, call)
            if call is not None:
                # Before the caller sees the end: what it does next is after this call in the journal.
                call.close()
            if is_whole:
                await response.write_eof()
            elif request.transport is not None:
                # Closed without the end of the chunked body: the CLI sees a cut and retries.
                request.transport.close()
            return response

    def _upstream(self, name: str, provider: Provider) -> _Upstream:
        """Another address or number of connections is another upstream."""
        key = (name, provider.url)
        known = self._known.get(key)
        if known is None or known.seats != provider.max_connections:
            breaker = Breaker() if known is None else known.breaker
            seats = asyncio.Semaphore(provider.max_connections)
            known = self._known[key] = _Upstream(provider.max_connections, seats, breaker)
        return known

    async def _answer(
        self, request: web.BaseRequest, body: RequestBody, name: str, provider: Provider
    ) -> aiohttp.ClientResponse:
        """The first good answer, or the last bad one. Raises ``UpstreamTrouble``."""
        breaker = self._upstream(name, provider).breaker
        attempt = 1
        while True:
            permit = breaker.ask(self._monotonic())
            if permit is None:
                seconds = breaker.seconds_left(self._monotonic())
                raise UpstreamResting(f"The provider {name} keeps failing; it is tried again soon.", seconds)
            started = self._monotonic()
            trouble: UpstreamUnreachable | None = None
            answer: aiohttp.ClientResponse | None = None
            try:
                answer = await self._attempt(request, body, provider, breaker, permit)
            except UpstreamUnreachable as error:
                trouble = error
            attempt += 1
            pause = None
            is_quick = self._monotonic() - started < QUICK_SECONDS
            if is_quick and breaker.is_closed and (body.is_replayable or not body.exists):
                pause = _pause(answer, attempt)
            if pause is None:
                if answer is None:
                    message = f"The model gateway cannot reach the provider {name} ({trouble})."
                    raise UpstreamUnreachable(message)
                return answer
            if answer is not None:
                answer.close()
            await asyncio.sleep(pause)

    async def _attempt(
        self,
        request: web.BaseRequest,
        body: RequestBody,
        provider: Provider,
        breaker: Breaker,
        permit: Permit,
    ) -> aiohttp.ClientResponse:
        url = URL(provider.url + request.rel_url.raw_path_qs, encoded=True)
        try:
            answer = await self._client.request(
                request.method,
                url,
                headers=_to_upstream(request.headers, provider, body.growth),
                data=body if body.exists else None,
                allow_redirects=False,
                proxy=_proxy_for(url),
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            breaker.failed(permit, self._monotonic())
            raise UpstreamUnreachable(type(error).__name__) from None
        except BaseException:
            breaker.left(permit)
            raise
        if answer.status in FAILING_STATUSES:
            breaker.failed(permit, self._monotonic())
        else:
            breaker.succeeded()
        return answer


def _pause(answer: aiohttp.ClientResponse | None, attempt: int) -> float | None:
    if answer is None:
        return pause_before(attempt, {}, random.random())
    return (
        pause_before(attempt, answer.headers, random.random()) if answer.status in RETRIED_STATUSES else None
    )


@asynccontextmanager
async def _seat(upstream: _Upstream, name: str) -> AsyncIterator[None]:
    """One of the upstream's connections. Raises ``UpstreamResting`` when none comes free in time."""
    try:
        async with asyncio.timeout(_SEAT_SECONDS):
            await upstream.taken.acquire()
    except TimeoutError:
        raise UpstreamResting(f"All connections to the provider {name} are taken.", 5.0) from None
    try:
        yield
    finally:
        upstream.taken.release()


def _proxy_for(url: URL) -> str | None:
    """The proxy that the environment names for ``url``.

    Not left to aiohttp's ``trust_env``: that would also send what a
    ``.netrc`` holds.
    """
    if proxy_bypass(f"{url.host}:{url.port}"):
        return None
    proxies = getproxies_environment()
    return proxies.get(url.scheme) or proxies.get("all")


async def _relay(answer: aiohttp.ClientResponse, response: web.StreamResponse, call: Call | None) -> bool:
    """Copy the answer's bytes as they come; False when the upstream broke off."""
    chunks = answer.content.iter_any()
    while True:
        try:
            chunk = await anext(chunks)
        except StopAsyncIteration:
            return True
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
        if call is not None:
            call.feed(chunk)
        await response.write(chunk)


def _to_upstream(headers: Mapping[str, str], provider: Provider, growth: int) -> CIMultiDict[str]:
    """The caller's harmless headers and our credential; never the caller's own."""
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        if name.lower() in _REQUEST_HEADERS or name.lower().startswith("x-stainless-"):
            kept.add(name, value)
    if growth and "Content-Length" in kept:
        kept["Content-Length"] = str(int(kept["Content-Length"]) + growth)
    # Plain text on the wire, so that what streams through can be metered.
    kept["Accept-Encoding"] = "identity"
    if provider.api_key is not None:
        kept["x-api-key"] = provider.api_key.get_secret_value()
    if provider.auth_token is not None:
        kept["Authorization"] = f"Bearer {provider.auth_token.get_secret_value()}"
    return kept


def _to_caller(headers: Mapping[str, str]) -> CIMultiDict[str]:
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        if name.lower() in _RESPONSE_HEADERS or name.lower().startswith("anthropic-ratelimit-"):
            kept.add(name, value)
    return kept
