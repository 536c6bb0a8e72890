"""The server's side of what it has the host program do: requests by name, from threads and from the loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from pool.errors import KeeperUnavailable, PoolError
from pool.hosts import wire
from pool.steward.wire import END, FAILURE, BadFrame, Reply, request

# so many words of ours may have gone without a sound from there
_MISSED = 6


class Conversation(asyncio.Protocol):
    """One run of the host program, spoken with over ``sock``; ``on_lost`` is called once when it ends.

    ``call`` and ``iterate`` block: call them in a thread. Everything raises ``KeeperUnavailable`` from
    its end on.
    """

    def __init__(self, host: str, on_lost: Callable[[], None]) -> None:
        self._host = host
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Reply]] = {}
        self._unheard = 0
        self._next_word: asyncio.TimerHandle | None = None
        self._is_closed = False

    @classmethod
    async def open(cls, host: str, sock: socket.socket, on_lost: Callable[[], None]) -> Conversation:
        """Over a connected socket, which is the conversation's from here on."""
        loop = asyncio.get_running_loop()
        _, conversation = await loop.create_unix_connection(lambda: cls(host, on_lost), sock=sock)
        return conversation

    @property
    def is_lost(self) -> bool:
        """Is nobody there any more?"""
        return self._transport is None

    async def ask(self, verb: str, **arguments: Any) -> Any:
        """The verb's result. Raises what it raised."""
        answer: Future[Reply] = Future()
        self._send(verb, arguments, answer)
        return self._result(verb, await asyncio.wrap_future(answer))

    def call(self, verb: str, **arguments: Any) -> Any:
        """As ``ask``, in a thread."""
        return self._result(verb, self._reply(verb, arguments))

    def call_within(self, seconds: float, verb: str, **arguments: Any) -> Any:
        """As ``call``; ``KeeperUnavailable`` when there is no answer by then: it may be done all the same."""
        return self._result(verb, self._reply(verb, arguments, seconds))

    def iterate(self, verb: str, **arguments: Any) -> Iterator[Any]:
        """The items that the verb gives, each asked for when it is wanted; in a thread."""
        iterator = self._plain(self._reply(verb, arguments))
        try:
            while True:
                reply = self._reply("next", {"iterator": iterator})
                if reply[1] == END:
                    return
                yield self._result(verb, reply)
        finally:
            # whoever gives it up may be anywhere, and need not wait
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._send, "close", {"iterator": iterator}, Future())

    def speak(self, every_seconds: float) -> None:
        """Say a word so often, until the end, and give up a program that answers none."""
        self._unheard += 1
        if self._unheard > _MISSED:
            self.abort()
        elif self._transport is not None:
            self._send("alive", {}, Future())
            self._next_word = self._loop.call_later(every_seconds, self.speak, every_seconds)

    def abort(self) -> None:
        """End it now; ``on_lost`` is told."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End it without telling anybody."""
        self._is_closed = True
        self.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        self._unheard = 0
        self._buffer += data
        try:
            for body in self._bodies():
                reply = wire.parse_reply(body)
                waiting = self._waiting.pop(reply[0], None)
                if waiting is not None and not waiting.cancelled():
                    waiting.set_result(reply)
        except BadFrame:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = None
        if self._next_word is not None:
            self._next_word.cancel()
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.cancelled():
                answer.set_exception(self._gone())
        if not self._is_closed:
            self._on_lost()

    def _bodies(self) -> Iterator[bytes]:
        head = wire.HEAD.size
        while len(self._buffer) >= head:
            (size,) = wire.HEAD.unpack_from(self._buffer)
            if size > wire.MAX_REPLY_BYTES:
                raise BadFrame(f"a frame of {size} bytes")
            if len(self._buffer) < head + size:
                return
            body = bytes(memoryview(self._buffer)[head : head + size])
            del self._buffer[: head + size]
            yield body

    def _reply(self, verb: str, arguments: Mapping[str, Any], seconds: float | None = None) -> Reply:
        if threading.get_ident() == self._thread:
            raise RuntimeError(f"{verb} would wait for itself: ask it in a thread")
        answer: Future[Reply] = Future()
        try:
            self._loop.call_soon_threadsafe(self._send, verb, arguments, answer)
        except RuntimeError:  # the loop is closed
            raise self._gone() from None
        try:
            return answer.result(seconds)
        except TimeoutError:
            answer.cancel()
            text = f"host {self._host} does not answer within {seconds:g} s"
            raise KeeperUnavailable(text, details={"host": self._host}) from None

    def _send(self, verb: str, arguments: Mapping[str, Any], answer: Future[Reply]) -> None:
        if answer.cancelled():
            return
        if self._transport is None:
            answer.set_exception(self._gone())
            return
        number = next(self._numbers)
        try:
            frame = request(number, verb, arguments)
        except (TypeError, ValueError) as error:
            answer.set_exception(error)
            return
        self._waiting[number] = answer
        self._transport.write(frame)

    def _result(self, verb: str, reply: Reply) -> Any:
        try:
            return wire.typed(verb, self._plain(reply))
        except BadFrame as error:
            raise PoolError(f"host {self._host} answers what is none: {error}") from error

    def _plain(self, reply: Reply) -> Any:
        _number, kind, value = reply
        if kind == FAILURE:
            raise wire.raised(value)
        return value

    def _gone(self) -> KeeperUnavailable:
        return KeeperUnavailable(f"host {self._host} is not connected", details={"host": self._host})


Greeting = Callable[[str, Callable[..., Awaitable[Any]]], Awaitable[None]]
"""Is given a host's name and its ``Conversation.ask``."""


class HostClient:
    """Whoever is spoken with on a host now, for what lives longer than one conversation.

    ``greetings`` are made at the beginning of every connection, before anything is started there;
    one that raises ends the connection.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self.conversation: Conversation | None = None
        self.greetings: list[Greeting] = []

    async def greet(self, seconds: float) -> None:
        """Make all greetings. Raises ``KeeperUnavailable`` for whatever is in the way."""
        try:
            async with asyncio.timeout(seconds):
                for greeting in self.greetings:
                    await greeting(self._host, self._current().ask)
        except TimeoutError:
            text = f"host {self._host} did not take within {seconds:g} s what every connection begins with"
            raise KeeperUnavailable(text, details={"host": self._host}) from None
        except KeeperUnavailable:
            raise
        except PoolError as error:
            text = f"host {self._host} did not take what every connection begins with: {error.message}"
            raise KeeperUnavailable(text, details={"host": self._host, "code": error.code}) from error

    def call(self, verb: str, **arguments: Any) -> Any:
        """See ``Conversation.call``."""
        return self._current().call(verb, **arguments)

    def call_within(self, seconds: float, verb: str, **arguments: Any) -> Any:
        """See ``Conversation.call_within``."""
        return self._current().call_within(seconds, verb, **arguments)

    def iterate(self, verb: str, **arguments: Any) -> Iterator[Any]:
        """See ``Conversation.iterate``; all items are of one conversation."""
        return self._current().iterate(verb, **arguments)

    def _current(self) -> Conversation:
        if self.conversation is None:
            text = f"host {self._host} is not connected"
            raise KeeperUnavailable(text, details={"host": self._host})
        return self.conversation
