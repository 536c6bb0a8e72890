"""The proxy to named hosts: what is allowed, what a head may be, what is written down, what is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.keeper import network
from pool.keeper.egress import (
    AllowList,
    DecisionLog,
    Egress,
    Limits,
    Refused,
    is_name,
    openness,
    parse_head,
)
from tests.waiting import eventually

ALLOWED = AllowList.of(["example.org", "*.Example.net", "git.example.com:8443", "*.deep.example.com:22"])


@pytest.mark.parametrize(
    ("name", "port", "allowed"),
    [
        ("example.org", 443, True),
        ("example.org", 80, True),
        ("example.org", 8080, False),
        ("www.example.org", 443, False),
        ("notexample.org", 443, False),
        ("example.org.evil.com", 443, False),
        ("a.example.net", 443, True),
        ("a.b.example.net", 80, True),
        ("example.net", 443, False),
        ("aexample.net", 443, False),
        ("git.example.com", 8443, True),
        ("git.example.com", 443, False),
        ("x.deep.example.com", 22, True),
        ("x.deep.example.com", 443, False),
    ],
)
def test_a_name_is_allowed_exactly_or_below_a_wildcard(name: str, port: int, allowed: bool) -> None:
    assert ALLOWED.allows(name, port) is allowed


@pytest.mark.parametrize(
    "entry",
    ["", "*", "*.", "a b", "http://example.org", "example.org/x", "10.0.0.1", "[::1]", "a.org:0", "a.org:x"],
)
def test_an_entry_that_is_no_name_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="is no host name"):
        AllowList.of(["example.org", entry])


def test_no_spelling_of_an_address_is_a_name() -> None:
    spellings = (
        "127.0.0.1 2130706433 0x7f000001 0x7f.1 127.1 0177.0.0.1 ::1 a.0x7f 1.2.3.4. 0x ① 127。0。0。1"
    )
    assert not [text for text in spellings.split() if is_name(text)]
    assert is_name("localhost")
    assert is_name("3com.example")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"CONNECT Example.org:443 HTTP/1.1\r\nHost: other", ("example.org", 443, b"")),
        (b"CONNECT example.org.:443 HTTP/1.0", ("example.org", 443, b"")),
        (
            b"GET http://example.org/a?b HTTP/1.1\r\nHost: other\r\nProxy-Authorization: x\r\nAccept: y",
            (
                "example.org",
                80,
                b"GET /a?b HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\nAccept: y\r\n\r\n",
            ),
        ),
        (
            b"GET http://example.org:8080?b HTTP/1.1",
            ("example.org", 8080, b"GET /?b HTTP/1.1\r\nHost: example.org:8080\r\nConnection: close\r\n\r\n"),
        ),
    ],
)
def test_a_head_says_where_to_and_what_goes_there(head: bytes, expected: tuple[str, int, bytes]) -> None:
    request = parse_head(head)
    assert (request.host, request.port, request.head) == expected


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GET / HTTP/1.1",
        b"CONNECT example.org HTTP/1.1",
        b"CONNECT example.org:99999 HTTP/1.1",
        b"CONNECT 10.0.0.1:443 HTTP/1.1",
        b"CONNECT [::1]:443 HTTP/1.1",
        b"CONNECT 0x7f.1:443 HTTP/1.1",
        b"GET http://user@example.org/ HTTP/1.1",
        b"GET https://example.org/ HTTP/1.1",
        b"GET http://example.org/ HTTP/2.0",
        b"GET http://example.org/a b HTTP/1.1",
        b"GET http://example.org/ HTTP/1.1\r\n folded",
        b"GET http://example.org/ HTTP/1.1\r\nA: b\nHost: c",
        b"GET http://example.org/ HTTP/1.1\r\nbad header: x",
    ],
)
def test_any_other_head_is_refused(head: bytes) -> None:
    with pytest.raises(Refused):
        parse_head(head)


@given(st.binary(max_size=200))
def test_no_head_does_anything_but_be_read_or_refused(noise: bytes) -> None:
    for head in (noise, b"CONNECT " + noise + b":443 HTTP/1.1", b"GET http://a.org/ HTTP/1.1\r\n" + noise):
        with contextlib.suppress(Refused):
            request = parse_head(head)
            assert is_name(request.host)
            assert request.head.count(b"\r\n\r\n") <= 1


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("93.184.216.34", True),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("2606:4700::1", True),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::1", False),
        ("2001:db8::1", False),
    ],
)
def test_only_addresses_of_the_internet_are_open(address: str, is_public: bool) -> None:
    assert openness(network)(ipaddress.ip_address(address)) is is_public


def test_the_hosts_own_addresses_are_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    is_open = openness(network)
    monkeypatch.setattr(network, "own_addresses", lambda: ["93.184.216.34"])
    monkeypatch.setattr(network, "own_addresses6", lambda: ["2606:4700::1"])
    assert not is_open(ipaddress.ip_address("93.184.216.34"))
    assert not is_open(ipaddress.ip_address("2606:4700::1"))


class Proxied:
    """A proxy in this process, and a host behind it that sends back what it gets."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.port = 0
        self.host_port = 0
        self.received = bytearray()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    async def connect(self, first: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(first)
        return reader, writer

    async def ask(self, request: bytes) -> bytes:
        """All that comes until the end."""
        reader, writer = await self.connect(request)
        answer = await reader.read()
        writer.close()
        return answer

    async def tunnel(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.connect(b"CONNECT localhost:%d HTTP/1.1\r\n\r\n" % self.host_port)
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        return reader, writer


@pytest.fixture
async def proxied(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    async with contextlib.AsyncExitStack() as stack:

        async def make(*, is_open: bool = True, **limits: Any) -> Proxied:
            log = tmp_path / "log"
            fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            stack.callback(os.close, fd)
            one = Proxied(log)

            async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                while data := await reader.read(1000):
                    one.received += data
                    writer.write(data)
                writer.close()

            host = await asyncio.start_server(echo, "127.0.0.1", 0)
            one.host_port = host.sockets[0].getsockname()[1]
            allow = AllowList.of([f"localhost:{one.host_port}"])
            bounds = Limits(**limits)
            egress = Egress(
                allow,
                bounds,
                is_open=lambda _address: is_open,
                write_log=DecisionLog(fd, {"user": "alice", "instance": "i1"}).write,
            )
            proxy = await asyncio.start_server(egress.serve, "127.0.0.1", 0, limit=bounds.header_bytes)
            one.port = proxy.sockets[0].getsockname()[1]
            stack.callback(host.close)
            stack.callback(proxy.close)
            return one

        yield make


async def test_a_tunnel_carries_bytes_both_ways_and_is_written_down(proxied: Callable[..., Any]) -> None:
    one = await proxied()
    reader, writer = await one.tunnel()
    writer.write(b"secret path and content")
    assert await reader.readexactly(23) == b"secret path and content"
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await eventually(lambda: len(one.lines()) == 2)
    began, ended = one.lines()
    known = {"user": "alice", "instance": "i1", "host": "localhost", "port": one.host_port, "allowed": True}
    assert {key: began[key] for key in known} == known
    assert (ended["ended"], ended["bytes_out"], ended["bytes_in"]) == (True, 23, 23)
    assert "secret" not in json.dumps(one.lines())


async def test_a_plain_request_gets_there_in_the_form_of_a_host(proxied: Callable[..., Any]) -> None:
    one = await proxied()
    fields = b"Host: elsewhere\r\nContent-Length: 4\r\n\r\nbody"
    first = b"POST http://localhost:%d/private?token=1 HTTP/1.1\r\n" % one.host_port
    _, writer = await one.connect(first + fields)
    await eventually(lambda: one.received.endswith(b"body"))
    assert one.received.startswith(b"POST /private?token=1 HTTP/1.1\r\nHost: localhost:")
    assert b"elsewhere" not in one.received
    writer.close()
    await eventually(lambda: len(one.lines()) == 2)
    assert "private" not in json.dumps(one.lines())
    assert "token" not in json.dumps(one.lines())


async def test_what_is_not_on_the_list_or_leads_astray_is_refused_and_written_down(
    proxied: Callable[..., Any],
) -> None:
    one = await proxied(is_open=False)
    for target, status in (
        (b"other.example:443", b"403"),
        (b"localhost:1", b"403"),
        (b"localhost:%d" % one.host_port, b"403"),
        (b"127.0.0.1:%d" % one.host_port, b"403"),
        (b"nonsense", b"400"),
    ):
        answer = await one.ask(b"CONNECT " + target + b" HTTP/1.1\r\n\r\n")
        assert answer.split(b" ")[1] == status, answer
    assert [line["allowed"] for line in one.lines()] == [False] * 5
    assert "not the internet's" in one.lines()[2]["reason"]
    assert not one.received


async def test_heads_and_silence_and_connections_are_bounded(proxied: Callable[..., Any]) -> None:
    one = await proxied(connections=2, header_bytes=512, handshake_seconds=0.3)
    assert b" 431 " in await one.ask(b"GET http://a.org/ HTTP/1.1\r\nA: " + b"x" * 2000)
    assert b" 408 " in await one.ask(b"GET http://a.org/")
    open_ones = [await one.tunnel() for _ in range(2)]
    assert b" 503 " in await one.ask(b"")
    for _, writer in open_ones:
        writer.close()

    async def has_room() -> bool:
        return b" 403 " in await one.ask(b"CONNECT b.org:443 HTTP/1.1\r\n\r\n")

    await eventually(has_room)


async def test_a_tunnel_in_which_nothing_moves_is_ended(proxied: Callable[..., Any]) -> None:
    one = await proxied(idle_seconds=0.2)
    reader, writer = await one.tunnel()
    assert await reader.read() == b""
    writer.close()


async def test_without_a_log_nothing_is_allowed(proxied: Callable[..., Any]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        egress = Egress(
            AllowList.of(["localhost:9"]),
            Limits(),
            is_open=lambda _address: True,
            write_log=DecisionLog(full).write,
        )
        server = await asyncio.start_server(egress.serve, "127.0.0.1", 0)
        with socket.create_server(("127.0.0.1", 0)) as host:
            port = host.getsockname()[1]
            egress._allow = AllowList.of([f"localhost:{port}"])
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"CONNECT localhost:%d HTTP/1.1\r\n\r\n" % port)
            assert b" 503 " in await reader.read()
            writer.close()
        server.close()
    finally:
        os.close(full)
