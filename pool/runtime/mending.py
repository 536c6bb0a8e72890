"""Rows that cannot be read: told to operators once each, and made whole again where a session needs them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pool.model import BEGINNING, Reason, SessionState
from pool.runtime.counting import Counters
from pool.store.base import InstanceRecord, SessionRecord, SpoiltRow, Store

_log = logging.getLogger(__name__)
_MOST_REMEMBERED = 10_000


class SpoiltRows:
    """Counts and logs every row that cannot be read, once for as long as the server runs."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._told: set[SpoiltRow] = set()

    def tell(self, row: SpoiltRow) -> None:
        """A row was read, and could not be."""
        if row in self._told:
            return
        if len(self._told) >= _MOST_REMEMBERED:
            self._told.clear()
        self._told.add(row)
        self._counters.spoilt_rows.add(row.table)
        _log.error(
            "a row of the database cannot be read",
            extra={
                "table": row.table,
                "row": row.row_id,
                "fields": ", ".join(row.fields) or "its ids; it is left out",
                "user": row.key.user_id if row.key is not None else None,
                "session": row.key.session_id if row.key is not None else None,
            },
        )


def fault_of(tables: Iterable[str]) -> Reason:
    """Why a session is faulted of which rows of ``tables`` cannot be read."""
    shown = ", ".join(sorted(set(tables)))
    return Reason(
        "not_restored", f"what the database has of it cannot be read ({shown}); write to begin anew"
    )


async def mended(
    store: Store, record: SessionRecord, instances: Iterable[InstanceRecord]
) -> tuple[SessionRecord, dict[str, Any]]:
    """A spoilt session as one that can be worked with, and the columns that make its row whole.

    It is parked, or archived as it was: whoever asks for this faults it. Its
    numbers go on above all that the log and ``instances``, all of its own, have.
    """
    changes: dict[str, Any] = {name: getattr(record, name) for name in record.spoilt}
    newest = BEGINNING
    if "position" in changes or "next_ordinal" in changes:
        entries = await store.read_events(record.key, limit=1, newest_first=True)
        newest = max([BEGINNING, *(entry.cursor for entry in entries)])
    if "position" in changes:
        changes["position"] = newest
    if "next_ordinal" in changes:
        known = [record.position.ordinal, newest.ordinal, *(one.ordinal for one in instances)]
        changes["next_ordinal"] = max(known) + 1
    if record.state is not SessionState.ARCHIVED:
        changes["state"] = SessionState.PARKED
    return replace(record, **changes, spoilt=()), changes
