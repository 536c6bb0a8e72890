"""Records of ``pool.store.base`` to columns and back.

A field is a column of the same name, but for three kinds of value: a cursor
is three columns, an enum its value, a mapping JSON text. ``key`` is not here:
it becomes the session's row id, see ``pool.store.operations``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import Any

import sqlalchemy as sa

from pool.errors import BadRequest
from pool.model import (
    Cursor,
    InstanceId,
    InstanceState,
    SessionId,
    SessionKey,
    SessionState,
    TurnId,
    TurnState,
    UserId,
)
from pool.store.base import InstanceRecord, PermissionRecord, SessionRecord, TurnRecord

Record = SessionRecord | InstanceRecord | TurnRecord | PermissionRecord

# What names a row cannot be changed; the name of everything else is checked against the record.
_IDENTITY = frozenset({"key", "instance_id", "turn_id", "request_id"})
_PATCHABLE: dict[type[Record], frozenset[str]] = {
    SessionRecord: frozenset(f.name for f in fields(SessionRecord)) - _IDENTITY,
    InstanceRecord: frozenset(f.name for f in fields(InstanceRecord)) - _IDENTITY,
    TurnRecord: frozenset(f.name for f in fields(TurnRecord)) - _IDENTITY | {"instance_id"},
    PermissionRecord: frozenset(f.name for f in fields(PermissionRecord)) - _IDENTITY | {"turn_id"},
}


def columns_of(record: Record) -> dict[str, Any]:
    """All columns of a record but ``key``'s."""
    columns: dict[str, Any] = {}
    for item in fields(record):
        if item.name != "key":
            columns.update(_columns(item.name, getattr(record, item.name)))
    return columns


def changed_columns(kind: type[Record], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a patch. Raises ``BadRequest`` for names that the record does not have."""
    unknown = sorted(set(changes) - _PATCHABLE[kind])
    if unknown or not changes:
        raise BadRequest(
            f"{kind.__name__} cannot be patched with these fields: {', '.join(unknown) or 'none given'}",
            details={"fields": unknown},
        )
    columns: dict[str, Any] = {}
    for name, value in changes.items():
        columns.update(_columns(name, value))
    return columns


def _columns(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Cursor):
        return {f"{name}_ordinal": value.ordinal, f"{name}_offset": value.offset, f"{name}_k": value.k}
    if isinstance(value, Enum):
        return {name: value.value}
    if isinstance(value, Mapping):
        # Escaped to ASCII: a database's text cannot hold NUL or a lone surrogate, a tool's input can.
        return {name: json.dumps(value, separators=(",", ":"))}
    return {name: value}


def _key(row: sa.RowMapping) -> SessionKey:
    return SessionKey(UserId(row["user_id"]), SessionId(row["session_id"]))


def _cursor(row: sa.RowMapping, name: str) -> Cursor:
    return Cursor(row[f"{name}_ordinal"], row[f"{name}_offset"], row[f"{name}_k"])


def session_of(row: sa.RowMapping) -> SessionRecord:
    """A session from all columns of ``sessions``."""
    return SessionRecord(
        key=_key(row),
        title=row["title"],
        state=SessionState(row["state"]),
        template=row["template"],
        model=row["model"],
        permission_mode=row["permission_mode"],
        cli_session=row["cli_session"],
        created_at=row["created_at"],
        last_active_at=row["last_active_at"],
        position=_cursor(row, "position"),
        next_ordinal=row["next_ordinal"],
        resume_from=row["resume_from"],
        active_clock=row["active_clock"],
        woken_for_viewer=bool(row["woken_for_viewer"]),
        remembered=None if row["remembered"] is None else json.loads(row["remembered"]),
    )


def instance_of(row: sa.RowMapping) -> InstanceRecord:
    """An instance from all columns of ``instances`` and its session's key."""
    return InstanceRecord(
        instance_id=InstanceId(row["instance_id"]),
        key=_key(row),
        ordinal=row["ordinal"],
        state=InstanceState(row["state"]),
        epoch=row["epoch"],
        host=row["host"],
        isolation=row["isolation"],
        started_at=row["started_at"],
        offset=row["spool_offset"],
        pid=row["pid"],
        start_ticks=row["start_ticks"],
        boot_id=row["boot_id"],
        turns=row["turns"],
        exited_at=row["exited_at"],
        exit_code=row["exit_code"],
        exit_signal=row["exit_signal"],
        started_clock=row["started_clock"],
    )


def turn_of(row: sa.RowMapping) -> TurnRecord:
    """A turn from all columns of ``turns`` and its session's key."""
    return TurnRecord(
        turn_id=TurnId(row["turn_id"]),
        key=_key(row),
        number=row["number"],
        state=TurnState(row["state"]),
        origin=row["origin"],
        created_at=row["created_at"],
        message_id=row["message_id"],
        content_hash=row["content_hash"],
        position=row["position"],
        line=row["line"],
        instance_id=None if row["instance_id"] is None else InstanceId(row["instance_id"]),
        ended_at=row["ended_at"],
        reason=None if row["reason"] is None else json.loads(row["reason"]),
        interrupt=bool(row["interrupt"]),
    )


def permission_of(row: sa.RowMapping) -> PermissionRecord:
    """An approval from all columns of ``permissions`` and its session's key."""
    return PermissionRecord(
        request_id=row["request_id"],
        key=_key(row),
        instance_id=InstanceId(row["instance_id"]),
        turn_id=None if row["turn_id"] is None else TurnId(row["turn_id"]),
        tool=row["tool"],
        request=json.loads(row["request"]),
        cursor=_cursor(row, "cursor"),
        state=row["state"],
        asked_at=row["asked_at"],
        answer=row["answer"],
        decision=row["decision"],
        answered_by=row["answered_by"],
    )
