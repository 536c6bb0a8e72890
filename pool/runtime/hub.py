"""Fan-out of one session to its viewers: each gets every frame, none can hold up another.

A viewer has a byte budget. While its backlog is above it, nothing is pushed;
when it has drained, it catches up from the ring (the newest frames, in
memory) or from the log, and is live again in the same step of the event loop
in which the last frame was handed over, so that nothing falls between.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from pool.errors import PoolError, StoreUnavailable
from pool.model import BEGINNING, Cursor
from pool.runtime.counting import UNSEEN

_log = logging.getLogger(__name__)
_RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
RING_BYTES = 1 << 20
RESTING_RING_BYTES = 64 << 10
# What a frame in the ring takes beside its own bytes: the objects around it (measured, CPython 3.11).
ITEM_BYTES = 170

Item = tuple[Cursor, bytes]
# A cursor's ordinal, offset and k, and the frame. Tuples of plain values are no work for the garbage
# collector (CPython untracks them), and the rings hold most of what lives long in a server.
_Kept = tuple[int, int, int, bytes]


class Viewer(Protocol):
    """Whoever shows a session's frames: a WebSocket, an SSE response, a Python caller."""

    def deliver(self, frames: Sequence[bytes]) -> None:
        """Take whole wire frames (UTF-8 JSON), in order. Must not block or raise."""

    @property
    def backlog_bytes(self) -> int:
        """Bytes taken but not yet handed to the kernel."""


class Page(Protocol):
    """A part of the log, read back."""

    @property
    def frames(self) -> Sequence[bytes]:
        """Wire frames, in order."""

    @property
    def position(self) -> Cursor:
        """The place after the last of them."""

    @property
    def gap(self) -> tuple[Cursor, Cursor] | None:
        """A range in which token deltas may be missing."""


class Source(Protocol):
    """Where a viewer that is behind the ring reads on."""

    async def page(self, position: Cursor, until: Cursor) -> Page:
        """The next frames after ``position``, up to and with ``until``."""

    def gap_frame(self, gap: tuple[Cursor, Cursor]) -> bytes:
        """The wire frame that tells of frames which cannot be had any more."""


class Channel:
    """The published frames of one session and who follows them.

    ``ring_bytes``: how much memory the newest of them may take.
    """

    def __init__(self, *, head: Cursor, budget_bytes: int, ring_bytes: int = RING_BYTES) -> None:
        self.head = head
        self.floor = head
        self.budget_bytes = budget_bytes
        self.subscriptions: set[Subscription] = set()
        self.counters = UNSEEN
        self._ring: deque[_Kept] = deque()
        self._ring_size = 0
        self._ring_bytes = ring_bytes

    def publish(self, items: Sequence[Item]) -> None:
        """Append to the ring and push to every live viewer; ``items`` in cursor order."""
        for cursor, frame in items:
            self._ring.append((cursor.ordinal, cursor.offset, cursor.k, frame))
            self._ring_size += len(frame) + ITEM_BYTES
        self._keep(self._ring_bytes)
        self.head = items[-1][0]
        for subscription in tuple(self.subscriptions):
            subscription.push(items)

    def rest(self) -> None:
        """Nothing has happened for a while: keep few frames in memory; who wants older ones reads the log."""
        self._keep(RESTING_RING_BYTES)

    def _keep(self, most_bytes: int) -> None:
        dropped = 0
        while self._ring_size > most_bytes and len(self._ring) > 1:
            ordinal, offset, k, frame = self._ring.popleft()
            self._ring_size -= len(frame) + ITEM_BYTES
            self.floor = Cursor(ordinal, offset, k)
            dropped += 1
        if dropped:
            self.counters.ring_dropped.add(by=dropped)

    def since(self, position: Cursor) -> list[Item] | None:
        """The frames after ``position``, or None when the ring does not reach back so far."""
        if position < self.floor:
            return None
        place = (position.ordinal, position.offset, position.k)
        newer = list(itertools.takewhile(lambda kept: kept[:3] > place, reversed(self._ring)))
        return [(Cursor(ordinal, offset, k), frame) for ordinal, offset, k, frame in reversed(newer)]


class Pace(Enum):
    """How a subscription stands to the newest frame."""

    CATCHING_UP = "catching_up"
    LIVE = "live"
    LAGGING = "lagging"
    CLOSED = "closed"


class Subscription:
    """One viewer's way through one session's log. ``position`` is the last cursor handed over."""

    def __init__(self, channel: Channel, source: Source, viewer: Viewer, position: Cursor) -> None:
        self.position = position
        self.pace = Pace.LAGGING
        self._channel = channel
        self._source = source
        self._viewer = viewer
        self._told_gap_to = BEGINNING
        self._task: asyncio.Task[None] | None = None
        channel.subscriptions.add(self)

    def push(self, items: Sequence[Item]) -> None:
        """Hand over ``items`` if live; fall behind when the viewer's budget is spent."""
        if self.pace is Pace.LIVE:
            self._go_on(items)

    def drained(self) -> None:
        """The viewer has room again: catch up. Call it when the backlog fell below half the budget."""
        if self.pace is Pace.LAGGING and self._task is None:
            self._start()

    def start(self) -> None:
        """Begin: everything after ``position``, then live."""
        self._start()

    def close(self) -> None:
        """Stop following. Nothing is delivered from here on."""
        self.pace = Pace.CLOSED
        self._channel.subscriptions.discard(self)
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        items = self._channel.since(self.position)
        if items is not None:
            self._go_on(items)
            return
        self.pace = Pace.CATCHING_UP
        self._task = asyncio.create_task(self._catch_up(), name="viewer-catch-up")

    def _go_on(self, items: Sequence[Item]) -> None:
        took_all = self._hand_over(items)
        if not self._is_closed():  # a viewer may close while it takes frames
            self.pace = Pace.LIVE if took_all else self._falls_behind()

    def _hand_over(self, items: Sequence[Item]) -> bool:
        """Deliver as much as the budget lets; True when all of it went."""
        room = self._channel.budget_bytes - self._viewer.backlog_bytes
        batch: list[bytes] = []
        for cursor, frame in items:
            if room <= 0:
                break
            batch.append(frame)
            room -= len(frame)
            self.position = cursor
        if batch:
            self._deliver(batch)
        return len(batch) == len(items)

    def _deliver(self, frames: Sequence[bytes]) -> None:
        try:
            self._viewer.deliver(frames)
        except Exception:  # noqa: BLE001 - whoever fails to look on must not stop the session
            _log.exception("a viewer failed to take frames and is dropped")
            self.close()

    async def _catch_up(self) -> None:
        try:
            await self._read_on_however_long()
        except PoolError:
            _log.exception("a viewer could not read the log; it will get a gap")
            self._skip_to_ring()
        finally:
            self._task = None

    async def _read_on_however_long(self) -> None:
        """A store that cannot be read now loses nobody an event: it is asked again."""
        for attempt in itertools.count():
            try:
                await self._read_on()
                return
            except StoreUnavailable as error:
                _log.warning("a viewer waits for the log: %s", error.message)
                await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])

    async def _read_on(self) -> None:
        while not self._is_closed():
            if self._viewer.backlog_bytes > self._channel.budget_bytes:
                self.pace = self._falls_behind()
                return
            items = self._channel.since(self.position)
            if items is not None:
                self._go_on(items)
                return
            page = await self._source.page(self.position, self._channel.head)
            if self._is_closed():
                return
            if page.gap is not None and page.gap[1] > self._told_gap_to:
                gap = (max(page.gap[0], self._told_gap_to), page.gap[1])
                self._told_gap_to = page.gap[1]
                self._tell_gap(gap)
            if page.frames and not self._is_closed():
                self._deliver(page.frames)
            self.position = max(page.position, self.position)

    def _falls_behind(self) -> Pace:
        self._channel.counters.viewer_lagging.add()
        return Pace.LAGGING

    def _tell_gap(self, gap: tuple[Cursor, Cursor]) -> None:
        self._channel.counters.gaps.add()
        self._deliver([self._source.gap_frame(gap)])

    def _is_closed(self) -> bool:
        return self.pace is Pace.CLOSED

    def _skip_to_ring(self) -> None:
        if self.pace is Pace.CLOSED:
            return
        self._tell_gap((self.position, self._channel.floor))
        self.position = self._channel.floor
        if not self._is_closed():
            self._start()
