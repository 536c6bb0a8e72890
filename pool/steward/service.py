"""The steward's side of the pair of sockets: does what the server asks by name, each in a thread."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pool.errors import BadRequest
from pool.steward import wire

_log = logging.getLogger(__name__)

Verb = Callable[..., Any]

# A user's disk that hangs keeps a thread; the others go on.
_THREADS = 64
_OPEN_ITERATORS = 4096
# More than all threads of a server ask at once; one who asks for more is not read until some are answered.
_UNDER_WAY = 256


class Service:
    """Serves ``verbs`` until the other end is closed. What gives an iterator is asked item by item.

    ``reply`` encodes an answer (id, kind, value). Verbs that are ``prompt`` take no time
    and are answered whatever else is under way.
    """

    def __init__(
        self,
        sock: wire.Socket,
        verbs: Mapping[str, Verb],
        *,
        reply: Callable[[int, str, Any], bytes] = wire.reply,
        prompt: Collection[str] = (),
    ) -> None:
        self._sock = sock
        self._reply = reply
        self._prompt = prompt
        self._verbs = {**verbs, "next": self._next, "close": self._close}
        self._iterators: dict[int, Iterator[Any]] = {}
        self._last = 0
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._room = threading.BoundedSemaphore(_UNDER_WAY)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="verb")

    def run(self) -> None:
        """Returns when the server has gone, or sends what is no request."""
        try:
            while (body := wire.receive(self._sock, wire.MAX_REQUEST_BYTES)) is not None:
                number, verb, arguments = wire.parse_request(body)
                if verb in self._prompt:
                    self._send(self._done(number, verb, arguments))
                    continue
                self._room.acquire()
                self._threads.submit(self._do, number, verb, arguments)
        except (wire.BadFrame, OSError) as error:
            _log.warning("the server's requests end: %s", error)
        finally:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _do(self, number: int, verb: str, arguments: Mapping[str, Any]) -> None:
        answer = self._done(number, verb, arguments)
        try:
            self._send(answer)
        finally:
            self._room.release()

    def _send(self, answer: bytes) -> None:
        with contextlib.suppress(OSError), self._sending:
            self._sock.sendall(answer)

    def _done(self, number: int, verb: str, arguments: Mapping[str, Any]) -> bytes:
        try:
            work = self._verbs.get(verb)
            if work is None:
                raise BadRequest(f"no verb {verb!r}")
            return self._answer(number, work(**arguments))
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller waits for an answer
            if not isinstance(error, BadRequest | OSError):
                _log.info("%s: %s", verb, type(error).__name__)
            return self._reply(number, wire.FAILURE, wire.failure(error))

    def _answer(self, number: int, value: Any) -> bytes:
        if isinstance(value, _Reply):
            return self._reply(number, value.kind, value.value)
        if not isinstance(value, Iterator):
            return self._reply(number, wire.RESULT, value)
        with self._lock:
            if len(self._iterators) >= _OPEN_ITERATORS:
                raise BadRequest("too many are open")
            self._last += 1
            self._iterators[self._last] = value
            return self._reply(number, wire.RESULT, self._last)

    def _next(self, iterator: int) -> _Reply:
        found = self._iterators.get(iterator)
        if found is None:
            raise BadRequest("not open")
        for item in found:
            return _Reply(wire.ITEM, item)
        with self._lock:
            self._iterators.pop(iterator, None)
        return _Reply(wire.END, None)

    def _close(self, iterator: int) -> None:
        with self._lock:
            found = self._iterators.pop(iterator, None)
        if found is not None:
            # the step under way is given up with it
            with contextlib.suppress(ValueError):
                found.close()  # type: ignore[attr-defined]


class _Reply:
    def __init__(self, kind: str, value: Any) -> None:
        self.kind, self.value = kind, value
