"""Reading a session's log back: the CLI's lines from the spool, the server's events from the store.

While an instance's spool is kept, its lines are read there, token deltas
included. Where it is gone, what is durable comes from the store, and the
reader tells of the gap once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from pool.errors import InstanceGone
from pool.model import BEGINNING, Cursor, InstanceId, SessionKey
from pool.protocol.frames import is_published
from pool.protocol.parsing import parse_frame
from pool.runtime.envelope import Envelope
from pool.store.base import LogEntry, Store

ReadSpool = Callable[[InstanceId, int, int], Awaitable[tuple[int, bytes]]]

_CHUNK_BYTES = 1 << 18
_LARGEST_CHUNK_BYTES = 1 << 27
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
    """Pages of one session's log; ``spools`` maps ordinals to instances whose spool is kept."""

    def __init__(
        self, key: SessionKey, store: Store, envelope: Envelope, read_spool: ReadSpool, until_bytes: int
    ) -> None:
        self.spools: dict[int, InstanceId] = {}
        self._key = key
        self._store = store
        self._envelope = envelope
        self._read_spool = read_spool
        self._chunk_bytes = min(_CHUNK_BYTES, until_bytes)

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
        spooled = [ordinal for ordinal in self.spools if ordinal > position.ordinal]
        end = min([until, *(Cursor(ordinal, 0, 0) for ordinal in spooled)])
        had_deltas = position.ordinal > 0 or end.ordinal > 1
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
            start, data = await self._read_spool(instance_id, cursor.offset - 1, 1)
        except InstanceGone:
            return True
        return start >= cursor.offset or data == b"\n"

    async def _from_store(self, position: Cursor, end: Cursor, until: Cursor, *, had_deltas: bool) -> LogPage:
        before = Cursor(end.ordinal, end.offset, end.k + 1)
        rows = await self._store.read_events(self._key, after=position, before=before, limit=_ROWS)
        frames = [self._envelope.entry(row) for row in rows]
        reached = rows[-1].cursor if len(rows) == _ROWS else end
        gap = (position, end) if had_deltas and position < until else None
        return LogPage(frames, reached, gap)

    async def _from_spool(self, instance_id: InstanceId, position: Cursor, until: Cursor) -> LogPage:
        start, data = await self._read_spool(instance_id, position.offset, self._chunk_bytes)
        if start > position.offset:
            end = min(until, Cursor(position.ordinal, start, 0))
            return await self._from_store(position, end, until, had_deltas=True)
        limit = self._chunk_bytes
        while data and b"\n" not in data and limit < _LARGEST_CHUNK_BYTES:
            limit *= 8
            start, data = await self._read_spool(instance_id, position.offset, limit)
        whole = data[: data.rfind(b"\n") + 1]
        if not whole:
            return await self._after_last_line(position, until)
        lines = [item for item in self._lines(position, whole) if item[0] <= until]
        reached = min(until, Cursor(position.ordinal, position.offset + len(whole), 0))
        own = await self._own_events(position, reached)
        frames = [frame for _cursor, frame in sorted([*lines, *own], key=lambda item: item[0])]
        return LogPage(frames, reached)

    async def _after_last_line(self, position: Cursor, until: Cursor) -> LogPage:
        last = until.ordinal == position.ordinal
        end = until if last else Cursor(position.ordinal, _MAX_OFFSET, _MAX_K)
        # A last line without its newline is in the store only, hence every row and not just our own.
        own = await self._own_events(position, end, smallest_k=0)
        reached = until if last else Cursor(position.ordinal + 1, 0, 0)
        return LogPage([frame for _cursor, frame in own], reached)

    async def _own_events(
        self, position: Cursor, reached: Cursor, smallest_k: int = 1
    ) -> list[tuple[Cursor, bytes]]:
        """The server's events after ``position``, up to those at the offset of ``reached``."""
        own: list[tuple[Cursor, bytes]] = []
        before = Cursor(reached.ordinal, reached.offset, reached.k + 1)
        after = position
        while True:
            rows: Sequence[LogEntry] = await self._store.read_events(
                self._key, after=after, before=before, limit=_ROWS
            )
            own += [(row.cursor, self._envelope.entry(row)) for row in rows if row.cursor.k >= smallest_k]
            if len(rows) < _ROWS:
                return own
            after = rows[-1].cursor

    def _lines(self, position: Cursor, data: bytes) -> list[tuple[Cursor, bytes]]:
        items = []
        offset = position.offset
        for line in data.split(b"\n")[:-1]:
            offset += len(line) + 1
            if line and is_published(parse_frame(line)):
                cursor = Cursor(position.ordinal, offset, 0)
                items.append((cursor, self._envelope.event(cursor, line)))
        return items
