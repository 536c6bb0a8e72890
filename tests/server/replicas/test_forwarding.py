"""What comes to a stand-by is the owner's to answer: bodies as they come, headers as they are to be."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from server.auth.addresses import TrustedProxies
from server.auth.hop import HEADER, Hop, HopKey
from server.replicas import owner as owner_module
from server.replicas.arriving import Arrivals
from tests.server.replicas.stand_by import EPOCH, SECRET, owning, standing_by
from tests.server.site import error_of, running
from tests.waiting import eventually

PROXIES = TrustedProxies([])


async def tell(request: web.Request) -> web.Response:
    """All that the owner knows of a request."""
    body = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "target": request.raw_path,
            "headers": [[name, value] for name, value in request.headers.items()],
            "body": body.decode("latin-1"),
            "client": PROXIES.client_address(request),
            "is_https": PROXIES.is_https(request),
            "speaks_for": PROXIES.speaks_for(request),
            "is_hearsay": PROXIES.is_hearsay(request),
        }
    )


def teller() -> web.Application:
    app = web.Application()
    app.router.add_route("*", "/tell{rest:.*}", tell)
    return app


def headers_of(told: dict[str, Any]) -> dict[str, str]:
    return {name.lower(): value for name, value in told["headers"]}


async def test_a_request_is_the_same_at_the_owner_but_for_what_is_of_the_connection() -> None:
    async with owning(teller()) as (owner, _), standing_by(owner) as it, aiohttp.ClientSession() as http:
        sent = {
            "Authorization": "Bearer x",
            "X-Mine": "1",
            "Connection": "keep-alive, X-Secret-Of-This-Hop",
            "X-Secret-Of-This-Hop": "1",
            "Cookie": "a=b",
            "Content-Type": "application/json",
        }
        target = "/tell/%2e%2E/a%20b?x=1&x=2&y=%C3%A9"
        async with http.post(URL(it.url + target, encoded=True), data=b'{"a": 1}', headers=sent) as answer:
            told = await answer.json()
        headers = headers_of(told)
        assert (told["method"], told["target"], told["body"]) == ("POST", target, '{"a": 1}')
        assert (headers["authorization"], headers["x-mine"], headers["cookie"]) == ("Bearer x", "1", "a=b")
        assert headers["host"] == it.url.removeprefix("http://")
        assert headers["content-length"] == "8"
        assert "x-secret-of-this-hop" not in headers
        assert (told["client"], told["is_https"], told["speaks_for"]) == ("127.0.0.1", False, False)


@pytest.mark.parametrize("trusted", [False, True])
async def test_the_client_is_who_the_stand_by_says_and_it_believes_its_own_proxies_only(
    trusted: bool,
) -> None:
    settings: dict[str, Any] = (
        {"server": {"trusted_proxies": ["127.0.0.1"]}, "auth": {"proxy_header": "X-User"}} if trusted else {}
    )
    async with (
        owning(teller()) as (owner, _),
        standing_by(owner, **settings) as it,
        aiohttp.ClientSession() as http,
    ):
        sent = {"X-Forwarded-For": "8.8.8.8, 10.9.9.9", "X-Forwarded-Proto": "https", "X-User": "alice"}
        async with http.get(f"{it.url}/tell", headers=sent) as answer:
            told = await answer.json()
    headers = headers_of(told)
    client = "10.9.9.9" if trusted else "127.0.0.1"
    assert (told["client"], headers["x-forwarded-for"]) == (client, client)
    assert told["is_https"] is trusted
    assert told["speaks_for"] is trusted
    assert told["is_hearsay"] is not trusted
    assert headers["x-forwarded-proto"] == ("https" if trusted else "http")


async def test_a_name_of_a_stranger_does_not_reach_the_owner() -> None:
    settings: dict[str, Any] = {
        "server": {"trusted_proxies": ["10.0.0.1"]},
        "auth": {"proxy_header": "X-User"},
    }
    async with (
        owning(teller()) as (owner, _),
        standing_by(owner, **settings) as it,
        aiohttp.ClientSession() as http,
        http.get(f"{it.url}/tell", headers={"X-User": "alice"}) as answer,
    ):
        assert "x-user" not in headers_of(await answer.json())


@pytest.mark.parametrize(
    "header",
    [
        "forged",
        HopKey("another secret").header(Hop(EPOCH, "1.2.3.4"), "GET", "/tell"),
        HopKey(SECRET).header(Hop(EPOCH + 1, "1.2.3.4"), "GET", "/tell"),
        HopKey(SECRET).header(Hop(EPOCH, "1.2.3.4"), "GET", "/other"),
    ],
)
async def test_the_owner_believes_no_hop_that_is_not_proven_for_it(header: str) -> None:
    async with owning(teller()) as (owner, _), aiohttp.ClientSession() as http:
        async with http.get(f"{owner}/tell", headers={HEADER: header}) as answer:
            assert await error_of(answer) == (503, "no_owner")
        async with http.get(f"{owner}/tell", headers={"X-Forwarded-For": "1.2.3.4"}) as answer:
            assert (await answer.json())["client"] == "127.0.0.1"


async def test_connections_of_a_replica_are_not_counted_as_one_client_s() -> None:
    held = asyncio.Event()

    async def hold(_request: web.Request) -> web.Response:
        await held.wait()
        return web.Response()

    app = teller()
    app.router.add_get("/hold", hold)
    async with (
        owning(app, per_address=3) as (owner, limits),
        standing_by(owner) as it,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        asking = [asyncio.create_task(http.get(f"{it.url}/hold")) for _ in range(10)]
        await eventually(lambda: limits.count >= 10)
        held.set()
        for task in asking:
            assert (await task).status == 200


async def test_bodies_stream_both_ways() -> None:
    """Each piece arrives before the next one is sent."""
    pieces: list[bytes] = []
    arrived = asyncio.Event()

    async def echo(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for piece in request.content.iter_any():
            pieces.append(piece)
            arrived.set()
            await response.write(piece)
        return response

    app = teller()
    app.router.add_post("/echo", echo)

    async def sender() -> Any:
        for number in range(5):
            yield f"piece {number};".encode()
            await arrived.wait()
            arrived.clear()

    async with owning(app) as (owner, _), standing_by(owner) as it, aiohttp.ClientSession() as http:
        headers = {"Content-Type": "application/json"}
        async with http.post(f"{it.url}/echo", data=sender(), headers=headers) as answer:
            assert await answer.text() == "".join(f"piece {number};" for number in range(5))
        assert len(pieces) == 5


async def test_what_is_compressed_or_large_or_empty_goes_through_as_it_is() -> None:
    large = os.urandom(5_000_000)

    async def give(request: web.Request) -> web.StreamResponse:
        kind = request.match_info["kind"]
        if kind == "large":
            return web.Response(body=large)
        if kind == "none":
            return web.Response(status=204, headers={"X-Said": "nothing"})
        if kind == "moved":
            return web.Response(status=302, headers={"Location": "/elsewhere", "Set-Cookie": "a=b; Path=/"})
        return web.Response(body=gzip.compress(b"squeezed"), headers={"Content-Encoding": "gzip"})

    app = teller()
    app.router.add_get("/give/{kind}", give)
    async with (
        owning(app) as (owner, _),
        standing_by(owner) as it,
        aiohttp.ClientSession(auto_decompress=False) as http,
    ):
        async with http.get(f"{it.url}/give/large") as answer:
            assert await answer.read() == large
            assert answer.headers["Content-Length"] == str(len(large))
        async with http.get(f"{it.url}/give/squeezed") as answer:
            assert gzip.decompress(await answer.read()) == b"squeezed"
            assert answer.headers["Content-Encoding"] == "gzip"
        async with http.get(f"{it.url}/give/none") as answer:
            assert (answer.status, answer.headers["X-Said"], await answer.read()) == (204, "nothing", b"")
        async with http.get(f"{it.url}/give/moved", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (302, "/elsewhere")
            assert answer.headers.getall("Set-Cookie") == ["a=b; Path=/"]
        async with http.head(f"{it.url}/give/large") as answer:
            assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(large)))
        sent = gzip.compress(b"sent")
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        async with http.post(f"{it.url}/tell", data=sent, headers=headers) as answer:
            told = await answer.json()
            assert told["body"] == "sent"


async def test_nobody_owns() -> None:
    async with standing_by(None) as it, aiohttp.ClientSession() as http:
        async with http.get(f"{it.url}/api/v1/me") as answer:
            assert await error_of(answer) == (503, "no_owner")
            assert answer.headers["Retry-After"] == "1"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        async with http.get(f"{it.url}/livez") as answer:
            assert answer.status == 200
        async with http.get(f"{it.url}/readyz") as answer:
            assert answer.status == 503
            page = await answer.json()
            assert (page["ready"], page["role"]) == (False, "stand-by")
            assert page["reasons"] == ["stand-by: no owner answers"]


async def test_two_that_take_each_other_for_the_owner_do_not_go_round() -> None:
    async with standing_by(None) as one, standing_by(one.url) as two, aiohttp.ClientSession() as http:
        one.owned_by(two.url)
        for path in ("/api/v1/me", "/readyz"):
            async with http.get(f"{one.url}{path}") as answer:
                assert answer.status == 503
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{one.url}/ws")
        assert refused.value.status == 503


async def test_one_that_finds_itself_in_the_lease_asks_nobody() -> None:
    async with standing_by(None) as it, aiohttp.ClientSession() as http:
        it.owned_by(it.url)
        async with http.get(f"{it.url}/api/v1/me") as answer:
            assert await error_of(answer) == (503, "no_owner")


async def test_an_owner_that_accepts_and_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that is stopped: its kernel still takes connections."""
    monkeypatch.setattr(owner_module, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        async with standing_by(url) as it, aiohttp.ClientSession() as http:
            async with http.get(f"{it.url}/api/v1/me") as answer:
                assert await error_of(answer) == (503, "no_owner")
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(f"{it.url}/ws")
            assert refused.value.status == 503
            async with http.get(f"{it.url}/readyz") as answer:
                assert answer.status == 503


async def test_an_answer_that_takes_long_is_waited_for_while_the_owner_answers_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner_module, "ANSWER_SECONDS", 0.2)

    async def slow(_request: web.Request) -> web.Response:
        await asyncio.sleep(0.7)
        return web.Response(text="at last")

    app = teller()
    app.router.add_get("/slow", slow)
    async with (
        owning(app) as (owner, _),
        standing_by(owner) as it,
        aiohttp.ClientSession() as http,
        http.get(f"{it.url}/slow") as answer,
    ):
        assert await answer.text() == "at last"


@pytest.mark.parametrize("how", ["another owns", "it is gone"])
async def test_an_answer_that_is_cut_is_not_taken_for_whole(how: str) -> None:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first;")
        if how == "it is gone":
            assert request.transport is not None
            request.transport.abort()
        await over.wait()
        return response

    over = asyncio.Event()

    app = teller()
    app.router.add_get("/stream", stream)
    async with (
        owning(app) as (owner, _),
        standing_by(owner) as it,
        aiohttp.ClientSession() as http,
        http.get(f"{it.url}/stream") as answer,
    ):
        if how == "another owns":
            assert await answer.content.readany() == b"first;"
            it.owned_by("http://127.0.0.1:9", EPOCH + 1)
        with pytest.raises(aiohttp.ClientError):
            await answer.read()
        over.set()


async def test_pages_of_others_are_refused_at_the_stand_by_and_its_own_address_is_good_at_the_owner(
    short_dir: Path,
) -> None:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(running(short_dir, arrivals=Arrivals(HopKey(SECRET), EPOCH)))
        it = await stack.enter_async_context(standing_by(site.base))
        token = await site.token("alice")
        http = await stack.enter_async_context(
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"})
        )
        async with http.get(f"{it.url}/api/v1/me", headers={"Host": "evil.example"}) as answer:
            assert await error_of(answer) == (403, "bad_origin")
        body = {"session_id": "one"}
        foreign = {"Origin": "https://evil.example"}
        async with http.post(f"{it.url}/api/v1/sessions", headers=foreign, json=body) as answer:
            assert await error_of(answer) == (403, "bad_origin")
        own = {"Origin": it.url}
        async with http.get(f"{it.url}/api/v1/me", headers=own) as answer:
            assert (await answer.json())["user_id"] == "alice"
        async with http.get(f"{it.url}/") as answer:
            assert answer.status == 200
            assert answer.headers["Server"] == "claude-pool"
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
