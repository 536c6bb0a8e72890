"""Appends to the audit log inside of the transactions of the one writer, and keeps its head file.

All of it runs in the writer's thread. What a transaction appends is stored
with the rest of it or not at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from pool.audit.records import BEGINNING, AuditEntry, Place, sealed, told
from pool.caller import SERVER
from pool.store.audit_head import Head, HeadFile

_log = logging.getLogger(__name__)

_LAST = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1"
_HASH = "SELECT hash FROM audit WHERE seq = ?"
_APPEND = (
    "INSERT INTO audit (seq, at, action, actor, user_id, facts, previous, hash) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


class AuditChain:
    """The end of the log. ``trouble`` says why the head file cannot be kept, if so.

    Who is not alone has other replicas that write the log between two of its
    own turns: it goes on behind what it finds, if what it noted last is in it.
    """

    def __init__(self, data_dir: Path, *, is_alone: bool = True) -> None:
        self._file = HeadFile(data_dir)
        self._is_alone = is_alone
        self._end: Place | None = None
        self._appended: list[Place] = []
        self._note: AuditEntry | None = None
        self._is_open = False
        self._is_unsure = False
        self.trouble: str | None = None

    def append(self, connection: sa.Connection, entries: Sequence[AuditEntry]) -> None:
        """Put the entries at the end, in order; the caller's transaction is theirs.

        The first time the log is compared with its head file, and what does
        not fit is noted before them.
        """
        if not entries:
            return
        stored = _last(connection)
        notes: list[AuditEntry] = []
        if self._end is None:
            self._end, self._note = self._compare(connection, stored)
        if self._note is not None and not self._appended:
            notes.append(self._note)
        end = max(stored, self._end, key=lambda place: place.seq)
        if stored.seq > self._end.seq and stored not in self._appended:
            notes.append(_note("audit.foreign_record", end=str(self._end), found=str(stored)))
        records = sealed([*notes, *entries], end)
        rows = [
            (one.seq, one.at, one.action, one.actor, one.user_id, one.facts, one.previous, one.hash)
            for one in records
        ]
        connection.exec_driver_sql(_sql(connection, _APPEND), rows)
        self._appended.append(Place(records[-1].seq, records[-1].hash))
        self._is_open = True

    def _compare(self, connection: sa.Connection, stored: Place) -> tuple[Place, AuditEntry | None]:
        """Where the log goes on, and what is to be noted.

        After a head that the log does not reach, numbers go on behind the
        head: what is missing stays missing for everybody who verifies.
        """
        try:
            head = self._file.read()
        except (OSError, ValueError):
            return stored, _note("audit.head_unreadable", end=str(stored))
        if head is None:
            return stored, _note("audit.head_missing", end=str(stored)) if stored != BEGINNING else None
        if stored in (head.certain, head.pending) or self._others_went_on(connection, head.certain, stored):
            return stored, None
        if stored.seq > head.latest:
            return stored, _note("audit.head_behind", head=str(head.certain), end=str(stored))
        return head.certain, _note("audit.end_missing", head=str(head.certain), end=str(stored))

    def _others_went_on(self, connection: sa.Connection, noted: Place, stored: Place) -> bool:
        """Is the log longer than what was noted here, and what was noted still in it?"""
        if self._is_alone or stored.seq <= noted.seq:
            return False
        found = connection.exec_driver_sql(_sql(connection, _HASH), (noted.seq,)).scalar()
        return found is not None and bytes(found) == noted.hash

    # --- what the writer tells -----------------------------------------------------------

    def before_commit(self, connection: sa.Connection) -> None:
        """A transaction is about to be committed."""
        if not self._is_open or self._end is None or not self._appended:
            return
        stored = _last(connection) if self._is_unsure else self._appended[-1]
        self._appended.clear()
        if stored.seq > self._end.seq:
            self._keep(Head(self._end, stored))
            self._appended.append(stored)

    def rolled_back(self) -> None:
        """What was appended last may be gone again: the database must be asked."""
        self._is_unsure = True

    def after_commit(self) -> None:
        """It was committed."""
        if self._is_open and self._appended:
            self._end, self._note = self._appended[-1], None
            self._keep(Head(self._end))
        self._appended.clear()
        self._is_open = self._is_unsure = False

    def close(self) -> None:
        """The last transaction is over."""
        self._file.close()

    def _keep(self, head: Head) -> None:
        try:
            self._file.write(head)
            self.trouble = None
        except OSError as error:
            if self.trouble is None:
                _log.error("the head file of the audit log cannot be written: %s", error.strerror)
            self.trouble = f"the head file of the audit log cannot be written: {error.strerror}"


def _note(action: str, **facts: str) -> AuditEntry:
    _log.warning("%s: see docs/operations.md, the audit log", action, extra=facts)
    return told(action, time.time(), by=SERVER, **facts)


def _last(connection: sa.Connection) -> Place:
    row = connection.exec_driver_sql(_LAST).one_or_none()
    return BEGINNING if row is None else Place(int(row[0]), bytes(row[1]))


def _sql(connection: sa.Connection, text: str) -> str:
    return text if connection.dialect.name == "sqlite" else text.replace("?", "%s")
