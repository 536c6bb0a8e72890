"""The part of a store that a session's log needs, in memory: it can fail, and it can stand still."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pool.errors import StoreUnavailable
from pool.model import Cursor, SessionKey
from pool.store.base import AppendEvents, LogEntry, Operation


class FakeStore:
    """``commit`` and ``read_events`` of ``pool.store.base.Store``; every commit is kept."""

    def __init__(self) -> None:
        self.commits: list[list[Operation]] = []
        self.events: dict[Cursor, bytes] = {}
        self.failures: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def fail(self, times: int) -> None:
        """The next commits are refused."""
        self.failures += [StoreUnavailable("locked") for _ in range(times)]

    async def commit(self, operations: Sequence[Operation]) -> None:
        await asyncio.sleep(0)
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.commits.append(list(operations))
        for operation in operations:
            if isinstance(operation, AppendEvents):
                for entry in operation.entries:
                    self.events.setdefault(entry.cursor, entry.body)

    async def read_events(
        self,
        key: SessionKey,
        *,
        after: Cursor | None = None,
        before: Cursor | None = None,
        limit: int = 500,
        newest_first: bool = False,
    ) -> Sequence[LogEntry]:
        await asyncio.sleep(0)
        chosen = [
            LogEntry(cursor, body)
            for cursor, body in sorted(self.events.items())
            if (after is None or cursor > after) and (before is None or cursor < before)
        ]
        return chosen[:limit]
