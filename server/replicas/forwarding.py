"""A request that came to a stand-by, carried to the owner and its answer back, both as they come."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, MultiMapping
from yarl import URL

from server.auth.addresses import TrustedProxies
from server.auth.hop import HEADER, Hop, HopKey
from server.auth.origin import OriginRules
from server.replicas.owner import Owner, OwnerWatch, no_owner
from server.replicas.sockets import Relay

_log = logging.getLogger(__name__)

_OF_ONE_CONNECTION = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# Said anew, or answered here.
_OURS = frozenset(
    {HEADER.lower(), "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "expect"}
)
_OF_WEBSOCKETS = frozenset(
    {
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-extensions",
        "sec-websocket-protocol",
        "sec-websocket-accept",
    }
)


class Forwarding:
    """Carries requests. It holds them to our rules for pages of others, as the owner would."""

    def __init__(
        self,
        watch: OwnerWatch,
        key: HopKey,
        rules: OriginRules,
        proxies: TrustedProxies,
        *,
        proxy_header: str | None,
        max_message_bytes: int,
    ) -> None:
        self._watch = watch
        self._key = key
        self._rules = rules
        self._proxies = proxies
        self._proxy_header = proxy_header
        self._max_message_bytes = max_message_bytes

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """The owner's answer. Raises ``NoOwner`` and ``BadOrigin``."""
        if HEADER in request.headers:
            # It comes from a stand-by that takes us for the owner: from here it would go round.
            raise no_owner()
        self._rules.check(request)
        owner = self._watch.require()
        headers = self._headers(request, owner)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            relay = Relay(self._watch, owner, self._max_message_bytes)
            return await relay.run(request, _target(owner, request), headers)
        return await self._carry(request, owner, headers)

    async def _carry(
        self, request: web.Request, owner: Owner, headers: CIMultiDict[str]
    ) -> web.StreamResponse:
        try:
            answer = await self._watch.while_it_answers(owner, self._ask(request, owner, headers))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            _log.info("the owner did not answer", extra={"error": type(error).__name__})
            raise no_owner() from error
        async with answer:
            response = web.StreamResponse(
                status=answer.status, reason=answer.reason, headers=_passed_on(answer.headers)
            )
            await response.prepare(request)
            try:
                await self._copy(answer, response, owner)
            except (aiohttp.ClientError, TimeoutError) as error:
                # What is missing must be missed: the answer's end is not told.
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionError("the owner was lost in its answer") from error
            return response

    async def _ask(
        self, request: web.Request, owner: Owner, headers: CIMultiDict[str]
    ) -> aiohttp.ClientResponse:
        return await self._watch.http.request(
            request.method,
            _target(owner, request),
            headers=headers,
            data=request.content if request.body_exists else None,
            allow_redirects=False,
        )

    @staticmethod
    async def _copy(answer: aiohttp.ClientResponse, response: web.StreamResponse, owner: Owner) -> None:
        lost = asyncio.create_task(owner.lost.wait(), name="owner-lost")
        try:
            while True:
                reading = asyncio.create_task(answer.content.readany(), name="answer-piece")
                await asyncio.wait({reading, lost}, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    reading.cancel()
                    await asyncio.wait({reading})
                    raise aiohttp.ClientError("it owns no more")
                piece = reading.result()
                if not piece:
                    break
                await response.write(piece)
            await response.write_eof()
        finally:
            lost.cancel()

    def _headers(self, request: web.Request, owner: Owner) -> CIMultiDict[str]:
        is_by_proxy = self._proxies.is_trusted(request.remote)
        hop = Hop(
            owner.epoch,
            self._proxies.client_address(request),
            is_https=self._proxies.is_https(request),
            is_by_proxy=is_by_proxy,
            is_hearsay=self._proxies.is_hearsay(request),
        )
        headers = _passed_on(request.headers)
        for name in _OURS | _OF_WEBSOCKETS:
            headers.popall(name, None)
        if self._proxy_header and not is_by_proxy:
            headers.popall(self._proxy_header, None)
        headers["X-Forwarded-For"] = hop.client
        headers["X-Forwarded-Proto"] = "https" if hop.is_https else "http"
        headers[HEADER] = self._key.header(hop, request.method, request.raw_path)
        return headers


def _target(owner: Owner, request: web.Request) -> URL:
    """The same address on the owner, to the letter: it stands in the proof."""
    return URL(f"{str(owner.url).rstrip('/')}{request.raw_path}", encoded=True)


def _passed_on(given: MultiMapping[str]) -> CIMultiDict[str]:
    """Without those that are of one connection only, and those that ``Connection`` names so."""
    named = {item.strip().lower() for line in given.getall(hdrs.CONNECTION, ()) for item in line.split(",")}
    return CIMultiDict(
        (name, value)
        for name, value in given.items()
        if name.lower() not in _OF_ONE_CONNECTION and name.lower() not in named
    )
