"""Removes what is no longer kept, in slices, so that commits never wait long behind it."""

from __future__ import annotations

import sqlalchemy as sa

from pool.store.database import Database
from pool.store.tables import (
    OPEN_PERMISSION,
    OPEN_TURN,
    events,
    instances,
    permissions,
    sessions,
    turns,
    usage,
)

SLICE_ROWS = 2000
_DAY_SECONDS = 86400
_INSTANCES_AT_A_TIME = 200


async def delete_in_slices(database: Database, table: sa.Table, condition: sa.ColumnElement[bool]) -> int:
    """Delete the rows that match, a slice a transaction; returns how many."""
    key = list(table.primary_key.columns)
    slice_ = sa.select(*key).where(condition).limit(SLICE_ROWS)
    statement = sa.delete(table).where(sa.tuple_(*key).in_(slice_))
    total = 0
    while deleted := await database.submit(lambda connection: connection.execute(statement).rowcount):
        total += deleted
    return total


async def prune(
    database: Database,
    before: float,
    turns_before: float | None = None,
    usage_before: float | None = None,
) -> int:
    """Delete history that ended before ``before`` (seconds since 1970); returns how many rows.

    Goes: instances that exited before with all events that were numbered by
    them, and closed approvals; ended turns with their idempotency keys, which
    may have a limit of their own; figures of use from before ``usage_before``.
    Stays: sessions and everything that is open.
    """
    old_turn = sa.and_(
        sa.text(f"NOT ({OPEN_TURN})"), turns.c.ended_at < (before if turns_before is None else turns_before)
    )
    old_approval = sa.and_(sa.text(f"NOT ({OPEN_PERMISSION})"), permissions.c.asked_at < before)
    return (
        await _prune_instances(database, before)
        + await delete_in_slices(database, turns, old_turn)
        + await delete_in_slices(database, permissions, old_approval)
        + await _prune_usage(database, usage_before)
    )


async def _prune_usage(database: Database, before: float | None) -> int:
    if before is None:
        return 0
    # By whole days, which is how they are asked for.
    return await delete_in_slices(database, usage, usage.c.day < int(before // _DAY_SECONDS))


async def _prune_instances(database: Database, before: float) -> int:
    """One instance after the other, by the key of the log: a search through the log would hold up commits."""
    total = 0
    while rows := await database.fetch(_old_instances(before)):
        for row in rows:
            numbered = sa.and_(events.c.session == row["session"], events.c.ordinal <= row["ordinal"])
            total += await delete_in_slices(database, events, numbered)
        gone = instances.c.instance_id.in_([row["instance_id"] for row in rows])
        total += await delete_in_slices(database, instances, gone)
    return total


def _old_instances(before: float) -> sa.Select[tuple[str, int, int]]:
    """Instances whose events are all older than ``before``, the oldest first.

    The log itself has no clock. What the server adds is numbered by the last
    instance until the next one begins, so its events are as old as that
    begin; without a next one, as old as the session's last activity.
    """
    following = instances.alias("following")
    next_began = (
        sa.select(sa.func.min(following.c.started_at))
        .where(following.c.session == instances.c.session, following.c.ordinal > instances.c.ordinal)
        .scalar_subquery()
    )
    return (
        sa.select(instances.c.instance_id, instances.c.session, instances.c.ordinal)
        .join(sessions, sessions.c.id == instances.c.session)
        .where(
            instances.c.state == "exited",
            instances.c.exited_at < before,
            sa.func.coalesce(next_began, sessions.c.last_active_at) < before,
        )
        .order_by(instances.c.exited_at)
        .limit(_INSTANCES_AT_A_TIME)
    )
