"""Reading a session's log back: the CLI's lines from the spool, the server's events from the store.

While an instance's spool is kept, its lines are read there, token deltas
included. Where it is gone, what is durable comes from the store, and the
reader tells of the gap once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from pool.errors import InstanceGone, KeeperUnavailable
from pool.model import BEGINNING, Cursor, InstanceId, SessionKey
from pool.protocol.frames import is_published
from pool.protocol.framing import DEFAULT_MAX_LINE_BYTES, Line, LineFramer
from pool.protocol.parsing import parse_line
from pool.runtime.envelope import Envelope
from pool.store.base import LogEntry, Store

ReadSpool = Callable[[InstanceId, int, int], Awaitable[tuple[int, bytes]]]

_CHUNK_BYTES = 1 << 18
_ROWS = 200
_MAX_K = 999_999_998
_MAX_OFFSET = 10**18 - 1


@dataclass(frozen=True, slots=True)
class LogPage:
    """Frames after a position. ``gap`` names a range in which token deltas may be missing."""

    frames: Sequence[bytes]
    position: Cursor
    gap: tuple[Cursor, Cursor] | None = None


class Replay:
    """Pages of one session's log.

    ``spools`` maps ordinals to instances whose spool is kept; those in
    ``silent`` ended without a word, so that nothing of them can be missing.
    What the live reader dropped (a line above ``max_line_bytes``) is not shown here either.
    """

    def __init__(
        self,
        key: SessionKey,
        store: Store,
        envelope: Envelope,
        read_spool: ReadSpool,
        until_bytes: int,
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
    ) -> None:
        self.spools: dict[int, InstanceId] = {}
        self.silent: set[int] = set()
        self._key = key
        self._store = store
        self._envelope = envelope
        self._read_spool = read_spool
        self._chunk_bytes = max(1, min(_CHUNK_BYTES, until_bytes))
        self._max_line_bytes = max_line_bytes

    def gap_frame(self, gap: tuple[Cursor, Cursor]) -> bytes:
        """The ``gap`` frame of CONTRACT section 6."""
        return self._envelope.bare({"type": "gap", "from": str(gap[0]), "to": str(gap[1])})

    async def page(self, position: Cursor, until: Cursor) -> LogPage:
        """The next frames after ``position``, none beyond ``until``. Always moves on."""
        instance_id = self.spools.get(position.ordinal)
        if instance_id is not None:
            try:
                return await self._from_spool(instance_id, position, until)
            except InstanceGone:
                self.spools.pop(position.ordinal, None)
            except KeeperUnavailable:
                pass  # what is durable can be had all the same
        spooled = [ordinal for ordinal in self.spools if ordinal > position.ordinal]
        end = min([until, *(Cursor(ordinal, 0, 0) for ordinal in spooled)])
        passed = range(max(1, position.ordinal), end.ordinal + (end.offset > 0))
        had_deltas = any(ordinal not in self.silent for ordinal in passed)
        return await self._from_store(position, end, until, had_deltas=had_deltas)

    async def is_known(self, cursor: Cursor, head: Cursor) -> bool:
        """Is ``cursor`` a place that this log has, or had before it was pruned?"""
        if cursor == BEGINNING:
            return True
        if cursor > head:
            return False
        instance_id = self.spools.get(cursor.ordinal)
        if instance_id is None or cursor.offset == 0:
            return True
        try:
            start, data = await self._read_spool(instance_id, cursor.offset - 1, 2)
        except (InstanceGone, KeeperUnavailable):
            return True
        return start >= cursor.offset or data[:1] == b"\n" or len(data) == 1

    async def _from_store(self, position: Cursor, end: Cursor, until: Cursor, *, had_deltas: bool) -> LogPage:
        before = Cursor(end.ordinal, end.offset, end.k + 1)
        rows = await self._store.read_events(self._key, after=position, before=before, limit=_ROWS)
        frames = [self._envelope.entry(row) for row in rows]
        reached = rows[-1].cursor if len(rows) == _ROWS else end
        gap = (position, end) if had_deltas and position < until else None
        return LogPage(frames, reached, gap)

    async def _from_spool(self, instance_id: InstanceId, position: Cursor, until: Cursor) -> LogPage:
        framer = LineFramer(self._max_line_bytes, position.offset)
        lines: list[Line] = []
        while framer.line_offset == position.offset:
            start, data = await self._read_spool(instance_id, framer.fed_offset, self._chunk_bytes)
            if start > framer.fed_offset:
                end = min(until, Cursor(position.ordinal, start, 0))
                return await self._from_store(position, end, until, had_deltas=True)
            if not data:
                return await self._after_last_line(position, until, framer.feed_eof())
            lines += framer.feed(data)
        reached = min(until, Cursor(position.ordinal, framer.line_offset, 0))
        return LogPage(await self._frames(position, reached, lines), reached)

    async def _after_last_line(self, position: Cursor, until: Cursor, rest: Sequence[Line]) -> LogPage:
        """``rest`` has no newline: it was published if the output had ended by then."""
        is_last = until.ordinal == position.ordinal
        end = until if is_last else Cursor(position.ordinal, _MAX_OFFSET, _MAX_K)
        reached = until if is_last else Cursor(position.ordinal + 1, 0, 0)
        return LogPage(await self._frames(position, end, rest), reached)

    async def _frames(self, position: Cursor, reached: Cursor, lines: Sequence[Line]) -> list[bytes]:
        """The CLI's lines and the server's events up to ``reached``, in one order."""
        items = await self._own_events(position, reached)
        for line in lines:
            cursor = Cursor(position.ordinal, line.end_offset, 0)
            if cursor <= reached and is_published(parse_line(line)):
                items.append((cursor, self._envelope.event(cursor, line.data)))
        return [frame for _cursor, frame in sorted(items, key=lambda item: item[0])]

    async def _own_events(self, position: Cursor, reached: Cursor) -> list[tuple[Cursor, bytes]]:
        """The server's events after ``position``, up to those at the offset of ``reached``."""
        own: list[tuple[Cursor, bytes]] = []
        before = Cursor(reached.ordinal, reached.offset, reached.k + 1)
        after = position
        while True:
            rows: Sequence[LogEntry] = await self._store.read_events(
                self._key, after=after, before=before, limit=_ROWS
            )
            own += [(row.cursor, self._envelope.entry(row)) for row in rows if row.cursor.k > 0]
            if len(rows) < _ROWS:
                return own
            after = rows[-1].cursor
