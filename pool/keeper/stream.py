"""One attached instance on one connection: which bytes the server has been sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pool.keeper import wire
from pool.keeper.handover import State
from pool.keeper.spool import Spool

_CHUNK_BYTES = 256 * 1024


class Outlet(Protocol):
    """Where frames go: the connection."""

    def send(self, frame: bytes) -> None:
        """Queue a frame."""

    def is_full(self) -> bool:
        """Is so much queued that streams are to wait?"""

    def drop_stream(self, handle: int) -> None:
        """Forget the stream. Unknown: no effect."""


class Stream:
    """Sends an instance's output from an offset on, within the credit that the server grants.

    New output goes out from memory when the server has all before it, and
    from the spool else. The exit is told once, after all output.
    """

    def __init__(
        self,
        handle: int,
        instance_id: str,
        spool: Spool,
        outlet: Outlet,
        offset: int,
        window: int,
    ) -> None:
        self.handle = handle
        self.instance_id = instance_id
        self._spool = spool
        self._outlet = outlet
        self._sent = offset
        self._credit = window
        self._exit: Callable[[], bytes] | None = None
        self._has_ended = False

    def to_state(self) -> State:
        """What the server has, and whether it is still to be told of the exit."""
        return {
            "handle": self.handle,
            "instance": self.instance_id,
            "sent": self._sent,
            "credit": self._credit,
            "ended": self._has_ended,
            "exit_due": self._exit is not None,
        }

    @classmethod
    def from_state(
        cls, state: State, spool: Spool, outlet: Outlet, exit_frame: Callable[[], bytes]
    ) -> Stream:
        """The way back; ``pump`` is to follow once everything else is there."""
        stream = cls(state["handle"], state["instance"], spool, outlet, state["sent"], state["credit"])
        stream._has_ended = state["ended"]
        stream._exit = exit_frame if state["exit_due"] else None
        return stream

    def grant(self, count: int) -> None:
        """The server consumed ``count`` bytes."""
        self._credit += count
        self.pump()

    def live(self, offset: int, data: bytes) -> None:
        """``data`` was just stored at ``offset``."""
        if self._sent == offset and self._credit >= len(data) and not self._outlet.is_full():
            self._send(offset, data)
        else:
            self.pump()

    def exited(self, frame: Callable[[], bytes]) -> None:
        """The instance has exited; send ``frame()`` after the last output. Again: no effect."""
        if self._has_ended:
            return
        self._has_ended = True
        self._exit = frame
        self.pump()

    def drop(self) -> None:
        """The instance is forgotten, and with it what the connection knows of it: nothing more is sent."""
        self._outlet.drop_stream(self.handle)

    def pump(self) -> None:
        """Send from the spool while there is credit and room."""
        while self._credit > 0 and self._sent < self._spool.end and not self._outlet.is_full():
            offset, data = self._spool.read(self._sent, min(_CHUNK_BYTES, self._credit))
            if not data:
                return
            self._send(offset, data)
        if self._exit is not None and self._sent >= self._spool.end:
            frame, self._exit = self._exit, None
            self._outlet.send(frame())

    def _send(self, offset: int, data: bytes) -> None:
        self._outlet.send(wire.encode_output(self.handle, offset, data))
        self._sent = offset + len(data)
        self._credit -= len(data)
