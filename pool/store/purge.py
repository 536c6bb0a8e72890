"""Removes what is no longer kept, in slices, so that commits never wait long behind it."""

from __future__ import annotations

import sqlalchemy as sa

from pool.store.database import Database
from pool.store.tables import OPEN_PERMISSION, OPEN_TURN, events, instances, permissions, turns

_SLICE_ROWS = 2000


async def delete_in_slices(database: Database, table: sa.Table, condition: sa.ColumnElement[bool]) -> int:
    """Delete the rows that match, a slice a transaction; returns how many."""
    key = list(table.primary_key.columns)
    slice_ = sa.select(*key).where(condition).limit(_SLICE_ROWS)
    statement = sa.delete(table).where(sa.tuple_(*key).in_(slice_))
    total = 0
    while deleted := await database.submit(lambda connection: connection.execute(statement).rowcount):
        total += deleted
    return total


async def prune(database: Database, before: float) -> int:
    """Delete history that ended before ``before`` (seconds since 1970); returns how many rows.

    Goes: the events of instances that exited before, ended turns (with their
    idempotency keys) and closed approvals. Stays: sessions, instances and
    everything that is open.
    """
    # The log itself has no clock: an instance's exit is the time of the youngest event it can have.
    exited = (
        sa.select(instances.c.session)
        .where(
            instances.c.session == events.c.session,
            instances.c.ordinal == events.c.ordinal,
            instances.c.exited_at < before,
        )
        .exists()
    )
    old_turn = sa.and_(sa.text(f"NOT ({OPEN_TURN})"), turns.c.ended_at < before)
    old_approval = sa.and_(sa.text(f"NOT ({OPEN_PERMISSION})"), permissions.c.asked_at < before)
    return (
        await delete_in_slices(database, events, exited)
        + await delete_in_slices(database, turns, old_turn)
        + await delete_in_slices(database, permissions, old_approval)
    )
