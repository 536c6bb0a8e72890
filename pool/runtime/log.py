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

from pool.errors import PoolError, Refused, StoreUnavailable
from pool.model import Cursor, InstanceId, SessionKey
from pool.protocol.encoding import encode
from pool.runtime.counting import UNSEEN
from pool.runtime.envelope import Envelope
from pool.runtime.hub import Channel, Item
from pool.runtime.merging import merged
from pool.store.base import AppendEvents, LogEntry, Operation, PatchInstance, PatchSession, Store

_log = logging.getLogger(__name__)
_COMMIT_AFTER_BYTES = 1 << 20
_SOON_SECONDS = 0.05
_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(slots=True)
class _Waiting:
    """A frame on its way to the viewers; ``gate`` is the commit that it waits for (0: none)."""

    item: Item
    gate: int
    before: Callable[[], None] | None = None


class SessionLog:
    """Numbers, commits and publishes the events of one session."""

    def __init__(
        self, key: SessionKey, store: Store, channel: Channel, envelope: Envelope, position: Cursor
    ) -> None:
        self.key = key
        self.position = position
        self.counters = UNSEEN
        self.on_committed: Callable[[InstanceId, int], None] = lambda _instance, _offset: None
        self._store = store
        self._channel = channel
        self._envelope = envelope
        self._instance_id: InstanceId | None = None
        self._operations: list[Operation] = []
        self._entries: list[LogEntry] = []
        self._queue: deque[_Waiting] = deque()
        self._batch = 1
        self._done = 0
        self._committed_offset = position.offset
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_urgent = False
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._is_closed = False

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
        self._queue.append(_Waiting((cursor, self._envelope.event(cursor, raw)), 0))
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
        while self._queue and self._queue[0].gate <= self._done:
            waiting = self._queue.popleft()
            if waiting.before is not None:
                self._publish(items)
                items = []
                self._announce(waiting.before)
            items.append(waiting.item)
        self._publish(items)
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

    async def aclose(self) -> None:
        """Commit what is left, bounded in time, and end."""
        try:
            async with asyncio.timeout(5):
                await self.settled()
        except TimeoutError:
            _log.error("the last events of session %s could not be committed in time", self.key)
        self._is_closed = True
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
                operations, instance_id, offset = self._take()
                with self.counters.commit.timed():
                    await self._commit(operations)
                self._done += 1
                if instance_id is not None and instance_id == self._instance_id:
                    self._committed_offset = offset
                    self.on_committed(instance_id, offset)
                self.flush()
                self._wake_waiters()
        finally:
            self._task = None
        if self._operations or self._entries:
            self._soon()

    def _offset_lags(self) -> bool:
        return self.position.offset - self._committed_offset > _COMMIT_AFTER_BYTES

    def _take(self) -> tuple[list[Operation], InstanceId | None, int]:
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
        return merged(operations), self._instance_id, self.position.offset

    async def _commit(self, operations: list[Operation]) -> None:
        for attempt in range(1_000_000):
            try:
                await self._store.commit(operations)
            except Refused:
                _log.exception("operations of session %s contradict the store; storing one by one", self.key)
                await self._commit_singly(operations)
                return
            except PoolError as error:
                self.counters.commits.add("failed")
                _log.warning("session %s: commit failed, trying again: %s", self.key, error.message)
                await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
            else:
                self.counters.commits.add("stored")
                return

    async def _commit_singly(self, operations: list[Operation]) -> None:
        for operation in operations:
            try:
                await self._commit_one(operation)
            except PoolError as error:
                _log.error("session %s: %s was not stored: %s", self.key, type(operation).__name__, error)

    async def _commit_one(self, operation: Operation) -> None:
        for attempt in range(1_000_000):
            try:
                await self._store.commit([operation])
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
            else:
                return

    def _wake_waiters(self) -> None:
        ready = [waiter for batch, waiter in self._waiters if batch <= self._done]
        self._waiters = [(batch, waiter) for batch, waiter in self._waiters if batch > self._done]
        for waiter in ready:
            if not waiter.done():
                waiter.set_result(None)
