"""The server's side of the pair of sockets."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from pool.errors import PoolError
from pool.steward import wire

VARIABLE = "CLAUDE_POOL_STEWARD"
"""In the environment of a server that has a steward: the descriptor of its end."""


def _end_at_once() -> None:
    # What ends the steward at once is meant for the server: they are one service.
    os.kill(os.getpid(), signal.SIGKILL)


class StewardClient:
    """Asks the steward. Every method blocks until it has answered: call it in a thread.

    When the steward is gone ``on_lost`` is called, which ends this process
    unless another is given: nothing could be done any more.
    """

    def __init__(self, sock: socket.socket, on_lost: Any = _end_at_once) -> None:
        self._sock = sock
        self._on_lost = on_lost
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[wire.Reply]] = {}
        self._sending = threading.Lock()
        self._is_closed = False
        self._reader = threading.Thread(target=self._read, name="steward", daemon=True)
        self._reader.start()

    def call(self, verb: str, **arguments: Any) -> Any:
        """The verb's result. Raises what it raised, as ``wire.raised`` gives it back."""
        _number, kind, value = self._ask(verb, arguments)
        if kind == wire.FAILURE:
            raise wire.raised(value)
        return value

    def iterate(self, verb: str, **arguments: Any) -> Iterator[Any]:
        """The items that the verb gives, each asked for when it is wanted."""
        iterator = self.call(verb, **arguments)
        try:
            while True:
                _number, kind, value = self._ask("next", {"iterator": iterator})
                if kind == wire.END:
                    return
                if kind == wire.FAILURE:
                    raise wire.raised(value)
                yield value
        finally:
            with contextlib.suppress(PoolError, OSError):
                self.call("close", iterator=iterator)

    def close(self) -> None:
        """Say no more."""
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._sock.close()

    def _ask(self, verb: str, arguments: dict[str, Any]) -> wire.Reply:
        number = next(self._numbers)
        answer: Future[wire.Reply] = Future()
        self._waiting[number] = answer
        try:
            with self._sending:
                self._sock.sendall(wire.request(number, verb, arguments))
            return answer.result()
        finally:
            self._waiting.pop(number, None)

    def _read(self) -> None:
        try:
            with contextlib.suppress(OSError):
                while (body := wire.receive(self._sock)) is not None:
                    reply = wire.parse_reply(body)
                    self._answer(reply)
            gone = wire.failure(PoolError("the steward is gone"))
            for number in list(self._waiting):
                self._answer((number, wire.FAILURE, gone))
        finally:
            # whatever it was: without anybody who reads, nothing more can be asked
            if not self._is_closed:
                self._on_lost()

    def _answer(self, reply: wire.Reply) -> None:
        waiting = self._waiting.get(reply[0])
        # who waited may have the answer and not have left yet
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)
