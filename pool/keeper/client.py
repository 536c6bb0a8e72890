"""The server's end of the keeper's socket: asyncio, standard library only."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

from pool.keeper import wire

_UCRED = struct.Struct("3i")
_GRANT_BYTES = wire.DEFAULT_WINDOW_BYTES // 4


class KeeperError(Exception):
    """The keeper refused; ``code`` is stable, ``details`` are the answer's other keys."""

    def __init__(self, code: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.details = dict(details or {})


class ConnectionLost(KeeperError):
    """The connection is gone: the keeper died, or another server took over."""

    def __init__(self, message: str = "the connection to the keeper is lost") -> None:
        super().__init__("connection_lost", message)


class Sink(Protocol):
    """Who receives an instance's output; called on the event loop, never awaited."""

    def data_received(self, offset: int, data: bytes) -> None:
        """Output that begins at ``offset``."""

    def exited(
        self, code: int | None, signal: str | None, stderr_tail: str, cause: str | None = None
    ) -> None:
        """The instance is gone; after all its output. Once. ``cause`` is what the kernel ended it for."""

    def launcher_lost(self) -> None:
        """The connection is lost; nothing follows. Once."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What the keeper says first. ``instances`` are as ``list`` gives them.

    ``code`` names the code that it runs, None below version 2 of the protocol.
    ``gateway_uid`` is whose process the gateway is, None without one and from a keeper that cannot tell.
    ``service_uid`` is the server that is not root which it keeps in bounds; None: it believes whom it serves.
    """

    version: int
    epoch: int
    pid: int
    boot_id: str
    gateway_pid: int | None
    instances: Sequence[Mapping[str, Any]]
    code: str | None = None
    gateway_uid: int | None = None
    service_uid: int | None = None

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Hello:
        """From the answer to our hello."""
        return cls(
            answer["version"],
            answer["epoch"],
            answer["pid"],
            answer["boot_id"],
            answer["gateway_pid"],
            answer["instances"],
            answer.get("code"),
            answer.get("gateway_uid"),
            answer.get("service_uid"),
        )


@dataclass(frozen=True, slots=True)
class Attached:
    """An instance on this connection; ``facts`` are those of ``list``."""

    handle: int
    facts: Mapping[str, Any]


@dataclass(slots=True)
class _Feed:
    """Where the output of one handle goes, and how much of it was not granted again yet."""

    sink: Sink
    owed: int = 0
    is_held: bool = False


class _Words:
    """Keeps the promise to speak every so many seconds, twice over; None: nothing is promised."""

    def __init__(self, every_seconds: float | None) -> None:
        self.promise = {} if every_seconds is None else {"speaks_every": every_seconds}
        self._next: asyncio.TimerHandle | None = None

    def begin(self, every_seconds: float | None, say: Callable[[], None]) -> None:
        """Say a word now and again; None: nobody counts them."""
        if every_seconds is not None:
            say()
            loop = asyncio.get_running_loop()
            self._next = loop.call_later(every_seconds / 2, self.begin, every_seconds, say)

    def end(self) -> None:
        """Be silent."""
        if self._next is not None:
            self._next.cancel()


class KeeperClient(asyncio.Protocol):
    """One connection, attached by ``connect``.

    ``on_lost(fenced_by)`` is called once when it is lost without ``close``;
    ``fenced_by`` is the epoch of the server that took over, else None. Every
    request raises ``KeeperError``, or ``ConnectionLost`` when it is.
    """

    def __init__(
        self,
        on_lost: Callable[[int | None], None],
        on_event: Callable[[Mapping[str, Any]], None] | None = None,
        speaks_every: float | None = None,
    ) -> None:
        self.hello: Hello | None = None
        self._on_lost = on_lost
        self._on_event = on_event
        self._decoder = wire.Decoder()
        self._transport: asyncio.Transport | None = None
        self._ids = itertools.count(1)
        self._requests: dict[int, asyncio.Future[Any]] = {}
        self._starting: dict[int, Sink] = {}
        self._feeds: dict[int, _Feed] = {}
        self._lines: dict[tuple[int, int], asyncio.Future[None]] = {}
        self._fenced_by: int | None = None
        self._is_closed = False
        self._words = _Words(speaks_every)
        self._gone = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(
        cls,
        path: Path | socket.socket,
        epoch: int,
        on_lost: Callable[[int | None], None],
        *,
        on_event: Callable[[Mapping[str, Any]], None] | None = None,
        versions: tuple[int, int] = (wire.VERSION_MIN, wire.VERSION_MAX),
        speaks_every: float | None = None,
    ) -> KeeperClient:
        """Connect and say hello; ``path`` may be a connected socket. Raises ``OSError`` and ``KeeperError``.

        Nothing is open then. With ``speaks_every`` the keeper is promised a word every so many seconds.
        """
        loop = asyncio.get_running_loop()
        make = partial(cls, on_lost, on_event, speaks_every)
        where = {"sock": path} if isinstance(path, socket.socket) else {"path": str(path)}
        _, client = await loop.create_unix_connection(make, **where)
        try:
            await client.say_hello(versions, epoch)
        except BaseException:
            client.close()
            raise
        return client

    async def say_hello(self, versions: tuple[int, int], epoch: int) -> int:
        """Begin, or take a higher epoch; the epoch in force. Raises ``KeeperError``."""
        low, high = versions
        answer = await self.request("hello", min=low, max=high, epoch=epoch, **self._words.promise)
        if self.hello is None:
            self.hello = Hello.of(answer)
            self._words.begin(answer.get("speaks_every"), lambda: self.tell("alive"))
        return int(answer["epoch"])

    async def raise_epoch(self, epoch: int) -> int:
        """Take a higher epoch on this connection; the epoch in force."""
        assert self.hello is not None
        return await self.say_hello((self.hello.version, self.hello.version), epoch)

    async def upgrade(self, **settings: float) -> None:
        """Have the keeper go over to the installed code; ``settings`` as in ``keeper.upgrade``."""
        answer = await self.request("upgrade", **settings)
        if self.hello is not None:
            self.hello = replace(self.hello, code=answer["code"])

    @property
    def is_lost(self) -> bool:
        """Is the connection of no more use?"""
        return self._transport is None

    async def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        return cast(dict[str, Any], await self._ask(next(self._ids), op, fields))

    async def start(self, request: Mapping[str, Any], sink: Sink) -> Attached:
        """Start an instance; its output goes to ``sink`` from offset 0, even before this returns."""
        return await self._open_stream("start", dict(request), sink)

    async def attach(self, instance_id: str, offset: int, sink: Sink) -> Attached:
        """Follow an instance, living or exited, from ``offset`` on."""
        return await self._open_stream("attach", {"instance": instance_id, "offset": offset}, sink)

    async def write(self, handle: int, line: bytes) -> None:
        """Write a line to the CLI's stdin; returns when all of it is in the pipe."""
        transport = self._live_transport()
        sequence = next(self._ids)
        future = asyncio.get_running_loop().create_future()
        self._lines[handle, sequence] = future
        transport.write(wire.encode_input(handle, sequence, line))
        try:
            await future
        finally:
            self._lines.pop((handle, sequence), None)

    async def read(self, instance_id: str, offset: int, limit: int) -> tuple[int, bytes]:
        """Spooled output: (offset of the first byte, bytes)."""
        fields = {"instance": instance_id, "offset": offset, "limit": limit}
        return cast(tuple[int, bytes], await self._ask(next(self._ids), "read", fields))

    def tell(self, op: str, **fields: Any) -> None:
        """Send a request that needs no answer; without effect when the connection is lost."""
        if self._transport is not None:
            self._transport.write(wire.encode_json({"op": op, **fields}))

    def hold(self, handle: int, is_held: bool) -> None:
        """Grant no more credit, so that output waits in the spool; or grant it again."""
        feed = self._feeds.get(handle)
        if feed is not None:
            feed.is_held = is_held
            if not is_held:
                self._grant(handle, feed)

    def expect_end(self) -> None:
        """The keeper was told to leave: its end is no loss."""
        self._on_lost = _nothing

    def close(self) -> None:
        """Close without telling anybody."""
        self._is_closed = True
        if self._transport is not None:
            self._transport.close()

    async def wait_closed(self) -> None:
        """Return when the connection is closed."""
        await asyncio.shield(self._gone)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is there."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Frames from the keeper."""
        for kind, payload in self._decoder.feed(data):
            if kind == wire.KIND_OUTPUT:
                self._output(payload)
            elif kind == wire.KIND_READ:
                request, offset, content = wire.decode_read(payload)
                self._resolve(request, (offset, content))
            else:
                self._message(wire.decode_json(payload))

    def connection_lost(self, _error: Exception | None) -> None:
        """The keeper is gone, or ``close`` was called."""
        self._transport = None
        self._words.end()
        waiting = [*self._requests.values(), *self._lines.values()]
        self._requests.clear()
        self._lines.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(ConnectionLost())
        feeds, self._feeds = [*self._feeds.values()], {}
        self._starting.clear()
        self._gone.set_result(None)
        if not self._is_closed:
            for feed in feeds:
                feed.sink.launcher_lost()
            self._on_lost(self._fenced_by)

    # what came

    def _output(self, payload: bytes) -> None:
        handle, offset, data = wire.decode_stream(payload)
        feed = self._feeds.get(handle)
        if feed is None:
            return
        feed.sink.data_received(offset, data)
        feed.owed += len(data)
        if feed.owed >= _GRANT_BYTES and not feed.is_held:
            self._grant(handle, feed)

    def _grant(self, handle: int, feed: _Feed) -> None:
        if feed.owed:
            self.tell("credit", handle=handle, bytes=feed.owed)
            feed.owed = 0

    def _message(self, message: dict[str, Any]) -> None:
        request = message.get("re")
        if request is not None:
            sink = self._starting.pop(request, None)
            if sink is not None and "handle" in message:
                # in the same step as the answer is read: output may follow in the same packet
                self._feeds[message["handle"]] = _Feed(sink)
            self._resolve(request, message)
        else:
            self._event(message)

    def _resolve(self, request: int, answer: Any) -> None:
        future = self._requests.pop(request, None)
        if future is None or future.done():
            return
        if isinstance(answer, dict) and "error" in answer:
            future.set_exception(_error(answer))
        else:
            future.set_result(answer)

    def _event(self, message: dict[str, Any]) -> None:
        event = message.get("event")
        if event == "written":
            future = self._lines.pop((message["handle"], message["seq"]), None)
            if future is not None and not future.done():
                if "error" in message:
                    future.set_exception(_error(message))
                else:
                    future.set_result(None)
        elif event == "exit":
            feed = self._feeds.pop(message["handle"], None)
            if feed is not None:
                feed.sink.exited(
                    message["code"], message["signal"], message["stderr_tail"], message.get("cause")
                )
        elif event == "fenced":
            self._fenced_by = message["epoch"]
        if self._on_event is not None:
            self._on_event(message)

    # what goes

    async def _open_stream(self, op: str, fields: dict[str, Any], sink: Sink) -> Attached:
        request = next(self._ids)
        self._starting[request] = sink
        try:
            answer = await self._ask(request, op, fields)
        finally:
            self._starting.pop(request, None)
        return Attached(answer["handle"], answer)

    async def _ask(self, request: int, op: str, fields: Mapping[str, Any]) -> Any:
        transport = self._live_transport()
        future = asyncio.get_running_loop().create_future()
        self._requests[request] = future
        transport.write(wire.encode_json({"id": request, "op": op, **fields}))
        try:
            return await future
        finally:
            self._requests.pop(request, None)

    def _live_transport(self) -> asyncio.Transport:
        if self._transport is None:
            raise ConnectionLost
        return self._transport


def peer_pid(path: Path) -> int | None:
    """The pid of the process that listens on a unix socket, None when nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.connect(str(path))
        pid, _uid, _gid = _UCRED.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return int(pid)
    return None


def _nothing(_fenced_by: int | None) -> None:
    pass


def _error(message: Mapping[str, Any]) -> KeeperError:
    text = str(message.get("message") or message["error"])
    return KeeperError(str(message["error"]), text, message)
