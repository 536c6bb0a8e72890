"""What a store is: records, and the operations that are committed together.

Everything that must be true together is one ``commit`` of a list of
operations: it is stored whole or not at all. Reads see every commit that has
returned. Durations are never computed from stored stamps of another machine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pool.audit.records import AuditEntry
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """A session's row. ``position`` is the newest committed cursor.

    ``spoilt``, here and in the other records, names the fields that could not
    be read from the row and have something harmless in their place.

    ``active_clock`` is when it was last used by ``CLOCK_MONOTONIC``: good
    until the machine boots anew, whatever becomes of the wall clock.
    ``woken_for_viewer``: somebody who only looked on woke it since then.
    ``remembered`` is what the user allowed for the session (``pool.policy.kept_rules``).
    """

    key: SessionKey
    title: str
    state: SessionState
    template: str
    model: str | None
    permission_mode: str
    cli_session: str | None
    created_at: float
    last_active_at: float
    position: Cursor
    next_ordinal: int = 1
    resume_from: str | None = None
    active_clock: float | None = None
    woken_for_viewer: bool = False
    remembered: Mapping[str, Any] | None = None
    spoilt: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    """An instance's row: written before the spawn (pid None), completed after it.

    ``started_clock`` is ``started_at`` by ``CLOCK_MONOTONIC``.
    """

    instance_id: InstanceId
    key: SessionKey
    ordinal: int
    state: InstanceState
    epoch: int
    host: str
    isolation: str
    started_at: float
    offset: int = 0
    pid: int | None = None
    start_ticks: int | None = None
    boot_id: str | None = None
    turns: int = 0
    exited_at: float | None = None
    exit_code: int | None = None
    exit_signal: str | None = None
    started_clock: float | None = None
    spoilt: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRecord:
    """A turn's row. ``number`` orders the turns of a session; ``line`` is what goes to the CLI.

    ``message_id`` is the idempotency key (None for a turn that the CLI began
    by itself), ``content_hash`` tells the same content from other content.
    """

    turn_id: TurnId
    key: SessionKey
    number: int
    state: TurnState
    origin: str
    created_at: float
    message_id: str | None = None
    content_hash: str | None = None
    position: int = 0
    line: bytes | None = None
    instance_id: InstanceId | None = None
    ended_at: float | None = None
    reason: dict[str, Any] | None = None
    interrupt: bool = False
    spoilt: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionRecord:
    """An approval's row. ``answer`` is the control response to write, stored before it is written.

    ``state`` is ``open``, ``answered`` (stored, maybe not applied yet) or
    ``closed``.
    """

    request_id: str
    key: SessionKey
    instance_id: InstanceId
    turn_id: TurnId | None
    tool: str
    request: dict[str, Any]
    cursor: Cursor
    state: str
    asked_at: float
    answer: bytes | None = None
    decision: str | None = None
    answered_by: str | None = None
    spoilt: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SpoiltRow:
    """A row that could not be read, for the log and for operators: ids and names, nothing of its content.

    ``key`` is None when it cannot be told whose it is; ``fields`` empty when
    the row's own id is what cannot be read: such a row is left out.
    """

    table: str
    row_id: str
    fields: tuple[str, ...]
    key: SessionKey | None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One durable event. ``body`` is the CLI's line as it came (k = 0) or the server's own
    frame as a JSON object without ``session_id`` and ``cursor`` (k >= 1)."""

    cursor: Cursor
    body: bytes


# --- operations of one commit -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PutSession:
    """Insert a session. ``Conflict`` if an id that differs only in case exists for the user."""

    record: SessionRecord


@dataclass(frozen=True, slots=True)
class PatchSession:
    """Change columns of a session; ``changes`` has field names of ``SessionRecord``."""

    key: SessionKey
    changes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PutInstance:
    """Insert an instance: the intent to spawn."""

    record: InstanceRecord


@dataclass(frozen=True, slots=True)
class PatchInstance:
    """Change columns of an instance."""

    instance_id: InstanceId
    changes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PutTurn:
    """Insert a turn; with a ``message_id`` this is also the idempotency record.

    ``KeyReused`` is not decided here: ask ``find_turn`` first; a clash of
    (session, message_id) raises ``Conflict``.
    """

    record: TurnRecord


@dataclass(frozen=True, slots=True)
class PatchTurn:
    """Change columns of a turn."""

    turn_id: TurnId
    changes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PutPermission:
    """Insert an approval; one that exists already (same instance and request id) stays as it is."""

    record: PermissionRecord


@dataclass(frozen=True, slots=True)
class PatchPermission:
    """Change columns of an approval."""

    instance_id: InstanceId
    request_id: str
    changes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AppendEvents:
    """Append durable events, oldest first. The same cursor again is ignored (derived twice)."""

    key: SessionKey
    entries: Sequence[LogEntry]


@dataclass(frozen=True, slots=True)
class AppendAudit:
    """Append to the audit log, in order: told in the same commit as the fact it tells of."""

    entries: Sequence[AuditEntry]


Operation = (
    PutSession
    | PatchSession
    | PutInstance
    | PatchInstance
    | PutTurn
    | PatchTurn
    | PutPermission
    | PatchPermission
    | AppendEvents
    | AppendAudit
)


@dataclass(frozen=True, slots=True)
class OpenWork:
    """What a starting server must take over for one session; ``spoilt`` is what cannot be read of it."""

    session: SessionRecord
    instances: Sequence[InstanceRecord] = field(default=())
    turns: Sequence[TurnRecord] = field(default=())
    permissions: Sequence[PermissionRecord] = field(default=())
    spoilt: Sequence[SpoiltRow] = field(default=())


class Store(ABC):
    """The durable truth. One server process writes it at a time.

    A row that cannot be read never fails the reading of others: see
    ``SessionRecord.spoilt``. ``on_spoilt`` is told of each, each time.
    """

    on_spoilt: Callable[[SpoiltRow], None] = staticmethod(lambda _row: None)

    @abstractmethod
    async def open(self) -> None:
        """Migrate the schema if need be (after a backup, for SQLite) and connect."""

    @abstractmethod
    async def aclose(self) -> None:
        """Commit what is queued and disconnect."""

    @abstractmethod
    async def claim_epoch(self, at_least: int) -> int:
        """Store and return an epoch higher than any before and at least ``at_least``."""

    @abstractmethod
    async def commit(self, operations: Sequence[Operation]) -> None:
        """All of ``operations`` in one transaction, in order; concurrent commits share one
        (group commit), and a failing one fails alone. Commits take effect in call order."""

    @abstractmethod
    async def get_session(self, key: SessionKey) -> SessionRecord | None:
        """The session, or None."""

    @abstractmethod
    async def list_sessions(
        self,
        user_id: UserId,
        *,
        search: str = "",
        include_archived: bool = False,
        limit: int = 100,
        after: SessionId | None = None,
    ) -> Sequence[SessionRecord]:
        """A user's sessions, last active first (ties by id); ``search`` matches title and id."""

    @abstractmethod
    async def count_sessions(self, user_id: UserId) -> int:
        """How many sessions of the user are not archived."""

    @abstractmethod
    async def open_work(self) -> Sequence[OpenWork]:
        """Every session with an instance not exited, a turn not terminal, or an approval not closed."""

    @abstractmethod
    async def exited_instances(self, key: SessionKey) -> Sequence[InstanceRecord]:
        """All instances of a session that have exited, by ordinal."""

    @abstractmethod
    async def find_turn(self, key: SessionKey, message_id: str) -> TurnRecord | None:
        """The turn that was made from this message, if any."""

    @abstractmethod
    async def message_ids(self, key: SessionKey) -> Sequence[str]:
        """Every message id of the session that is remembered, so that a new one need not be looked up."""

    @abstractmethod
    async def get_turn(self, key: SessionKey, turn_id: TurnId) -> TurnRecord | None:
        """A turn by its id."""

    @abstractmethod
    async def next_turn_number(self, key: SessionKey) -> int:
        """One above the highest turn number of the session."""

    @abstractmethod
    async def read_events(
        self,
        key: SessionKey,
        *,
        after: Cursor | None = None,
        before: Cursor | None = None,
        limit: int = 500,
        newest_first: bool = False,
    ) -> Sequence[LogEntry]:
        """Durable events with after < cursor < before, oldest first unless asked otherwise."""

    @abstractmethod
    async def oldest_event(self, key: SessionKey) -> Cursor | None:
        """The oldest durable event that is kept."""

    @abstractmethod
    async def uid_of(self, user_id: UserId, first: int, last: int, above: int = 0) -> int:
        """The Linux user that this user is: always the same one of [first, last], given out at the
        first call and above ``above``. Never one that was another's, also when that one is deleted.
        Raises ``UidsExhausted``."""

    @abstractmethod
    async def placements(self) -> Mapping[UserId, str]:
        """The host of every user for whom one was decided."""

    @abstractmethod
    async def place(self, user_id: UserId, host: str) -> str:
        """The user's host: ``host`` from now on, unless one was decided before."""

    @abstractmethod
    async def prune(
        self, before: float, turns_before: float | None = None, usage_before: float | None = None
    ) -> int:
        """Delete history that ended before ``before`` (seconds since 1970), turns with their
        idempotency keys that ended before ``turns_before`` and figures of use from before
        ``usage_before``; returns how many rows. In slices."""

    @abstractmethod
    async def resumable(self, user_id: UserId, since: float) -> set[str]:
        """The CLI's ids of the user's conversations that somebody can go on with: of sessions that
        are not archived, or were active after ``since``."""

    @abstractmethod
    async def prune_audit(self, before: float) -> int:
        """Delete records of the audit log from before ``before`` so that the rest can be verified."""

    @abstractmethod
    async def check(self) -> None:
        """Write and read something tiny; raises when the database does not work."""
