"""The store in SQL: SQLite in the data directory, or PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa

from pool.clock import Clock, SystemClock
from pool.model import Cursor, SessionId, SessionKey, TurnId, UserId
from pool.store import queries
from pool.store.audit import AuditLog
from pool.store.base import (
    InstanceRecord,
    LogEntry,
    OpenWork,
    Operation,
    SessionRecord,
    Store,
    TurnRecord,
)
from pool.store.database import Database
from pool.store.fence import Fence
from pool.store.operations import perform
from pool.store.purge import prune
from pool.store.reading import instances_in, open_work, sessions_in, turns_in
from pool.store.tables import meta, placements
from pool.store.uids import give_uid


class SqlStore(Store):
    """Writes through one writer thread, reads through connections of their own.

    ``url`` None is SQLite in ``data_dir``; else ``sqlite+aiosqlite:///FILE``
    or ``postgresql+psycopg://…``. ``database`` may be shared with other parts
    that keep their rows beside the sessions (``pool.store.accounts``).
    Every method raises ``StoreUnavailable`` when the database does not work.
    """

    def __init__(
        self,
        url: str | None,
        data_dir: Path,
        *,
        busy_timeout_seconds: float = 5,
        patience_seconds: float = 15,
        clock: Clock | None = None,
        fence: Fence | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self.database = Database(
            url,
            data_dir,
            busy_timeout_seconds=busy_timeout_seconds,
            patience_seconds=patience_seconds,
            fence=fence,
        )

    async def open(self) -> None:
        """See ``Store.open``; raises ``StoreUnavailable`` for a schema of a newer version."""
        await self.database.open()

    async def aclose(self) -> None:
        """See ``Store.aclose``. Safe to call again, and after an ``open`` that failed."""
        await self.database.aclose()

    async def claim_epoch(self, at_least: int) -> int:
        """See ``Store.claim_epoch``."""
        return await self.database.submit(lambda connection: _raise_counter(connection, "epoch", at_least))

    async def commit(self, operations: Sequence[Operation]) -> None:
        """See ``Store.commit``; raises ``Conflict``, ``NotFound`` or ``BadRequest`` for what does not fit."""
        batch = tuple(operations)
        await self.database.submit(lambda connection: perform(connection, batch, self.database.audit))

    async def get_session(self, key: SessionKey) -> SessionRecord | None:
        """See ``Store.get_session``."""
        found = sessions_in(await self.database.fetch(queries.session(key)), self.on_spoilt)
        return next(found, None)

    async def list_sessions(
        self,
        user_id: UserId,
        *,
        search: str = "",
        include_archived: bool = False,
        limit: int = 100,
        after: SessionId | None = None,
    ) -> Sequence[SessionRecord]:
        """See ``Store.list_sessions``."""
        statement = queries.sessions_of(user_id, search, include_archived, limit, after)
        return list(sessions_in(await self.database.fetch(statement), self.on_spoilt))

    async def count_sessions(self, user_id: UserId) -> int:
        """See ``Store.count_sessions``."""
        return int(await self.database.fetch_value(queries.count_sessions(user_id)))

    async def open_work(self) -> Sequence[OpenWork]:
        """See ``Store.open_work``."""
        # By the writer: several statements that must see the same moment.
        work, spoilt = await self.database.submit(open_work)
        for row in spoilt:
            self.on_spoilt(row)
        return work

    async def exited_instances(self, key: SessionKey) -> Sequence[InstanceRecord]:
        """See ``Store.exited_instances``."""
        rows = await self.database.fetch(queries.exited_instances(key))
        return list(instances_in(rows, self.on_spoilt))

    async def find_turn(self, key: SessionKey, message_id: str) -> TurnRecord | None:
        """See ``Store.find_turn``."""
        rows = await self.database.fetch(queries.turn_of_message(key, message_id))
        return next(turns_in(rows, self.on_spoilt), None)

    async def message_ids(self, key: SessionKey) -> Sequence[str]:
        """See ``Store.message_ids``."""
        return [row["message_id"] for row in await self.database.fetch(queries.message_ids(key))]

    async def get_turn(self, key: SessionKey, turn_id: TurnId) -> TurnRecord | None:
        """See ``Store.get_turn``."""
        rows = await self.database.fetch(queries.turn(key, turn_id))
        return next(turns_in(rows, self.on_spoilt), None)

    async def next_turn_number(self, key: SessionKey) -> int:
        """See ``Store.next_turn_number``."""
        return int(await self.database.fetch_value(queries.next_turn_number(key)))

    async def read_events(
        self,
        key: SessionKey,
        *,
        after: Cursor | None = None,
        before: Cursor | None = None,
        limit: int = 500,
        newest_first: bool = False,
    ) -> Sequence[LogEntry]:
        """See ``Store.read_events``."""
        rows = await self.database.fetch(queries.events_between(key, after, before, limit, newest_first))
        return [LogEntry(Cursor(row["ordinal"], row["offset"], row["k"]), row["body"]) for row in rows]

    async def oldest_event(self, key: SessionKey) -> Cursor | None:
        """See ``Store.oldest_event``."""
        entries = await self.read_events(key, limit=1)
        return entries[0].cursor if entries else None

    async def uid_of(self, user_id: UserId, first: int, last: int, above: int = 0) -> int:
        """See ``Store.uid_of``."""
        now = self._clock.wall()
        return await self.database.submit(
            lambda connection: give_uid(connection, user_id, first, last, above, now)
        )

    async def placements(self) -> Mapping[UserId, str]:
        """See ``Store.placements``."""
        rows = await self.database.fetch(sa.select(placements.c.user_id, placements.c.host))
        return {UserId(row["user_id"]): row["host"] for row in rows}

    async def place(self, user_id: UserId, host: str) -> str:
        """See ``Store.place``."""
        now = self._clock.wall()
        return await self.database.submit(lambda connection: _place(connection, user_id, host, now))

    async def prune(
        self, before: float, turns_before: float | None = None, usage_before: float | None = None
    ) -> int:
        """See ``Store.prune``."""
        return await prune(self.database, before, turns_before, usage_before)

    async def resumable(self, user_id: UserId, since: float) -> set[str]:
        """See ``Store.resumable``."""
        rows = await self.database.fetch(queries.resumable(user_id, since))
        return {value for row in rows for value in row.values() if value is not None}

    async def prune_audit(self, before: float) -> int:
        """See ``Store.prune_audit``."""
        return await AuditLog(self.database).prune(before)

    async def check(self) -> None:
        """See ``Store.check``."""
        written = await self.database.submit(lambda connection: _raise_counter(connection, "checked", 0))
        found = await self.database.fetch_value(sa.select(meta.c.value).where(meta.c.key == "checked"))
        if int(found or 0) < written:
            raise AssertionError("a read does not see the commit before it")


def _place(connection: sa.Connection, user_id: UserId, host: str, now: float) -> str:
    held = connection.execute(sa.select(placements.c.host).where(placements.c.user_id == user_id)).scalar()
    if held is not None:
        return str(held)
    connection.execute(sa.insert(placements), {"user_id": user_id, "host": host, "placed_at": now})
    return host


def _raise_counter(connection: sa.Connection, name: str, at_least: int) -> int:
    held = connection.execute(sa.select(meta.c.value).where(meta.c.key == name)).scalar()
    value = max(int(held or 0) + 1, at_least)
    if held is None:
        connection.execute(sa.insert(meta), {"key": name, "value": str(value)})
    else:
        connection.execute(sa.update(meta).where(meta.c.key == name).values(value=str(value)))
    return value
