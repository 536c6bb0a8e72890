"""Carries out the operations of a commit, each by a small function of its type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, IntegrityError

from pool.errors import BadRequest, Conflict, NotFound
from pool.model import SessionKey
from pool.store.audit_chain import AuditChain
from pool.store.base import (
    AppendAudit,
    AppendEvents,
    InstanceRecord,
    Operation,
    PatchInstance,
    PatchPermission,
    PatchSession,
    PatchTurn,
    PermissionRecord,
    PutInstance,
    PutPermission,
    PutSession,
    PutTurn,
    SessionRecord,
    TurnRecord,
)
from pool.store.rows import changed_columns, columns_of
from pool.store.tables import instances, permissions, sessions, turns

# The hot path is written as text: compiling a statement for each batch costs more than running it.
_FIND_SESSION = "SELECT id FROM sessions WHERE user_id = ? AND session_id = ?"
_APPEND_EVENT = (
    "INSERT INTO events (session, ordinal, spool_offset, k, body) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (session, ordinal, spool_offset, k) DO NOTHING"
)
_ADVANCE = (
    "UPDATE sessions SET position_ordinal = ?, position_offset = ?, position_k = ? WHERE id = ? "
    "AND (position_ordinal, position_offset, position_k) < (?, ?, ?)"
)


def perform(connection: sa.Connection, operations: Sequence[Operation], audit: AuditChain) -> None:
    """Carry out ``operations`` in order; the caller's transaction is theirs.

    Raises ``Conflict``, ``NotFound`` or ``BadRequest``; the transaction (or
    savepoint) must be rolled back then.
    """
    try:
        for operation in operations:
            if isinstance(operation, AppendAudit):
                audit.append(connection, operation.entries)
            else:
                _PERFORM[type(operation)](connection, operation)
    except IntegrityError as error:
        raise Conflict("there is one with this id already, or its parent is gone") from error
    except (DataError, UnicodeEncodeError, OverflowError) as error:
        raise BadRequest("a value cannot be stored: bad text or a number out of range") from error


def insert_ignoring(connection: sa.Connection, table: sa.Table, columns: dict[str, Any]) -> bool:
    """Insert a row unless its key exists; True if it was inserted."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return connection.execute(insert(table).values(columns).on_conflict_do_nothing()).rowcount == 1


def _sql(connection: sa.Connection, text: str) -> str:
    return text if connection.dialect.name == "sqlite" else text.replace("?", "%s")


def _session_row(connection: sa.Connection, key: SessionKey) -> int:
    found = connection.exec_driver_sql(
        _sql(connection, _FIND_SESSION), (key.user_id, key.session_id)
    ).scalar()
    if found is None:
        raise NotFound("there is no such session")
    return int(found)


def _changed_one(result: sa.CursorResult[Any], what: str) -> None:
    if result.rowcount != 1:
        raise NotFound(f"there is no such {what}")


def _put_session(connection: sa.Connection, operation: PutSession) -> None:
    key = operation.record.key
    columns = {"user_id": key.user_id, "session_id": key.session_id, **columns_of(operation.record)}
    try:
        connection.execute(sa.insert(sessions), columns)
    except IntegrityError as error:
        raise Conflict(
            "the user has a session of this id already, or of one that differs only in case"
        ) from error


def _patch_session(connection: sa.Connection, operation: PatchSession) -> None:
    key = operation.key
    statement = (
        sa.update(sessions)
        .where(sessions.c.user_id == key.user_id, sessions.c.session_id == key.session_id)
        .values(changed_columns(SessionRecord, operation.changes))
    )
    _changed_one(connection.execute(statement), "session")


def _put_instance(connection: sa.Connection, operation: PutInstance) -> None:
    record = operation.record
    columns = {"session": _session_row(connection, record.key), **columns_of(record)}
    connection.execute(sa.insert(instances), columns)


def _patch_instance(connection: sa.Connection, operation: PatchInstance) -> None:
    statement = (
        sa.update(instances)
        .where(instances.c.instance_id == operation.instance_id)
        .values(changed_columns(InstanceRecord, operation.changes))
    )
    _changed_one(connection.execute(statement), "instance")


def _put_turn(connection: sa.Connection, operation: PutTurn) -> None:
    record = operation.record
    columns = {"session": _session_row(connection, record.key), **columns_of(record)}
    try:
        connection.execute(sa.insert(turns), columns)
    except IntegrityError as error:
        raise Conflict("a turn of this id or from this message exists already") from error


def _patch_turn(connection: sa.Connection, operation: PatchTurn) -> None:
    statement = (
        sa.update(turns)
        .where(turns.c.turn_id == operation.turn_id)
        .values(changed_columns(TurnRecord, operation.changes))
    )
    _changed_one(connection.execute(statement), "turn")


def _put_permission(connection: sa.Connection, operation: PutPermission) -> None:
    record = operation.record
    columns = {"session": _session_row(connection, record.key), **columns_of(record)}
    insert_ignoring(connection, permissions, columns)


def _patch_permission(connection: sa.Connection, operation: PatchPermission) -> None:
    statement = (
        sa.update(permissions)
        .where(
            permissions.c.instance_id == operation.instance_id,
            permissions.c.request_id == operation.request_id,
        )
        .values(changed_columns(PermissionRecord, operation.changes))
    )
    _changed_one(connection.execute(statement), "approval")


def _append_events(connection: sa.Connection, operation: AppendEvents) -> None:
    if not operation.entries:
        return
    session = _session_row(connection, operation.key)
    rows = [
        (session, entry.cursor.ordinal, entry.cursor.offset, entry.cursor.k, entry.body)
        for entry in operation.entries
    ]
    connection.exec_driver_sql(_sql(connection, _APPEND_EVENT), rows)
    newest = max(entry.cursor for entry in operation.entries)
    place = (newest.ordinal, newest.offset, newest.k)
    connection.exec_driver_sql(_sql(connection, _ADVANCE), (*place, session, *place))


_PERFORM: dict[type[Operation], Callable[[sa.Connection, Any], None]] = {
    PutSession: _put_session,
    PatchSession: _patch_session,
    PutInstance: _put_instance,
    PatchInstance: _patch_instance,
    PutTurn: _put_turn,
    PatchTurn: _patch_turn,
    PutPermission: _put_permission,
    PatchPermission: _patch_permission,
    AppendEvents: _append_events,
}
