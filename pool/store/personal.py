"""Everything that the database has of one user, as JSON lines in parts of bounded size; no secret."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import sqlalchemy as sa

from pool.errors import NotFound
from pool.model import Cursor, SessionId, SessionKey, UserId
from pool.store import queries
from pool.store.database import Database
from pool.store.tables import audit, permissions, placements, sessions, state, tokens, turns, usage, users

_PART_BYTES = 1 << 20
_ROWS = 500
_EVENTS = 50

Part = tuple[str, bytes]


class PersonalData:
    """Reads only. Every method raises ``StoreUnavailable`` when the database does not work."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def parts(self, user_id: str) -> AsyncGenerator[Part]:
        """Files of the export, (name, content). Raises ``NotFound`` for a user without an account."""
        account = await self._database.fetch_one(sa.select(users).where(users.c.user_id == user_id))
        if account is None:
            raise NotFound(f"there is no user {user_id}")
        shown = {name: account[name] for name in ("user_id", "roles", "disabled", "created_at")}
        yield "account.json", _line({**shown, "has_password": account["password_hash"] is not None})
        own = sessions.c.user_id == user_id
        plain: list[tuple[str, sa.Table, sa.Column[Any], sa.ColumnElement[bool]]] = [
            ("sessions", sessions, sessions.c.id, own),
            ("tokens", tokens, tokens.c.jti, tokens.c.user_id == user_id),
            ("placements", placements, placements.c.user_id, placements.c.user_id == user_id),
            ("state", state, state.c.key, state.c.user_id == user_id),
            ("usage", usage, usage.c.id, usage.c.user_id == user_id),
            # Of an earlier user of the same name nothing is told.
            ("audit", audit, audit.c.seq, _about(user_id, account["created_at"])),
        ]
        for name, table, key, condition in plain:
            async for part in self._rows(name, table, key, condition):
                yield part
        async for part in self._conversations(user_id):
            yield part

    async def home_of(self, user_id: str) -> str | None:
        """On which host the user lives, None if that was not decided."""
        statement = sa.select(placements.c.host).where(placements.c.user_id == user_id)
        rows = await self._database.fetch(statement)
        return str(rows[0]["host"]) if rows else None

    async def _conversations(self, user_id: str) -> AsyncGenerator[Part]:
        last = 0
        while True:
            row = await self._database.fetch_one(
                sa.select(sessions.c.id, sessions.c.session_id)
                .where(sessions.c.user_id == user_id, sessions.c.id > last)
                .order_by(sessions.c.id)
                .limit(1)
            )
            if row is None:
                return
            last, place = row["id"], f"sessions/{row['session_id']}"
            for name, table, key in (
                ("turns", turns, turns.c.turn_id),
                ("permissions", permissions, permissions.c.request_id),
            ):
                async for part in self._rows(f"{place}/{name}", table, key, table.c.session == last):
                    yield part
            async for part in self._events(SessionKey(UserId(user_id), SessionId(row["session_id"])), place):
                yield part

    async def _rows(
        self, name: str, table: sa.Table, key: sa.Column[Any], condition: sa.ColumnElement[bool]
    ) -> AsyncGenerator[Part]:
        parts = _Parts(name)
        after: Any = None
        while True:
            statement = sa.select(table).where(condition).order_by(key).limit(_ROWS)
            rows = await self._database.fetch(statement if after is None else statement.where(key > after))
            for row in rows:
                if part := parts.add(_line(row)):
                    yield part
            if len(rows) < _ROWS:
                break
            after = rows[-1][key.name]
        if part := parts.rest():
            yield part

    async def _events(self, key: SessionKey, place: str) -> AsyncGenerator[Part]:
        parts = _Parts(f"{place}/events")
        after: Cursor | None = None
        while rows := await self._database.fetch(queries.events_between(key, after, None, _EVENTS, False)):
            for row in rows:
                after = Cursor(row["ordinal"], row["offset"], row["k"])
                line = b'{"cursor":"%s","event":%s}\n' % (str(after).encode(), row["body"].strip() or b"null")
                if part := parts.add(line):
                    yield part
        if part := parts.rest():
            yield part


class _Parts:
    """Gathers lines into files of about ``_PART_BYTES``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._number = 0
        self._lines: list[bytes] = []
        self._size = 0

    def add(self, line: bytes) -> Part | None:
        """Take a line; a part when there is one."""
        self._lines.append(line)
        self._size += len(line)
        return self.rest() if self._size >= _PART_BYTES else None

    def rest(self) -> Part | None:
        """What was gathered, if anything."""
        if not self._lines:
            return None
        self._number += 1
        content = b"".join(self._lines)
        self._lines, self._size = [], 0
        return f"{self._name}-{self._number:05}.jsonl", content


def _about(user_id: str, since: float) -> sa.ColumnElement[bool]:
    theirs = sa.or_(audit.c.user_id == user_id, audit.c.actor == user_id)
    return sa.and_(theirs, audit.c.at >= int(since * 1000))


def _line(row: Mapping[Any, Any]) -> bytes:
    return json.dumps({str(key): _plain(value) for key, value in row.items()}).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        data = bytes(value)
        return data.hex() if len(data) == len(bytes(32)) else data.decode("utf-8", "replace")
    return value
