"""A session's log on its own: a host's spools, a store, and one viewer that saw everything live."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, cast

from pool.errors import InstanceGone
from pool.model import BEGINNING, Cursor, InstanceId
from pool.protocol.frames import is_durable, is_published
from pool.protocol.framing import LineFramer
from pool.protocol.parsing import parse_line
from pool.runtime.envelope import Envelope
from pool.runtime.hub import Channel, Subscription
from pool.runtime.log import SessionLog
from pool.runtime.replay import Replay
from pool.store.base import Store
from tests.fakes.fake_store import FakeStore
from tests.pool.runtime.conftest import ALICE

MAX_LINE = 120


class Paper:
    """A viewer: keeps the frames, and can be full or closed by a frame."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.backlog_bytes = 0

    def deliver(self, frames: Sequence[bytes]) -> None:
        self.frames += [json.loads(frame) for frame in frames]

    @property
    def cursors(self) -> list[Cursor]:
        return [Cursor.parse(frame["cursor"]) for frame in self.frames if frame["type"] != "gap"]


class Tape:
    """What the runtime does with an instance's output, without the meanings of the frames."""

    def __init__(self, *, ring_bytes: int = 1, budget_bytes: int = 1 << 30, chunk_bytes: int = 64) -> None:
        self.store = FakeStore()
        self.spools: dict[InstanceId, bytearray] = {}
        self.trimmed: dict[InstanceId, int] = {}
        self.channel = Channel(head=BEGINNING, budget_bytes=budget_bytes, ring_bytes=ring_bytes)
        self.envelope = Envelope(ALICE.session_id)
        store = cast(Store, self.store)
        self.log = SessionLog(ALICE, store, self.channel, self.envelope, BEGINNING)
        self.replay = Replay(ALICE, store, self.envelope, self.read_spool, chunk_bytes, MAX_LINE)
        self.live = Paper()
        self.committed: list[tuple[InstanceId, int]] = []
        self.log.on_committed = lambda instance, offset: self.committed.append((instance, offset))
        self.follow(self.live, BEGINNING)
        self.ordinal = 0
        self.durable: set[Cursor] = set()
        self._framer = LineFramer(MAX_LINE)

    def follow(self, viewer: Paper, position: Cursor) -> Subscription:
        """A viewer from a place on."""
        subscription = Subscription(self.channel, self.replay, viewer, position)
        subscription.start()
        return subscription

    async def read_spool(self, instance_id: InstanceId, offset: int, limit: int) -> tuple[int, bytes]:
        await asyncio.sleep(0)
        if instance_id not in self.spools:
            raise InstanceGone("forgotten")
        start = max(offset, self.trimmed[instance_id])
        return start, bytes(self.spools[instance_id][start : start + limit])

    # --- what happens -----------------------------------------------------------------------

    @property
    def instance_id(self) -> InstanceId:
        return InstanceId(f"i{self.ordinal}")

    async def begin(self) -> None:
        """Another instance."""
        if self.ordinal:
            self._take(self._framer.feed_eof())
            if not self.spools.get(self.instance_id, b"x"):
                self.replay.silent.add(self.ordinal)
        await self.log.settled()
        self.ordinal += 1
        self.spools[self.instance_id] = bytearray()
        self.trimmed[self.instance_id] = 0
        self.replay.spools[self.ordinal] = self.instance_id
        self.log.begin_instance(self.instance_id, self.ordinal)
        self._framer = LineFramer(MAX_LINE)

    def output(self, data: bytes) -> None:
        """The instance prints."""
        if self.instance_id in self.spools:
            self.spools[self.instance_id] += data
            self._take(self._framer.feed(data))

    def _take(self, lines: Sequence[Any]) -> None:
        for line in lines:
            frame = parse_line(line)
            if is_published(frame):
                cursor = self.log.line(line.end_offset, line.data, durable=is_durable(frame))
                if is_durable(frame):
                    self.durable.add(cursor)
            else:
                self.log.skipped(line.end_offset)
        self.log.flush()

    def own(self) -> None:
        """The server adds an event."""
        self.durable.add(self.log.own({"type": "turn", "state": "running"}))

    def trim(self, ordinal: int, share: float) -> None:
        """The host drops the first part of a spool, to a line's end."""
        name = InstanceId(f"i{ordinal}")
        if name in self.spools:
            end = self.spools[name].rfind(b"\n", 0, int(len(self.spools[name]) * share)) + 1
            self.trimmed[name] = max(self.trimmed[name], end)

    def forget(self, ordinal: int) -> None:
        """The host forgets an instance that has ended."""
        if ordinal != self.ordinal:
            self.spools.pop(InstanceId(f"i{ordinal}"), None)
