"""The session's log as it is written: numbered, committed, then published, in one order.

The CLI's frames may be published before they are committed: after a crash
they are read again from the spool and get the same cursors. What the server
adds is committed first, together with every durable frame before it and the
spool offset; frames behind it wait for that commit, so the order that viewers
see is the order of the cursors.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pool.errors import StoreUnavailable
from pool.model import Cursor, InstanceId, SessionKey
from pool.protocol.encoding import encode
from pool.runtime.backlog import Account, Backlog
from pool.runtime.committing import Committer
from pool.runtime.counting import UNSEEN
from pool.runtime.envelope import Envelope
from pool.runtime.hub import Channel, Item
from pool.runtime.merging import merged
from pool.store.base import (
    AppendEvents,
    LogEntry,
    Operation,
    PatchInstance,
    PatchSession,
    PutTurn,
    Store,
)

_log = logging.getLogger(__name__)
_COMMIT_AFTER_BYTES = 1 << 20
_SOON_SECONDS = 0.05
# how long the end waits for a database that takes nothing
_LAST_SECONDS = 5.0


@dataclass(slots=True)
class _Waiting:
    """A frame on its way to the viewers; ``gate`` is the commit that it waits for (0: none).

    ``size`` are the bytes that the account has for it.
    """

    item: Item
    gate: int
    before: Callable[[], None] | None = None
    size: int = 0


class SessionLog:
    """Numbers, commits and publishes the events of one session."""

    def __init__(
        self,
        key: SessionKey,
        store: Store,
        channel: Channel,
        envelope: Envelope,
        position: Cursor,
        backlog: Backlog | None = None,
    ) -> None:
        self.key = key
        self.position = position
        self.counters = UNSEEN
        self.on_committed: Callable[[InstanceId, int], None] = lambda _instance, _offset: None
        self.on_hold: Callable[[bool], None] = lambda _is_held: None
        self._account = Account(backlog or Backlog(1 << 62, 1 << 62), self)
        self._batch_bytes = 0
        self._committer = Committer(key, store)
        self._channel = channel
        self._envelope = envelope
        self._instance_id: InstanceId | None = None
        self._operations: list[Operation] = []
        self._entries: list[LogEntry] = []
        self._queue: deque[_Waiting] = deque()
        self._batch = 1
        self._done = 0
        self._committed_offset = position.offset
        self._stored_position = position
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_urgent = False
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._is_closed = False

    @property
    def is_settled(self) -> bool:
        """Is everything stored and published, with nothing under way?"""
        waits = self._operations or self._entries or self._queue or self._waiters
        under_way = self._task is not None or self._timer is not None
        return not waits and not under_way and self.position == self._stored_position

    @property
    def is_held(self) -> bool:
        """Must the instance wait, because too much waits to be stored?"""
        return self._account.is_held

    def hold(self, is_held: bool) -> None:
        """The backlog's word: too much waits, or no more."""
        self.on_hold(is_held)

    def begin_instance(self, instance_id: InstanceId, ordinal: int, offset: int = 0) -> None:
        """Frames from here on come from this instance, its output beginning (again) at ``offset``."""
        self._instance_id = instance_id
        self._committed_offset = offset
        self.position = max(self.position, Cursor(ordinal, offset, 0))

    def line(self, end_offset: int, raw: bytes, *, durable: bool) -> Cursor:
        """Publish one line of the CLI, at once unless something before it waits for a commit."""
        cursor = self.position = Cursor(self.position.ordinal, end_offset, 0)
        if durable:
            self._entries.append(LogEntry(cursor, raw))
            self._account_for(len(raw))
        size = len(raw) if self._queue else 0  # else it is published at once
        if size:
            self._account.add(size)
        self._queue.append(_Waiting((cursor, self._envelope.event(cursor, raw)), 0, size=size))
        return cursor

    def skipped(self, end_offset: int) -> None:
        """A line that is not published: only the offset moves."""
        self.position = Cursor(self.position.ordinal, end_offset, 0)

    def own(
        self,
        body: Mapping[str, Any],
        operations: Sequence[Operation] = (),
        *,
        before: Callable[[], None] | None = None,
    ) -> Cursor:
        """Add an event of the server's, committed with ``operations`` and then published.

        ``before`` is called synchronously just before viewers get the frame.
        """
        at = self.position
        cursor = self.position = Cursor(at.ordinal, at.offset, at.k + 1)
        encoded = encode(body)
        self._entries.append(LogEntry(cursor, encoded))
        self._operations.extend(operations)
        lines = sum(len(item.record.line or b"") for item in operations if isinstance(item, PutTurn))
        self._account_for(len(encoded) + lines)
        self._queue.append(_Waiting((cursor, self._envelope.own(cursor, encoded)), self._batch, before))
        self._kick()
        return cursor

    def change(self, *operations: Operation) -> None:
        """Store something that no viewer is told; soon, or with the next event of ours."""
        self._operations.extend(operations)
        self._soon()

    def flush(self) -> None:
        """Publish what need not wait; called after each piece of output that was read."""
        items: list[Item] = []
        published = 0
        while self._queue and self._queue[0].gate <= self._done:
            waiting = self._queue.popleft()
            if waiting.before is not None:
                self._publish(items)
                items = []
                self._announce(waiting.before)
            items.append(waiting.item)
            published += waiting.size
        self._publish(items)
        if published:
            self._account.add(-published)
        if self._offset_lags():
            self._kick()
        elif self._entries:
            self._soon()

    async def settled(self) -> None:
        """Wait until everything that was added so far is committed and published.

        Raises ``StoreUnavailable`` for what came after ``aclose``.
        """
        is_pending = bool(self._operations or self._entries)
        batch = self._batch if is_pending else self._batch - 1
        if batch <= self._done:
            return
        if self._is_closed:
            raise StoreUnavailable("the server stops; nothing more is stored")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((batch, waiter))
        if is_pending:
            self._kick()
        await waiter

    def close_settled(self) -> None:
        """The session leaves memory; nothing waits. What comes all the same is refused, not lost silently."""
        self._is_closed = True

    async def aclose(self) -> None:
        """Commit what is left, bounded in time, and end."""
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                await self.settled()
        except TimeoutError:
            _log.error("the last events of session %s could not be committed in time", self.key)
        self._is_closed = True
        self._account.add(-self._account.bytes)
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    @staticmethod
    def _announce(before: Callable[[], None]) -> None:
        try:
            before()
        except Exception:  # noqa: BLE001 - the caller's own failure; the event is stored and goes on
            _log.exception("whoever waited for an event failed")

    def _publish(self, items: list[Item]) -> None:
        if items:
            self._channel.publish(items)

    def _soon(self) -> None:
        """What a crash would only make us read again need not be committed at once: a turn has dozens."""
        if self._timer is None and self._task is None and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_later(_SOON_SECONDS, self._kick)

    def _kick(self) -> None:
        self._is_urgent = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is None and not self._is_closed:
            self._task = asyncio.create_task(self._commit_all(), name=f"session-log:{self.key}")

    async def _commit_all(self) -> None:
        try:
            while self._is_urgent or self._offset_lags():
                self._is_urgent = False
                operations, instance_id, offset, size = self._take()
                position = self.position
                with self.counters.commit.timed():
                    await self._committer.commit(operations, self.counters)
                self._done += 1
                self._stored_position = position
                if instance_id is not None and instance_id == self._instance_id:
                    self._committed_offset = offset
                    self.on_committed(instance_id, offset)
                self.flush()
                self._account.add(-size)
                self._wake_waiters()
        finally:
            self._task = None
        if self._operations or self._entries:
            self._soon()

    def _offset_lags(self) -> bool:
        return self.position.offset - self._committed_offset > _COMMIT_AFTER_BYTES

    def _account_for(self, size: int) -> None:
        self._batch_bytes += size
        self._account.add(size)

    def _take(self) -> tuple[list[Operation], InstanceId | None, int, int]:
        operations = self._operations
        if self._entries:
            own = sum(entry.cursor.k > 0 for entry in self._entries)
            self.counters.events.add("own", by=own)
            self.counters.events.add("frame", by=len(self._entries) - own)
            operations.append(AppendEvents(self.key, self._entries))
        if self._instance_id is not None:
            operations.append(PatchInstance(self._instance_id, {"offset": self.position.offset}))
        operations.append(PatchSession(self.key, {"position": self.position}))
        self._operations, self._entries = [], []
        self._batch += 1
        size, self._batch_bytes = self._batch_bytes, 0
        return merged(operations), self._instance_id, self.position.offset, size

    def _wake_waiters(self) -> None:
        ready = [waiter for batch, waiter in self._waiters if batch <= self._done]
        self._waiters = [(batch, waiter) for batch, waiter in self._waiters if batch > self._done]
        for waiter in ready:
            if not waiter.done():
                waiter.set_result(None)
