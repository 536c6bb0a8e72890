"""Records of ``pool.store.base`` to columns and back.

A field is a column of the same name, but for three kinds of value: a cursor
is three columns, an enum its value, a mapping JSON text. ``key`` is not here:
it becomes the session's row id, see ``pool.store.operations``. What cannot be
read of a row is replaced and named in the record's ``spoilt``; a row whose own
name cannot be read is no record at all, but None.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from enum import Enum
from typing import Any

import sqlalchemy as sa

from pool.errors import BadRequest, InvalidName
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
from pool.names import check_name
from pool.policy.kept_rules import is_kept
from pool.protocol.command_line import PERMISSION_MODES
from pool.store.base import InstanceRecord, PermissionRecord, SessionRecord, TurnRecord
from pool.store.columns import Columns

Record = SessionRecord | InstanceRecord | TurnRecord | PermissionRecord

# What names a row cannot be changed; the name of everything else is checked against the record.
_IDENTITY = frozenset({"key", "instance_id", "turn_id", "request_id", "spoilt"})
_NO_COLUMN = frozenset({"key", "spoilt"})
_ORIGINS = ("user", "cli")
_APPROVAL_STATES = ("open", "answered", "closed")
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
        if item.name not in _NO_COLUMN:
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


def key_of(row: sa.RowMapping) -> SessionKey | None:
    """Whose row it is; None when that cannot be read."""
    try:
        return SessionKey(
            UserId(check_name(row["user_id"], "user_id")),
            SessionId(check_name(row["session_id"], "session_id")),
        )
    except InvalidName:
        return None


def session_of(row: sa.RowMapping) -> SessionRecord | None:
    """A session from all columns of ``sessions``; a spoilt one is faulted, unless it was put away."""
    key, read = key_of(row), Columns(row)
    if key is None:
        return None
    record = SessionRecord(
        key=key,
        title=read.text("title"),
        state=read.member("state", SessionState, SessionState.FAULTED),
        template=read.text("template"),
        model=read.text_or_none("model"),
        permission_mode=read.one_of("permission_mode", PERMISSION_MODES, "default"),
        cli_session=read.text_or_none("cli_session"),
        created_at=read.time("created_at"),
        last_active_at=read.time("last_active_at"),
        position=read.cursor("position"),
        next_ordinal=read.number("next_ordinal", 1),
        resume_from=read.text_or_none("resume_from"),
        active_clock=read.time_or_none("active_clock"),
        woken_for_viewer=bool(row["woken_for_viewer"]),
        remembered=read.json_or_none("remembered", is_kept),
        spoilt=read.spoilt,
    )
    if record.spoilt and record.state is not SessionState.ARCHIVED:
        return replace(record, state=SessionState.FAULTED)
    return record


def instance_of(row: sa.RowMapping) -> InstanceRecord | None:
    """An instance from all columns of ``instances`` and its session's key."""
    key, read = key_of(row), Columns(row)
    instance_id = read.text("instance_id")
    if key is None or not instance_id:
        return None
    return InstanceRecord(
        instance_id=InstanceId(instance_id),
        key=key,
        ordinal=read.number("ordinal"),
        state=read.member("state", InstanceState, InstanceState.STUCK),
        epoch=read.number("epoch"),
        host=read.text("host"),
        isolation=read.text("isolation"),
        started_at=read.time("started_at"),
        offset=read.number("spool_offset"),
        pid=read.number_or_none("pid"),
        start_ticks=read.number_or_none("start_ticks"),
        boot_id=read.text_or_none("boot_id"),
        turns=read.number("turns"),
        exited_at=read.time_or_none("exited_at"),
        exit_code=read.number_or_none("exit_code"),
        exit_signal=read.text_or_none("exit_signal"),
        started_clock=read.time_or_none("started_clock"),
        spoilt=read.spoilt,
    )


def turn_of(row: sa.RowMapping) -> TurnRecord | None:
    """A turn from all columns of ``turns`` and its session's key; one of an unknown state is lost."""
    key, read = key_of(row), Columns(row)
    turn_id = read.text("turn_id")
    if key is None or not turn_id:
        return None
    instance_id = read.text_or_none("instance_id")
    return TurnRecord(
        turn_id=TurnId(turn_id),
        key=key,
        number=read.number("number"),
        state=read.member("state", TurnState, TurnState.LOST),
        origin=read.one_of("origin", _ORIGINS, "user"),
        created_at=read.time("created_at"),
        message_id=read.text_or_none("message_id"),
        content_hash=read.text_or_none("content_hash"),
        position=read.number("position"),
        line=read.data_or_none("line"),
        instance_id=None if instance_id is None else InstanceId(instance_id),
        ended_at=read.time_or_none("ended_at"),
        reason=read.json_or_none("reason"),
        interrupt=bool(row["interrupt"]),
        spoilt=read.spoilt,
    )


def permission_of(row: sa.RowMapping) -> PermissionRecord | None:
    """An approval from all columns of ``permissions`` and its session's key."""
    key, read = key_of(row), Columns(row)
    instance_id, request_id = read.text("instance_id"), read.text("request_id")
    if key is None or not instance_id or not request_id:
        return None
    turn_id = read.text_or_none("turn_id")
    return PermissionRecord(
        request_id=request_id,
        key=key,
        instance_id=InstanceId(instance_id),
        turn_id=None if turn_id is None else TurnId(turn_id),
        tool=read.text("tool", "unknown"),
        request=read.json("request"),
        cursor=read.cursor("cursor"),
        state=read.one_of("state", _APPROVAL_STATES, "open"),
        asked_at=read.time("asked_at"),
        answer=read.data_or_none("answer"),
        decision=read.text_or_none("decision"),
        answered_by=read.text_or_none("answered_by"),
        spoilt=read.spoilt,
    )
