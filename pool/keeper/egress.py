"""The way out of one sandbox to hosts that are named: an HTTP proxy, run as a script of its own.

Usage: ``python -I -S egress.py CHANNEL EXIT LOG SETTINGS``. From the unix
socket CHANNEL it gets the socket to accept on, which listens in the sandbox's
network namespace; it connects from the host's. Whoever comes to that socket is
the sandbox: nothing has to be proven. It ends when the pipe EXIT does.

SETTINGS is a JSON object: ``allow``, a list of ``NAME``, ``*.NAME`` (whatever is
below it) or either with ``:PORT``, else ports 80 and 443; ``labels``, which go
into each line of LOG; ``limits``, seconds and counts, see ``Limits``.

Only names are allowed, resolved here and connected to by the very addresses
that were looked at; a name with one address that is not the internet's is
refused, so that whoever answers for a name cannot point it at the host. LOG
gets a line a decision, and one at the end of what was allowed: host, port and
bytes, never a path or content.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import ipaddress
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

_NOBODY = 65534
_USUAL_PORTS = (80, 443)
_CHUNK_BYTES = 65536
_LAST_SECONDS = 1.0
_MOST_LOG_BYTES = 64 * 1024 * 1024
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_LAST_LABEL_IS_A_NUMBER = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)")
_REQUEST = re.compile(rb"([A-Z]{1,20}) ([!-~]{1,8192}) HTTP/1\.[01]")
_HTTP_TARGET = re.compile(rb"http://([^/?#@]+)([/?].*)?", re.IGNORECASE)
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*)")
# between the client and us; the connection to the host carries one request
_NOT_PASSED_ON = (b"proxy-", b"connection", b"keep-alive", b"host", b"te", b"upgrade")
# IPv6 addresses that are the internet's, without those that carry an IPv4 address in them
_OPEN6 = ipaddress.IPv6Network("2000::/3")
_CLOSED6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Refused(Exception):
    """What was asked for is not done; ``status`` is for the client."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one instance; times in seconds."""

    connections: int = 64
    header_bytes: int = 16384
    handshake_seconds: float = 10.0
    connect_seconds: float = 15.0
    idle_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class AllowList:
    """Which names and ports may be connected to."""

    exact: frozenset[tuple[str, int]]
    below: frozenset[tuple[str, int]]

    @classmethod
    def of(cls, entries: Iterable[str]) -> AllowList:
        """From entries as in the configuration. Raises ``ValueError`` that names a bad one."""
        exact: set[tuple[str, int]] = set()
        below: set[tuple[str, int]] = set()
        for entry in entries:
            text, colon, port = entry.lower().partition(":")
            name = text.removeprefix("*.")
            if not is_name(name) or (colon and not (port.isdecimal() and 0 < int(port) < 65536)):
                raise ValueError(f"{entry!r} is no host name, *.name, or either with :port")
            target = exact if name == text else below
            target.update((name, number) for number in ((int(port),) if colon else _USUAL_PORTS))
        return cls(frozenset(exact), frozenset(below))

    def allows(self, name: str, port: int) -> bool:
        """Is it allowed to connect to ``port`` of ``name`` (lower case, no dot at the end)?"""
        if (name, port) in self.exact:
            return True
        labels = name.split(".")
        return any((".".join(labels[place:]), port) in self.below for place in range(1, len(labels)))


def is_name(text: str) -> bool:
    """Is it a host name, and no address in any of its spellings?"""
    return len(text) <= 253 and bool(_NAME.fullmatch(text)) and not _LAST_LABEL_IS_A_NUMBER.fullmatch(text)


def split_authority(text: bytes, default_port: int | None) -> tuple[str, int]:
    """Name and port of ``name:port``. Raises ``Refused``."""
    host, colon, port = text.decode("latin-1").lower().rpartition(":")
    if not colon:
        host, port = port, "" if default_port is None else str(default_port)
    host = host.removesuffix(".")
    if not (port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
        raise Refused("400 Bad Request", "no port")
    if not is_name(host):
        raise Refused("403 Forbidden", "only host names are allowed, no addresses")
    return host, int(port)


@dataclass(frozen=True, slots=True)
class Request:
    """The head of what a client asks for; ``head`` is what the host gets of it, empty for a tunnel."""

    host: str
    port: int
    head: bytes


def parse_head(head: bytes) -> Request:
    """Read a request's head, without the empty line. Raises ``Refused``."""
    first, *lines = head.split(b"\r\n")
    request = _REQUEST.fullmatch(first)
    if request is None:
        raise Refused("400 Bad Request", "no request of a proxy")
    method, target = request.groups()
    if method == b"CONNECT":
        return Request(*split_authority(target, None), b"")
    absolute = _HTTP_TARGET.fullmatch(target)
    if absolute is None:
        raise Refused("400 Bad Request", "neither CONNECT nor an http address")
    host, port = split_authority(absolute[1], 80)
    path = absolute[2] or b"/"
    fields = [b"Host: " + absolute[1], b"Connection: close"]
    for line in lines:
        one = _FIELD.fullmatch(line)
        if one is None:
            raise Refused("400 Bad Request", "a header that is none")
        if not one[1].lower().startswith(_NOT_PASSED_ON):
            fields.append(line)
    path = path if path.startswith(b"/") else b"/" + path
    return Request(host, port, b"\r\n".join([method + b" " + path + b" HTTP/1.1", *fields, b"", b""]))


class Egress:
    """The proxy of one instance. ``is_open`` says which addresses are the internet's."""

    def __init__(
        self,
        allow: AllowList,
        limits: Limits,
        *,
        is_open: Callable[[Address], bool],
        write_log: Callable[[dict[str, Any]], None],
    ) -> None:
        self._allow = allow
        self._limits = limits
        self._is_open = is_open
        self._write_log = write_log
        self._connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, to its end."""
        self._connections += 1
        try:
            if self._connections > self._limits.connections:
                raise Refused("503 Service Unavailable", "too many connections")
            await self._serve(reader, writer)
        except Refused as refused:
            body = f"{refused}\n".encode()
            head = f"HTTP/1.1 {refused.status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_LAST_SECONDS):
                    writer.write_eof()
                    # a socket that is closed with something unread takes the answer back
                    while await reader.read(_CHUNK_BYTES):
                        pass
        except (OSError, TimeoutError):
            pass  # the client went away, or was silent for too long
        finally:
            self._connections -= 1
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._limits.handshake_seconds):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise Refused("431 Request Header Fields Too Large", "the head is too long") from None
        except asyncio.IncompleteReadError:
            return
        except TimeoutError:
            raise Refused("408 Request Timeout", "the head did not come in time") from None
        asked: dict[str, Any] = {"host": "", "port": 0}
        try:
            request = parse_head(head.removesuffix(b"\r\n\r\n"))
            asked = {"host": request.host, "port": request.port}
            if not self._allow.allows(request.host, request.port):
                raise Refused(
                    "403 Forbidden", f"{request.host}:{request.port} is not on the list of allowed hosts"
                )
            out_reader, out_writer = await self._connect(request)
        except Refused as refused:
            self._write_log({**asked, "allowed": False, "reason": str(refused)})
            raise
        counts = {"bytes_out": len(request.head), "bytes_in": 0}
        try:
            self._write_log({**asked, "allowed": True})
            if request.head:
                out_writer.write(request.head)
            else:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await self._exchange((reader, writer), (out_reader, out_writer), counts)
        finally:
            out_writer.close()
            with contextlib.suppress(Refused):
                self._write_log({**asked, "allowed": True, "ended": True, **counts})

    async def _connect(self, request: Request) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(self._limits.connect_seconds):
                addresses = await self._addresses(request)
                for address in addresses:
                    with contextlib.suppress(OSError):
                        return await asyncio.open_connection(str(address), request.port, limit=_CHUNK_BYTES)
        except TimeoutError:
            raise Refused("504 Gateway Timeout", f"{request.host} did not answer in time") from None
        raise Refused("502 Bad Gateway", f"{request.host} cannot be connected to")

    async def _addresses(self, request: Request) -> Sequence[Address]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(request.host, request.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise Refused("502 Bad Gateway", f"there is no host {request.host}") from None
        addresses = [ipaddress.ip_address(str(item[4][0]).partition("%")[0]) for item in found]
        if not all(self._is_open(address) for address in addresses):
            raise Refused("403 Forbidden", f"{request.host} leads to an address that is not the internet's")
        return addresses

    async def _exchange(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        host: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        counts: dict[str, int],
    ) -> None:
        """Pass bytes both ways until both have ended, one broke, or nothing has moved for too long."""
        loop = asyncio.get_running_loop()
        moved = loop.time()

        async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter, count: str) -> None:
            nonlocal moved
            while data := await source.read(_CHUNK_BYTES):
                target.write(data)
                await target.drain()
                counts[count] += len(data)
                moved = loop.time()
            if target.can_write_eof():
                target.write_eof()

        ways = [
            asyncio.create_task(pass_on(client[0], host[1], "bytes_out"), name="egress-out"),
            asyncio.create_task(pass_on(host[0], client[1], "bytes_in"), name="egress-in"),
        ]
        try:
            waiting = set(ways)
            while waiting and loop.time() - moved < self._limits.idle_seconds:
                left = self._limits.idle_seconds - (loop.time() - moved)
                done, waiting = await asyncio.wait(
                    waiting, timeout=max(left, 0.01), return_when=asyncio.FIRST_COMPLETED
                )
                if any(task.exception() is not None for task in done):
                    break
        finally:
            for task in ways:
                task.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


@dataclass(slots=True)
class DecisionLog:
    """Lines of JSON in a file that is only appended to. Full or broken: nothing is allowed any more."""

    fd: int
    labels: dict[str, str] = field(default_factory=dict)

    def write(self, line: dict[str, Any]) -> None:
        """Raises ``Refused``: what cannot be written down is not done."""
        text = json.dumps({"time": round(time.time(), 3), **self.labels, **line}) + "\n"
        try:
            if os.fstat(self.fd).st_size < _MOST_LOG_BYTES and os.write(self.fd, text.encode()):
                return
        except OSError:
            pass
        raise Refused("503 Service Unavailable", "the log of connections cannot be written")


def openness(network: ModuleType) -> Callable[[Address], bool]:
    """Is an address the internet's, and not this host's own as it is now?"""
    closed = [ipaddress.IPv4Network(text) for text in network.CLOSED]

    def is_open(address: Address) -> bool:
        if isinstance(address, ipaddress.IPv6Address):
            is_public = address in _OPEN6 and not any(address in net for net in _CLOSED6)
            return is_public and str(address) not in network.own_addresses6()
        return str(address) not in network.own_addresses() and not any(address in net for net in closed)

    return is_open


def _sibling(name: str) -> ModuleType:
    """A script beside this one; by its path, because nothing of the project can be imported by name."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def _run(listener: socket.socket, exit_fd: int, egress: Egress, limits: Limits) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(exit_fd, ended.set)
    server = await asyncio.start_server(egress.serve, sock=listener, limit=limits.header_bytes)
    await ended.wait()
    server.close()


def main() -> None:
    """See the module."""
    channel, exit_fd, log = map(int, sys.argv[1:4])
    settings = json.loads(sys.argv[4])
    is_open = openness(_sibling("network"))
    # everything is loaded now: our interpreter's files can lie where nobody may not go
    importlib.import_module("concurrent.futures.thread")
    "a".encode("idna")
    for address in (_CLOSED6[0][0], ipaddress.IPv4Address(1)):
        is_open(address)
    if os.geteuid() == 0:
        # it reads what strangers send; a name and a socket are all that it needs
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    with socket.socket(fileno=channel) as keeper:
        _, descriptors, _, _ = socket.recv_fds(keeper, 16, 1)
    if not descriptors:
        return  # the sandbox was not started
    listener = socket.socket(fileno=descriptors[0])
    listener.setblocking(False)
    limits = Limits(**settings.get("limits", {}))
    decisions = DecisionLog(log, settings.get("labels", {}))
    egress = Egress(
        AllowList.of(settings["allow"]),
        limits,
        is_open=is_open,
        write_log=decisions.write,
    )
    asyncio.run(_run(listener, exit_fd, egress, limits))


if __name__ == "__main__":
    main()
