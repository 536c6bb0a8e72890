"""A CLI's stdout on its way to the spool, and its stderr on its way to nowhere.

Bytes are in the spool before anybody sees them. What the disk does not take
stays in memory, the pipe is not read meanwhile, and the CLI waits: it would
lose frames without a word if it wrote to a full disk itself (measured).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import termios
from array import array
from collections.abc import Callable

from pool.keeper.handover import Packer, State, Unpacker
from pool.keeper.loop import READ, Loop, Timer
from pool.keeper.spool import Spool

CHUNK_BYTES = 256 * 1024
RETRY_SECONDS = 0.25
DRAIN_SECONDS = 1.0
STDERR_BYTES = 64 * 1024

# What writes to stderr without a pause is looked at this often, so that it cannot eat the loop; a
# pipe that much was found in is widened, so that one look takes more.
_PACE_SECONDS = 0.003
_MUCH_BYTES = 32 * 1024
_WIDE_PIPE_BYTES = 1024 * 1024
# one byte more than is shown tells that something was cut off
_KEPT_BYTES = STDERR_BYTES + 1
# of all instances: nothing in it outlives one look
_buffer = memoryview(bytearray(CHUNK_BYTES))


class OutputPipe:
    """Moves stdout into the spool.

    ``on_data(offset, data)`` after each store, ``on_end()`` once at the end.
    """

    def __init__(
        self,
        loop: Loop,
        fd: int,
        spool: Spool,
        spool_max_bytes: int,
        on_data: Callable[[int, bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._spool = spool
        self._max = spool_max_bytes
        self._on_data = on_data
        self._on_end = on_end
        self._unwritten = b""
        self._retry: Timer | None = None
        self._deadline: float | None = None
        self._ended = False
        self._committed = 0
        self._watch()

    @property
    def is_blocked_by_disk(self) -> bool:
        """Does the disk refuse what was read?"""
        return bool(self._unwritten)

    def commit(self, offset: int) -> None:
        """All before ``offset`` is stored elsewhere and does not count against the budget any more."""
        self._committed = max(self._committed, min(offset, self._spool.end))
        self._watch()

    def finish(self) -> None:
        """The writers are gone: read what is left, for at most a second after the disk takes it."""
        if self._deadline is None and not self._ended:
            self._deadline = self._loop.now() + DRAIN_SECONDS
            self._loop.call_later(DRAIN_SECONDS, self._drain_deadline)
            self._watch()

    def abandon(self) -> int:
        """Close without storing the rest; the number of bytes given up. ``on_end`` is called."""
        lost = len(self._unwritten)
        self._unwritten = b""
        self._end()
        return lost

    def to_state(self, packer: Packer) -> State:
        """The pipe, what the disk did not take, what was committed."""
        return {
            "fd": packer.descriptor(self._fd),
            "unwritten": packer.data(self._unwritten),
            "deadline": self._deadline,
            "ended": self._ended,
            "committed": self._committed,
        }

    def restore(self, state: State, unpacker: Unpacker) -> None:
        """The way back; ``fd`` was given to the constructor."""
        self._unwritten = unpacker.data(state["unwritten"])
        self._deadline = state["deadline"]
        self._ended = state["ended"]
        self._committed = state["committed"]
        if self._unwritten:
            self._retry = self._loop.call_later(RETRY_SECONDS, self._store)
        if self._deadline is not None and not self._ended:
            self._loop.call_at(self._deadline, self._drain_deadline)
        self._watch()

    def _watch(self) -> None:
        if self._fd < 0:
            return
        over_budget = self._spool.end - self._committed > self._max and self._deadline is None
        if self._unwritten or over_budget:
            self._loop.unwatch(self._fd)
        else:
            self._loop.watch(self._fd, READ, self._readable)

    def _readable(self, _mask: int) -> None:
        try:
            data = os.read(self._fd, CHUNK_BYTES)
        except BlockingIOError:
            return
        if data:
            self._unwritten = data
            self._store()
        else:
            self._end()

    def _store(self) -> None:
        self._retry = None
        offset = self._spool.end
        written = self._spool.append(self._unwritten)
        if written:
            chunk, self._unwritten = self._unwritten[:written], self._unwritten[written:]
            self._on_data(offset, chunk)
        if self._unwritten:
            self._retry = self._loop.call_later(RETRY_SECONDS, self._store)
        self._watch()

    def _drain_deadline(self) -> None:
        if self._ended:
            return
        if not self._unwritten:
            # somebody outside the tree holds the pipe open
            self._readable(READ)
        self._end_or_wait()

    def _end_or_wait(self) -> None:
        if self._unwritten:
            self._loop.call_later(DRAIN_SECONDS, self._drain_deadline)
        else:
            self._end()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._retry is not None:
            self._retry.cancel()
        self._loop.unwatch(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._on_end()


class StderrTail:
    """Drains stderr for ever and keeps its last 64 KiB.

    What cannot be among these goes from the pipe to nowhere inside the
    kernel: a flood costs the keeper next to nothing, whatever its speed.
    """

    def __init__(self, loop: Loop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._tail = bytearray()
        self._looked_at = 0.0
        self._is_wide = False
        self._resume()

    def text(self) -> str:
        """What was kept, as text; from a line's beginning when something was cut off."""
        kept = bytes(self._tail[-STDERR_BYTES:])
        if len(self._tail) > STDERR_BYTES:
            kept = kept[kept.find(b"\n") + 1 :]
        return kept.decode(errors="replace")

    def to_state(self, packer: Packer) -> State:
        """The pipe and what was kept."""
        return {"fd": packer.descriptor(self._fd), "tail": packer.data(self._tail)}

    def restore(self, state: State, unpacker: Unpacker) -> None:
        """The way back; ``fd`` was given to the constructor."""
        self._tail[:] = unpacker.data(state["tail"])

    def close(self) -> None:
        """Take what is in the pipe and close it."""
        if self._fd < 0:
            return
        for _ in range(64):
            if not self._take():
                break
        if self._fd >= 0:
            self._shut()

    def _readable(self, _mask: int) -> None:
        taken = self._take()
        if self._fd < 0:
            return
        if taken >= _MUCH_BYTES and not self._is_wide:
            self._is_wide = True
            with contextlib.suppress(OSError):  # the pipes of this user have as much as they may have
                fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, _WIDE_PIPE_BYTES)
        now = self._loop.now()
        if now - self._looked_at < _PACE_SECONDS:
            self._loop.unwatch(self._fd)
            self._loop.call_later(_PACE_SECONDS, self._resume)
        self._looked_at = now

    def _resume(self) -> None:
        if self._fd >= 0:
            self._loop.watch(self._fd, READ, self._readable)

    def _take(self) -> int:
        """One look: how many bytes left the pipe."""
        dropped = self._drop()
        try:
            count = os.readv(self._fd, [_buffer])
        except BlockingIOError:
            return dropped
        if not count:
            self._shut()
            return dropped
        self._tail += _buffer[:count]
        if len(self._tail) > 4 * STDERR_BYTES:
            del self._tail[:-_KEPT_BYTES]
        return dropped + count

    def _drop(self) -> int:
        """Let go of what has more behind it than is kept; how many bytes that were."""
        waiting = array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, waiting)
        surplus = waiting[0] - _KEPT_BYTES
        if surplus <= 0:
            return 0
        try:
            with open(os.devnull, "wb", buffering=0) as nowhere:
                dropped = os.splice(self._fd, nowhere.fileno(), surplus)
        except OSError:  # no descriptor is left, or this kernel cannot: it is read like the rest
            return 0
        if dropped:
            # what is still in the pipe is more than is kept
            self._tail.clear()
        return dropped

    def _shut(self) -> None:
        self._loop.unwatch(self._fd)
        os.close(self._fd)
        self._fd = -1
