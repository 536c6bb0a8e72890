"""A server's connection: frames in and out, never blocking the loop."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from pool.keeper import wire
from pool.keeper.handover import Packer, State, Unpacker
from pool.keeper.log import Log
from pool.keeper.loop import READ, WRITE, Loop
from pool.keeper.stream import Stream

_RECEIVE_BYTES = 256 * 1024
_FULL_BYTES = 1024 * 1024
_LOW_BYTES = 256 * 1024
# a server that reads nothing while it asks for more is given up above this
_LIMIT_BYTES = 64 * 1024 * 1024
_BUFFERS_AT_ONCE = 64
_FINISH_SECONDS = 5.0


class Connection:
    """One server. ``on_frame(connection, kind, payload)`` for each frame, ``on_closed(connection)`` once."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        log: Log,
        on_frame: Callable[[Connection, int, bytes], None],
        on_closed: Callable[[Connection], None],
    ) -> None:
        self.epoch: int | None = None
        self.version = wire.VERSION_MIN
        self.promise_seconds: float | None = None
        """The server said that it speaks so often at least."""
        self.heard_at = loop.now()
        self.streams: dict[int, Stream] = {}
        self._loop = loop
        self._socket = sock
        self._log = log
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._decoder = wire.Decoder()
        self._queue: deque[memoryview] = deque()
        self._queued = 0
        self._next_handle = 1
        self._is_flush_due = False
        self._is_closing = False
        self._has_waiting_streams = False
        self.is_open = True
        sock.setblocking(False)
        loop.watch(sock.fileno(), READ, self._ready)

    @property
    def key(self) -> int:
        """What names it in a hand-over: its descriptor, -1 when it is closed."""
        return self._socket.fileno()

    def to_state(self, packer: Packer) -> State:
        """The socket, what came of a frame and what has not gone yet."""
        return {
            "fd": packer.descriptor(self._socket.fileno()),
            "epoch": self.epoch,
            "version": self.version,
            "promise_seconds": self.promise_seconds,
            "heard_at": self.heard_at,
            "next_handle": self._next_handle,
            "closing": self._is_closing,
            "received": packer.data(self._decoder.rest),
            "queue": packer.data(b"".join(self._queue)),
            "streams": [stream.to_state() for stream in self.streams.values()],
        }

    def restore(self, state: State, unpacker: Unpacker) -> None:
        """The way back but for the streams; the socket was given to the constructor."""
        self.epoch, self.version = state["epoch"], state["version"]
        self.promise_seconds = state.get("promise_seconds")
        self.heard_at = state.get("heard_at", self.heard_at)
        self._next_handle = state["next_handle"]
        self._decoder.feed(unpacker.data(state["received"]))
        queue = unpacker.data(state["queue"])
        if queue:
            self.send(queue)
        if state["closing"]:
            self.finish()

    def next_handle(self) -> int:
        """A number for an instance attached on this connection."""
        self._next_handle += 1
        return self._next_handle

    def send(self, frame: bytes) -> None:
        """Queue a frame; all frames of this round leave together."""
        if not self.is_open:
            return
        self._queue.append(memoryview(frame))
        self._queued += len(frame)
        if self._queued > _LIMIT_BYTES:
            self._log.write("server_does_not_read", queued_bytes=self._queued)
            self.close()
        elif not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def send_json(self, message: dict[str, Any]) -> None:
        """Queue an answer or event."""
        self.send(wire.encode_json(message))

    def is_full(self) -> bool:
        """Is so much queued that streams are to wait?"""
        if self._queued < _FULL_BYTES:
            return False
        self._has_waiting_streams = True
        return True

    def drop_stream(self, handle: int) -> None:
        """Forget the stream. Unknown: no effect."""
        self.streams.pop(handle, None)

    def finish(self) -> None:
        """Send what is queued, then close."""
        self._is_closing = True
        self.streams.clear()
        if self._queue:
            # a server that is stopped and takes nothing is not waited for
            self._loop.call_later(_FINISH_SECONDS, self.close)
        else:
            self.close()

    def close(self) -> None:
        """Close now; again: no effect."""
        if self.is_open:
            self.is_open = False
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._queue.clear()
            self._on_closed(self)

    def _ready(self, mask: int) -> None:
        if mask & WRITE:
            self._flush()
        if mask & READ and self.is_open:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.heard_at = self._loop.now()
        try:
            for kind, payload in self._decoder.feed(data):
                if self.is_open and not self._is_closing:
                    self._on_frame(self, kind, payload)
        except wire.WireError as error:
            self._log.write("bad_frame", error=str(error))
            self.close()
        except Exception:
            # frames behind this one are lost with it: the server must attach anew
            self.close()
            raise

    def _flush(self) -> None:
        self._is_flush_due = False
        while self.is_open and self._queue:
            try:
                sent = self._socket.sendmsg([self._queue[i] for i in range(self._at_once())])
            except BlockingIOError:
                break
            except OSError:
                self.close()
                return
            self._consume(sent)
            if self._has_waiting_streams and self._queued <= _LOW_BYTES:
                self._has_waiting_streams = False
                self.pump_streams()
        if self.is_open:
            self._loop.watch(self._socket.fileno(), READ | WRITE if self._queue else READ, self._ready)
            if self._is_closing and not self._queue:
                self.close()

    def _at_once(self) -> int:
        return min(len(self._queue), _BUFFERS_AT_ONCE)

    def _consume(self, sent: int) -> None:
        self._queued -= sent
        while sent:
            first = self._queue[0]
            if sent < len(first):
                self._queue[0] = first[sent:]
                return
            sent -= len(first)
            self._queue.popleft()

    def pump_streams(self) -> None:
        """Let every stream send what it can, in turn."""
        for handle in list(self.streams):
            if self.is_full():
                return
            # to the back, so that a chatty instance cannot starve the others
            stream = self.streams.pop(handle)
            self.streams[handle] = stream
            stream.pump()
