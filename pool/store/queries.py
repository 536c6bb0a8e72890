"""The select statements of the store, without a connection."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from pool.model import Cursor, SessionId, SessionKey, SessionState, TurnId, UserId
from pool.store.tables import (
    OPEN_INSTANCE,
    OPEN_PERMISSION,
    OPEN_TURN,
    events,
    instances,
    permissions,
    sessions,
    turns,
)

_NOT_ARCHIVED = sessions.c.state != SessionState.ARCHIVED.value


def _is_key(key: SessionKey) -> sa.ColumnElement[bool]:
    return sa.and_(sessions.c.user_id == key.user_id, sessions.c.session_id == key.session_id)


def _row_id(key: SessionKey) -> sa.ScalarSelect[Any]:
    return sa.select(sessions.c.id).where(_is_key(key)).scalar_subquery()


def _with_key(table: sa.Table) -> sa.Select[Any]:
    return sa.select(table, sessions.c.user_id, sessions.c.session_id).join(
        sessions, sessions.c.id == table.c.session
    )


def session(key: SessionKey) -> sa.Select[Any]:
    """One session."""
    return sa.select(sessions).where(_is_key(key))


def sessions_of(
    user_id: UserId, search: str, include_archived: bool, limit: int, after: SessionId | None
) -> sa.Select[Any]:
    """A page of a user's sessions, last active first."""
    statement = sa.select(sessions).where(sessions.c.user_id == user_id)
    if not include_archived:
        statement = statement.where(_NOT_ARCHIVED)
    if search:
        statement = statement.where(
            sessions.c.title.icontains(search, autoescape=True)
            | sessions.c.session_id.icontains(search, autoescape=True)
        )
    if after is not None:
        last = sessions.alias("last")
        seen = (
            sa.select(last.c.last_active_at)
            .where(last.c.user_id == user_id, last.c.session_id == after)
            .scalar_subquery()
        )
        statement = statement.where(
            (sessions.c.last_active_at < seen)
            | ((sessions.c.last_active_at == seen) & (sessions.c.session_id > after))
        )
    order = (sessions.c.last_active_at.desc(), sessions.c.session_id)
    return statement.order_by(*order).limit(max(0, limit))


def resumable(user_id: UserId, since: float) -> sa.Select[Any]:
    """The CLI's ids of a user's conversations that are not put away, or were used after ``since``."""
    return sa.select(sessions.c.cli_session, sessions.c.resume_from).where(
        sessions.c.user_id == user_id, _NOT_ARCHIVED | (sessions.c.last_active_at >= since)
    )


def count_sessions(user_id: UserId) -> sa.Select[Any]:
    """The number of a user's sessions that are not archived."""
    return (
        sa.select(sa.func.count()).select_from(sessions).where(sessions.c.user_id == user_id, _NOT_ARCHIVED)
    )


def exited_instances(key: SessionKey) -> sa.Select[Any]:
    """The instances of a session that have exited, by ordinal."""
    return (
        _with_key(instances).where(_is_key(key), instances.c.state == "exited").order_by(instances.c.ordinal)
    )


def turn_of_message(key: SessionKey, message_id: str) -> sa.Select[Any]:
    """The turn that was made from a message."""
    return _with_key(turns).where(_is_key(key), turns.c.message_id == message_id)


def message_ids(key: SessionKey) -> sa.Select[Any]:
    """Every message id of a session."""
    joined = turns.join(sessions, turns.c.session == sessions.c.id)
    known = sa.select(turns.c.message_id).select_from(joined)
    return known.where(_is_key(key), turns.c.message_id.is_not(None))


def turn(key: SessionKey, turn_id: TurnId) -> sa.Select[Any]:
    """A turn by its id, if it is of this session."""
    return _with_key(turns).where(_is_key(key), turns.c.turn_id == turn_id)


def next_turn_number(key: SessionKey) -> sa.Select[Any]:
    """One above the highest turn number; 1 for a session without turns."""
    return sa.select(sa.func.coalesce(sa.func.max(turns.c.number), 0) + 1).where(
        turns.c.session == _row_id(key)
    )


def events_between(
    key: SessionKey, after: Cursor | None, before: Cursor | None, limit: int, newest_first: bool
) -> sa.Select[Any]:
    """A window of the log, both ends exclusive."""
    place = (events.c.ordinal, events.c.offset, events.c.k)
    statement = sa.select(*place, events.c.body).where(events.c.session == _row_id(key))
    if after is not None:
        statement = statement.where(sa.tuple_(*place) > sa.tuple_(after.ordinal, after.offset, after.k))
    if before is not None:
        statement = statement.where(sa.tuple_(*place) < sa.tuple_(before.ordinal, before.offset, before.k))
    order = [column.desc() for column in place] if newest_first else list(place)
    return statement.order_by(*order).limit(max(0, limit))


def open_sessions() -> sa.Select[Any]:
    """Every session with open work. The conditions are those of the partial indexes."""
    busy = sa.union(
        sa.select(instances.c.session).where(sa.text(OPEN_INSTANCE)),
        sa.select(turns.c.session).where(sa.text(OPEN_TURN)),
        sa.select(permissions.c.session).where(sa.text(OPEN_PERMISSION)),
    )
    return sa.select(sessions).where(sessions.c.id.in_(busy)).order_by(sessions.c.id)


def open_instances() -> sa.Select[Any]:
    """All instances that have not exited, by ordinal."""
    return _with_key(_open(instances, OPEN_INSTANCE)).order_by(sa.text("ordinal"))


def open_turns() -> sa.Select[Any]:
    """All turns that have not ended, by number."""
    return _with_key(_open(turns, OPEN_TURN)).order_by(sa.text("number"))


def open_permissions() -> sa.Select[Any]:
    """All approvals that are not closed, in the order in which they were asked."""
    order = sa.text("cursor_ordinal, cursor_offset, cursor_k, request_id")
    return _with_key(_open(permissions, OPEN_PERMISSION)).order_by(order)


def _open(table: sa.Table, condition: str) -> Any:
    # In a subquery of its own: beside the sessions' own column the word "state" would be ambiguous.
    return sa.select(table).where(sa.text(condition)).subquery("open_rows")
