"""From rows to records: a row that cannot be read is told of, and costs its own session only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import sqlalchemy as sa

from pool.model import SessionKey
from pool.store import queries
from pool.store.base import (
    InstanceRecord,
    OpenWork,
    PermissionRecord,
    SessionRecord,
    SpoiltRow,
    TurnRecord,
)
from pool.store.rows import instance_of, key_of, permission_of, session_of, turn_of

_Record = TypeVar("_Record", SessionRecord, InstanceRecord, TurnRecord, PermissionRecord)
Tell = Callable[[SpoiltRow], None]

# The columns that name a row of each table.
_IDS = {
    "sessions": ("id",),
    "instances": ("instance_id",),
    "turns": ("turn_id",),
    "permissions": ("instance_id", "request_id"),
}
_ID_CHARACTERS = 100


def sessions_in(rows: Iterable[sa.RowMapping], tell: Tell) -> Iterator[SessionRecord]:
    """Records of ``sessions``."""
    return _read("sessions", rows, session_of, tell)


def instances_in(rows: Iterable[sa.RowMapping], tell: Tell) -> Iterator[InstanceRecord]:
    """Records of ``instances``."""
    return _read("instances", rows, instance_of, tell)


def turns_in(rows: Iterable[sa.RowMapping], tell: Tell) -> Iterator[TurnRecord]:
    """Records of ``turns``."""
    return _read("turns", rows, turn_of, tell)


def permissions_in(rows: Iterable[sa.RowMapping], tell: Tell) -> Iterator[PermissionRecord]:
    """Records of ``permissions``."""
    return _read("permissions", rows, permission_of, tell)


def open_work(connection: sa.Connection) -> tuple[list[OpenWork], list[SpoiltRow]]:
    """What ``Store.open_work`` gives, and every row of it that cannot be read."""
    spoilt: list[SpoiltRow] = []

    def rows(statement: sa.Select[tuple[object, ...]]) -> Sequence[sa.RowMapping]:
        return connection.execute(statement).mappings().all()

    instances = _by_key(instances_in(rows(queries.open_instances()), spoilt.append))
    turns = _by_key(turns_in(rows(queries.open_turns()), spoilt.append))
    permissions = _by_key(permissions_in(rows(queries.open_permissions()), spoilt.append))
    sessions = list(sessions_in(rows(queries.open_sessions()), spoilt.append))
    work = [
        OpenWork(
            session=session,
            instances=tuple(instances.get(session.key, ())),
            turns=tuple(turns.get(session.key, ())),
            permissions=tuple(permissions.get(session.key, ())),
            spoilt=tuple(row for row in spoilt if row.key == session.key),
        )
        for session in sessions
    ]
    return work, spoilt


def _by_key(records: Iterable[_Record]) -> dict[SessionKey, list[_Record]]:
    found: dict[SessionKey, list[_Record]] = {}
    for record in records:
        found.setdefault(record.key, []).append(record)
    return found


def _read(
    table: str,
    rows: Iterable[sa.RowMapping],
    read: Callable[[sa.RowMapping], _Record | None],
    tell: Tell,
) -> Iterator[_Record]:
    for row in rows:
        record = read(row)
        if record is None:
            tell(SpoiltRow(table, _row_id(table, row), (), key_of(row)))
        elif record.spoilt:
            tell(SpoiltRow(table, _row_id(table, row), record.spoilt, record.key))
        if record is not None:
            yield record


def _row_id(table: str, row: sa.RowMapping) -> str:
    return "/".join(ascii(row[name]).strip("'")[:_ID_CHARACTERS] for name in _IDS[table])
