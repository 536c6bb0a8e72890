"""What reaches the server before it is a request: slow, too much of it, or no HTTP at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from server.auth.addresses import TrustedProxies
from server.config import Server
from server.connections import Limits, Patience
from server.listening import tls_context
from tests.server.site import Site, running
from tests.server.test_secret_files import certificate
from tests.waiting import eventually

CANARY = "canary-71f0c2"
HASTY = Patience(head_seconds=0.2, body_check_seconds=0.3, body_bytes_per_second=1e6)


@asynccontextmanager
async def wire(site: Site) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection."""
    port = int(site.origin.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def said(site: Site, *pieces: bytes) -> bytes:
    """The server's first answer to these bytes; empty when it closes without one."""
    async with wire(site) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await answer_on(reader)


async def answer_on(reader: asyncio.StreamReader) -> bytes:
    """The next whole answer."""
    async with asyncio.timeout(20):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert length, head
        return head + await reader.readexactly(int(length[1]))


def refused(answer: bytes) -> tuple[int, dict[str, object]]:
    """(status, error) of an answer, which must be all that one of ours has to be."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("ascii").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    assert headers["content-type"].startswith("application/json"), answer
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["server"] == "claude-pool"
    assert "content-security-policy" in headers
    assert CANARY.encode() not in answer
    assert b"Traceback" not in answer
    assert b"<" not in body
    error = json.loads(body)["error"]
    assert {"code", "message"} <= set(error) <= {"code", "message", "retry_after", "details"}
    return int(lines[0].split()[1]), error


HOST = b"Host: 127.0.0.1\r\n"
CHUNKED = b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
LOGIN = b"POST /api/v1/auth/login HTTP/1.1\r\n" + HOST
MALFORMED = {
    "no HTTP": b"\x16\x03\x01" + CANARY.encode() + b"\r\n\r\n",
    "a method that is none": f"{CANARY}<b> / HTTP/1.1\r\n\r\n".encode(),
    "a version that is none": b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
    "an address too long": b"GET /" + b"a" * 20_000 + CANARY.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a header too long": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"b" * 20_000 + b"\r\n\r\n",
    "too many headers": b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 400 + b"\r\n",
    "a header that is none": f"GET / HTTP/1.1\r\n{CANARY}\r\n\r\n".encode(),
    "two lengths": LOGIN + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length and chunks": LOGIN + b"Content-Length: 3\r\n" + CHUNKED + b"0\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "a chunk that is none": LOGIN + CHUNKED + CANARY.encode() + b"\r\n",
    "a chunk too short": LOGIN + CHUNKED + b"2\r\n" + CANARY.encode() + b"\r\n0\r\n\r\n",
    "a compression that is none": LOGIN
    + b"Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 13\r\n\r\n"
    + CANARY.encode(),
    "an expectation": LOGIN + b"Expect: 200-maybe\r\nContent-Length: 0\r\n\r\n",
    "an expectation that is no text": LOGIN + b"Expect: \xad\x9cV\r\nContent-Length: 0\r\n\r\n",
    "an unknown method": b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n",
    "an unknown address": f"GET /api/{CANARY}%00%ff HTTP/1.1\r\n".encode() + HOST + b"\r\n",
    "a host that is none": f"GET / HTTP/1.1\r\nHost: {CANARY}@x\r\n\r\n".encode(),
    "a tunnel": f"CONNECT {CANARY}:443 HTTP/1.1\r\n".encode() + HOST + b"\r\n",
    "a socket without its key": b"GET /ws HTTP/1.1\r\n"
    + HOST
    + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_http_gets_the_shape_of_every_error(
    site: Site, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.DEBUG)
    status, _error = refused(await said(site, MALFORMED[name]))
    assert 400 <= status < 500
    # And nothing of it is in the log.
    assert CANARY not in "".join(f"{record.getMessage()}{record.__dict__}" for record in caplog.records)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_head_that_does_not_come_is_waited_for_only_so_long(short_dir: Path) -> None:
    async with running(short_dir, patience=HASTY) as site:
        for start in (b"", b"GET / HT", b"GET /livez HTTP/1.1\r\n" + HOST + b"X: "):
            async with wire(site) as (reader, writer):
                writer.write(start)
                async with asyncio.timeout(20):
                    answer = await reader.read()
                assert refused(answer)[0] == 408, start


async def test_the_next_head_on_a_connection_has_a_deadline_too(short_dir: Path) -> None:
    """A connection may be quiet between two requests; one that begins another has to go on."""
    async with running(short_dir, patience=HASTY) as site, wire(site) as (reader, writer):
        for _ in range(2):
            writer.write(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
            assert b" 200 " in await answer_on(reader)
            await asyncio.sleep(3 * HASTY.head_seconds)
        writer.write(b"GET /livez HTTP/1.1\r\n")
        async with asyncio.timeout(20):
            rest = await reader.read()
        assert b"408" in rest


async def test_a_body_that_trickles_is_cut(short_dir: Path) -> None:
    async with running(short_dir, patience=HASTY) as site, wire(site) as (reader, writer):
        writer.write(LOGIN + b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                assert await reader.read() == b""


async def test_a_body_that_comes_fast_enough_is_not(short_dir: Path) -> None:
    patience = Patience(head_seconds=0.2, body_check_seconds=0.2, body_bytes_per_second=5)
    async with running(short_dir, patience=patience) as site, wire(site) as (reader, writer):
        body = json.dumps({"username": "nobody", "password": "x" * 40}).encode()
        head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(LOGIN + head.encode())
        for at in range(0, len(body), 4):
            writer.write(body[at : at + 4])
            await asyncio.sleep(0.05)
        assert b"401" in await reader.readline()


async def test_an_address_has_so_many_connections(short_dir: Path) -> None:
    async with running(short_dir, {"server": {"max_connections": 2}}) as site:
        async with wire(site) as (first, write_first), wire(site):
            write_first.write(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
            assert b"200" in await first.readline()
            status, error = refused(await said(site))
            assert (status, error["code"], error["retry_after"]) == (503, "too_many_connections", 5)

        async def has_room() -> bool:
            return b"HTTP/1.1 200" in await said(site, b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")

        await eventually(has_room, what="room again")


def test_connections_are_counted_by_address() -> None:
    limits = Limits(10, 2, TrustedProxies(["192.0.2.0/24"]))
    assert [limits.enter("198.51.100.1") is None for _ in range(3)] == [True, True, False]
    assert limits.enter("198.51.100.2") is None
    # A proxy of ours, and this machine, stand for many people.
    assert [limits.enter(one) is None for one in ("192.0.2.9",) * 3 + ("127.0.0.1", "::1")] == [True] * 5
    assert [limits.enter(f"198.51.100.{n}") is None for n in range(10, 14)] == [True, True, False, False]
    assert limits.count == 10
    limits.leave("198.51.100.1")
    assert limits.enter("198.51.100.1") is None
    assert limits.enter("198.51.100.1") is not None


async def test_a_user_has_so_many_sockets_and_streams(short_dir: Path) -> None:
    async with running(short_dir, {"server": {"max_connections_per_user": 2}}) as site:
        alice, bob = await site.client("alice"), await site.client("bob")
        first = await alice.ws_connect("ws")
        second = await alice.ws_connect("ws")
        answer = await alice.get("ws", headers={"Upgrade": "websocket", "Connection": "Upgrade"})
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "too_many_connections")
        assert int(answer.headers["Retry-After"]) >= 1
        stream = await alice.get("api/v1/sessions/default/events")
        assert stream.status == 503
        other = await bob.ws_connect("ws")
        await first.close()

        async def has_room() -> bool:
            answer = await alice.get("ws", headers={"Upgrade": "websocket", "Connection": "Upgrade"})
            return answer.status == 400

        await eventually(has_room, what="a seat again")
        for socket in (second, other):
            await socket.close()


async def test_a_tls_handshake_that_does_not_come_is_cut(tmp_path: Path, short_dir: Path) -> None:
    cert, key = certificate(tmp_path)
    tls = tls_context(Server(tls_cert_file=cert, tls_key_file=key))
    patience = Patience(tls_handshake_seconds=0.3)
    async with running(short_dir, patience=patience, tls=tls) as site:
        for start in (b"", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01"):
            async with wire(site) as (reader, writer):
                writer.write(start)
                with contextlib.suppress(ConnectionError):
                    async with asyncio.timeout(20):
                        await reader.read()
        async with aiohttp.ClientSession() as http:
            url = site.origin.replace("http://", "https://") + "/livez"
            async with http.get(url, ssl=False) as answer:
                assert answer.status == 200
                assert "Strict-Transport-Security" in answer.headers
