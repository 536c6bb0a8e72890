"""Records of a small world, for tests of stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pool.model import (
    BEGINNING,
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
from pool.store.base import InstanceRecord, LogEntry, PermissionRecord, SessionRecord, TurnRecord

ALICE = SessionKey(UserId("alice"), SessionId("default"))
BOB = SessionKey(UserId("bob"), SessionId("default"))


def a_session(key: SessionKey = ALICE, **changes: Any) -> SessionRecord:
    record = SessionRecord(
        key=key,
        title="",
        state=SessionState.PARKED,
        template="default",
        model=None,
        permission_mode="default",
        cli_session=None,
        created_at=1000.5,
        last_active_at=1000.5,
        position=BEGINNING,
    )
    return replace(record, **changes)


def an_instance(key: SessionKey = ALICE, ordinal: int = 1, **changes: Any) -> InstanceRecord:
    record = InstanceRecord(
        instance_id=InstanceId(f"i-{key.user_id}-{key.session_id}-{ordinal}"),
        key=key,
        ordinal=ordinal,
        state=InstanceState.STARTING,
        epoch=1,
        host="local",
        isolation="none",
        started_at=1001.25,
    )
    return replace(record, **changes)


def a_turn(key: SessionKey = ALICE, number: int = 1, **changes: Any) -> TurnRecord:
    record = TurnRecord(
        turn_id=TurnId(f"t-{key.user_id}-{key.session_id}-{number}"),
        key=key,
        number=number,
        state=TurnState.QUEUED,
        origin="user",
        created_at=1002.0,
        message_id=f"m-{number}",
        content_hash="abc",
        line=b'{"type":"user"}\n',
    )
    return replace(record, **changes)


def an_approval(key: SessionKey = ALICE, request_id: str = "r-1", **changes: Any) -> PermissionRecord:
    record = PermissionRecord(
        request_id=request_id,
        key=key,
        instance_id=InstanceId(f"i-{key.user_id}-{key.session_id}-1"),
        turn_id=None,
        tool="Bash",
        request={"command": "ls", "odd": "\u0000 \ud800 é"},
        cursor=Cursor(1, 70, 1),
        state="open",
        asked_at=1003.0,
    )
    return replace(record, **changes)


def entries(*places: tuple[int, int, int]) -> list[LogEntry]:
    return [LogEntry(Cursor(*place), f"{place}".encode()) for place in places]


def cursors(log: Sequence[LogEntry]) -> list[Cursor]:
    return [entry.cursor for entry in log]
