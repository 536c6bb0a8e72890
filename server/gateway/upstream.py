"""Calls passed through to a provider, byte by byte, with the real credential in place of the dummy."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from server.gateway.body import RequestBody
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


class UpstreamUnreachable(Exception):
    """The provider gave no answer at all; the text names the reason and holds no secret."""


def new_client() -> aiohttp.ClientSession:
    """The one client of a gateway: keeps connections, follows no redirect, keeps no cookie."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=_TIMEOUT,
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
    )


async def pass_through(
    request: web.BaseRequest, body: RequestBody, provider: Provider, client: aiohttp.ClientSession
) -> web.StreamResponse:
    """Send the call on and stream the answer back as it arrives.

    Cancelling the caller closes the upstream connection. Raises
    ``UpstreamUnreachable`` when there is no answer to pass on; an answer that
    breaks off breaks off the same way for the caller.
    """
    url = URL(provider.url + request.rel_url.raw_path_qs, encoded=True)
    try:
        upstream = await client.request(
            request.method,
            url,
            headers=_to_upstream(request.headers, provider),
            data=body if request.can_read_body else None,
            allow_redirects=False,
            proxy=_proxy_for(url),
        )
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise UpstreamUnreachable(type(error).__name__) from None
    async with upstream:
        response = web.StreamResponse(status=upstream.status, headers=_to_caller(upstream.headers))
        await response.prepare(request)
        if await _relay(upstream, response):
            await response.write_eof()
        elif request.transport is not None:
            # Closed without the end of the chunked body: the CLI sees a cut and retries.
            request.transport.close()
        return response


def _proxy_for(url: URL) -> str | None:
    """The proxy that the environment names for ``url``.

    Not left to aiohttp's ``trust_env``: that would also send what a
    ``.netrc`` holds.
    """
    if proxy_bypass(f"{url.host}:{url.port}"):
        return None
    proxies = getproxies_environment()
    return proxies.get(url.scheme) or proxies.get("all")


async def _relay(upstream: aiohttp.ClientResponse, response: web.StreamResponse) -> bool:
    """Copy the answer's bytes as they come; False when the upstream broke off."""
    chunks = upstream.content.iter_any()
    while True:
        try:
            chunk = await anext(chunks)
        except StopAsyncIteration:
            return True
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
        await response.write(chunk)


def _to_upstream(headers: Mapping[str, str], provider: Provider) -> CIMultiDict[str]:
    """The caller's harmless headers and our credential; never the caller's own."""
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        if name.lower() in _REQUEST_HEADERS or name.lower().startswith("x-stainless-"):
            kept.add(name, value)
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
